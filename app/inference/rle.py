"""COCO run-length encoding of label maps.

A mask is read column by column; its counts are the lengths of alternating runs, starting with
the zeros (so the first count is 0 if the first pixel is set). The compressed string, the boxes
and the areas are exactly those of pycocotools (`maskApi.c`, https://github.com/cocodataset/cocoapi),
but all classes come from one pass over the label map instead of one pass a class.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from model.classes import VOID

Counts = npt.NDArray[np.int64]

# The compressed string: each count is cut into groups of five bits, lowest first; bit 5 of a
# character says that more follow, and 48 makes it printable.
_GROUP_BITS: Final = 5
_GROUP_MASK: Final = 0x1F
_SIGN_BIT: Final = 0x10
_MORE: Final = 0x20
_FIRST_CHARACTER: Final = 48

_MAX_GROUPS: Final = 7
"""Groups a count may have: 34 bits and a sign, more pixels than any image has."""


@dataclass(frozen=True, eq=False)
class ClassRuns:
    """The mask of one class.

    Attributes:
        class_id: Index of the class.
        area: Number of pixels.
        bbox: Left, top, width and height of the tightest box around it, in pixels.
        counts: Run lengths, zeros first; they add up to height x width.
    """

    class_id: int
    area: int
    bbox: tuple[int, int, int, int]
    counts: Counts


def encode_runs(
    label_map: npt.NDArray[np.uint8], *, classes: Collection[int] | None = None
) -> list[ClassRuns]:
    """Return the masks of the classes that are present, by index; void is no class.

    Args:
        label_map: Labels, HxW.
        classes: Leave out all others.

    Raises:
        ValueError: Not HxW uint8, or no pixels.
    """
    if label_map.ndim != 2 or label_map.dtype != np.uint8 or label_map.size == 0:
        raise ValueError(
            f"expected a label map, HxW uint8 with at least one pixel, got {label_map.dtype} "
            f"of shape {label_map.shape}"
        )
    height = label_map.shape[0]
    columns = label_map.T.ravel()
    starts = np.concatenate(([0], np.flatnonzero(columns[1:] != columns[:-1]) + 1))
    ends = np.append(starts[1:], columns.size)
    labels = columns[starts]

    # A stable sort gathers each class's runs and keeps them in reading order; everything below
    # is then one pass over all runs, with `firsts` marking where the next class begins.
    order = np.argsort(labels, kind="stable")
    starts, ends = starts[order], ends[order]
    class_ids, firsts = np.unique(labels[order], return_index=True)
    lasts = np.append(firsts[1:], order.size) - 1

    lengths = ends - starts
    gaps = starts.copy()
    gaps[1:] -= ends[:-1]
    gaps[firsts] = starts[firsts]
    counts = np.stack((gaps, lengths), axis=1).ravel()
    tails = columns.size - ends[lasts]

    # A run that goes on into the next column touches the lowest and the highest row.
    left, right = starts // height, (ends - 1) // height
    wraps = left != right
    lefts, widths = left[firsts], right[lasts] - left[firsts] + 1
    tops = np.minimum.reduceat(np.where(wraps, 0, starts % height), firsts)
    bottoms = np.maximum.reduceat(np.where(wraps, height - 1, (ends - 1) % height), firsts)
    areas = np.add.reduceat(lengths, firsts)

    masks = []
    for i, class_id in enumerate(class_ids.tolist()):
        if class_id == VOID or (classes is not None and class_id not in classes):
            continue
        own = counts[2 * firsts[i] : 2 * lasts[i] + 2]
        masks.append(
            ClassRuns(
                class_id=class_id,
                area=int(areas[i]),
                bbox=(int(lefts[i]), int(tops[i]), int(widths[i]), int(bottoms[i] - tops[i]) + 1),
                counts=np.append(own, tails[i]) if tails[i] else own,
            )
        )
    return masks


def compress(counts: npt.NDArray[Any]) -> str:
    """Return COCO's compressed string of run lengths (`rleToString`)."""
    values = np.asarray(counts, dtype=np.int64)
    if values.size == 0:
        return ""
    # From the fourth on, a count is written as its difference to the one before the last.
    deltas = values.copy()
    deltas[3:] -= values[1:-2]

    # One row a count, one column a group: enough columns for the longest count and its sign.
    longest = max(int(deltas.max()).bit_length(), int(deltas.min()).bit_length()) + 1
    shifts = np.arange(0, longest, _GROUP_BITS)
    rest = deltas[:, np.newaxis] >> shifts
    # A count ends at the group beyond which there is only that group's own sign, extended.
    more = (rest + _SIGN_BIT) >> _GROUP_BITS != 0
    characters = ((rest & _GROUP_MASK) + more * _MORE + _FIRST_CHARACTER).astype(np.uint8)
    written = np.ones_like(more)
    written[:, 1:] = more[:, :-1]
    return str(characters[written].tobytes(), "ascii")


def decompress(text: str) -> Counts:
    """Return the run lengths that `text`, COCO's compressed string, stands for.

    Raises:
        ValueError: Not such a string, or a run length below zero.
    """
    characters = np.frombuffer(text.encode(), np.uint8).astype(np.int64)
    codes = characters - _FIRST_CHARACTER
    if codes.size == 0:
        return codes
    if codes.min() < 0 or codes.max() > _GROUP_MASK + _MORE:
        raise ValueError("COCO RLE holds a character outside '0' to 'o'")
    if codes[-1] & _MORE:
        raise ValueError("COCO RLE ends in the middle of a count")

    lasts = np.flatnonzero(codes & _MORE == 0)
    firsts = np.append(0, lasts[:-1] + 1)
    lengths = lasts - firsts + 1
    if lengths.max() > _MAX_GROUPS:
        raise ValueError("COCO RLE holds a count that is longer than any image")
    places = np.arange(codes.size) - np.repeat(firsts, lengths)
    values = np.add.reduceat((codes & _GROUP_MASK) << (_GROUP_BITS * places), firsts)
    negative = codes[lasts] & _SIGN_BIT != 0
    values[negative] -= np.int64(1) << (_GROUP_BITS * lengths[negative])

    # Undo the differences: counts 1, 3, 5, ... and 2, 4, 6, ... are two running sums.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    if values.min() < 0:
        raise ValueError("COCO RLE holds a run length below zero")
    return values


def decode_runs(counts: npt.ArrayLike, height: int, width: int) -> npt.NDArray[np.bool_]:
    """Return the mask, HxW, that run lengths stand for.

    Raises:
        ValueError: A length is below zero, or they do not add up to height x width.
    """
    lengths = np.asarray(counts, dtype=np.int64)
    if lengths.size and lengths.min() < 0:
        raise ValueError("a run length is below zero")
    if lengths.sum() != height * width:
        raise ValueError(f"run lengths add up to {lengths.sum()}, not to {height} x {width} pixels")
    columns = np.repeat(np.arange(lengths.size) % 2 == 1, lengths)
    return np.ascontiguousarray(columns.reshape(width, height).T)
