"""COCO run-length encoding of label maps.

A mask is read column by column; its counts are the lengths of alternating runs, starting with
the zeros (so the first count is 0 if the first pixel is set). The compressed string, the boxes
and the areas are exactly those of pycocotools (`maskApi.c`, https://github.com/cocodataset/cocoapi),
but all classes come from one pass over the label map instead of one pass a class.
"""

import itertools
from collections.abc import Collection, Sequence
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
    height, width = label_map.shape
    # Where runs begin, if the map is read column by column. Sorting these few places by column
    # (a radix sort, on so small numbers) is faster than turning the whole map.
    begins = np.empty((height, width), np.bool_)
    begins[0, 0] = True
    np.not_equal(label_map[1:], label_map[:-1], out=begins[1:])
    np.not_equal(label_map[0, 1:], label_map[-1, :-1], out=begins[0, 1:])
    places = np.flatnonzero(begins)
    columns = (places % width).astype(np.min_scalar_type(width - 1))
    places = places[np.argsort(columns, kind="stable")]
    labels = label_map.ravel()[places]
    tops = places // width
    lefts = places - tops * width
    starts = lefts * height + tops
    ends = np.append(starts[1:], label_map.size)

    # A stable sort gathers each class's runs and keeps them in reading order; everything below
    # is then one pass over all runs, with `firsts` marking where the next class begins.
    order = np.argsort(labels, kind="stable")
    starts, ends, tops, lefts = starts[order], ends[order], tops[order], lefts[order]
    runs = np.bincount(labels)
    class_ids = np.flatnonzero(runs)
    stops = np.cumsum(runs[class_ids])
    firsts, lasts = stops - runs[class_ids], stops - 1

    pairs = np.empty((starts.size, 2), np.int64)
    gaps, lengths = pairs[:, 0], pairs[:, 1]
    np.subtract(starts[1:], ends[:-1], out=gaps[1:])
    gaps[firsts] = starts[firsts]
    np.subtract(ends, starts, out=lengths)
    tails = label_map.size - ends[lasts]
    counts = np.insert(pairs.ravel(), 2 * stops, tails)
    counts_from = 2 * firsts + np.arange(firsts.size)
    counts_to = counts_from + 2 * (stops - firsts) + (tails > 0)

    # A run that goes on into the next column touches the lowest and the highest row.
    bottoms = tops + lengths
    rights = lefts[lasts] + (bottoms[lasts] - 1) // height
    wraps = bottoms > height
    tops[wraps], bottoms[wraps] = 0, height
    areas = np.add.reduceat(lengths, firsts)
    x, y = lefts[firsts], np.minimum.reduceat(tops, firsts)
    widths, heights = rights - x + 1, np.maximum.reduceat(bottoms, firsts) - y

    rows = (class_ids, areas, x, y, widths, heights, counts_from, counts_to)
    return [
        ClassRuns(class_id, area, (left, top, wide, high), counts[first:stop])
        for class_id, area, left, top, wide, high, first, stop in np.stack(rows, axis=1).tolist()
        if class_id != VOID and (classes is None or class_id in classes)
    ]


def compress(counts: npt.NDArray[Any]) -> str:
    """Return COCO's compressed string of run lengths (`rleToString`)."""
    return compress_each([counts])[0]


def compress_each(masks: Sequence[npt.NDArray[Any]]) -> list[str]:
    """Return COCO's compressed string of the run lengths of each mask, in one pass over all."""
    sizes = [counts.size for counts in masks]
    if not sum(sizes):
        return [""] * len(masks)
    values = np.concatenate(masks, dtype=np.int64)
    # From the fourth on, a count is written as its difference to the one before the last.
    rest: npt.NDArray[np.int64] = values.copy()
    rest[3:] -= values[1:-2]
    for start in itertools.accumulate(sizes[:-1], initial=0):
        rest[start : start + 3] = values[start : start + 3]

    # A count ends at the group beyond which there is only that group's own sign, extended:
    # x and ~x need as many.
    magnitudes = rest ^ (rest >> 63)
    groups: npt.NDArray[np.uint8] = np.ones(rest.size, np.uint8)
    limit, longest = _SIGN_BIT, int(magnitudes.max())
    while longest >= limit:
        groups += magnitudes >= limit
        limit <<= _GROUP_BITS

    # The first group of every count, then the second of those that have one, and so on.
    ends = np.cumsum(groups, dtype=np.intp)
    written = np.empty(int(ends[-1]), np.uint8)
    places = ends - groups
    while rest.size:
        more = groups > 1
        characters = rest.astype(np.uint8) & np.uint8(_GROUP_MASK)
        characters += np.uint8(_FIRST_CHARACTER)
        characters += more * np.uint8(_MORE)
        written[places] = characters
        longer = np.flatnonzero(more)
        rest = rest[longer] >> _GROUP_BITS
        places, groups = places[longer] + 1, groups[longer] - np.uint8(1)

    text = str(written.data, "ascii")
    stops = [int(ends[stop - 1]) if stop else 0 for stop in itertools.accumulate(sizes)]
    return [text[start:stop] for start, stop in itertools.pairwise([0, *stops])]


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
