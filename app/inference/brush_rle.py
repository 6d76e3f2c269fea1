"""Label Studio's run-length encoding of brush masks.

A brush mask is an RGBA picture whose four channels all hold the mask, 0 or 255, pixel after pixel
and row by row. Its bytes are packed by `@thi.ng/rle-pack`
(https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack), a stream of bits: a header,
then for each run its length and its value. Bit for bit what
`label_studio_sdk.converter.brush.mask2rle` gives, but all classes come from one pass over the
label map.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from model.classes import VOID

_Bits = npt.NDArray[np.uint8]

_CHANNELS: Final = 4
_SET: Final = 255

# A run is one bit (1: a run, not single values), two bits that choose how long its length is, the
# length less 1, and the value.
_VALUE_BITS: Final = 8
_LENGTH_BITS: Final = (3, 4, 8, 16)
_RUN: Final = 1
_CHOICE_BITS: Final = 2
_LONGEST: Final = 1 << _LENGTH_BITS[-1]

_COUNT_BITS: Final = 32
_WORD_SIZE_BITS: Final = 5
_LENGTH_SIZE_BITS: Final = 4

_BLOCK_RUNS: Final = 1 << 15
"""Runs that are turned into bits at a time: each takes 32 bytes meanwhile, and a noisy label map
has as many as pixels."""


@dataclass(frozen=True, slots=True)
class BrushMask:
    """The mask of one class.

    Attributes:
        class_id: Index of the class.
        area: Number of pixels.
        rle: The packed mask; Label Studio wants it as a list of numbers.
    """

    class_id: int
    area: int
    rle: bytes


def encode_brush_masks(
    label_map: npt.NDArray[np.uint8], *, classes: Collection[int] | None = None
) -> list[BrushMask]:
    """Return the masks of the classes that are present, by index; void is no class.

    Args:
        label_map: Labels, HxW.
        classes: Leave out all others.

    Raises:
        ValueError: Not HxW uint8, no pixels, or more than the format can count (2^30 - 1).
    """
    if label_map.ndim != 2 or label_map.dtype != np.uint8 or label_map.size == 0:
        raise ValueError(
            f"expected a label map, HxW uint8 with at least one pixel, got {label_map.dtype} "
            f"of shape {label_map.shape}"
        )
    if label_map.size * _CHANNELS >= 1 << _COUNT_BITS:
        raise ValueError(f"{label_map.size} pixels are more than a brush mask can count")
    labels = label_map.ravel()
    begins = np.flatnonzero(labels[1:] != labels[:-1]) + 1
    starts = np.concatenate(([0], begins))
    ends = np.append(begins, labels.size)
    run_labels = labels[starts]
    # A stable sort gathers each class's runs and keeps them in reading order.
    order = np.argsort(run_labels, kind="stable")
    starts, ends = starts[order], ends[order]
    counts = np.bincount(run_labels)
    lasts = np.cumsum(counts)
    found = []
    for class_id in np.flatnonzero(counts).tolist():
        if class_id == VOID or (classes is not None and class_id not in classes):
            continue
        runs = slice(lasts[class_id] - counts[class_id], lasts[class_id])
        area = int((ends[runs] - starts[runs]).sum())
        rle = _pack(starts[runs], ends[runs], labels.size)
        found.append(BrushMask(class_id, area, rle))
    return found


def _pack(starts: npt.NDArray[np.intp], ends: npt.NDArray[np.intp], pixels: int) -> bytes:
    """Pack a mask that is set from each start to its end, both in pixels, and nowhere else."""
    edges = np.empty(2 * starts.size + 2, np.int64)
    edges[0], edges[-1] = 0, pixels
    edges[1:-1:2], edges[2:-1:2] = starts, ends
    lengths: npt.NDArray[np.int64] = np.diff(edges) * _CHANNELS
    values: npt.NDArray[np.int64] = np.zeros(lengths.size, np.int64)
    values[1::2] = _SET
    # Nothing before the first start, or behind the last end, where the mask reaches the border.
    values, lengths = values[lengths > 0], lengths[lengths > 0]
    choices = np.searchsorted([1 << bits for bits in _LENGTH_BITS[:-1]], lengths)
    # Longer runs than the longest that can be written are cut: whole ones, then the rest, which is
    # written like them however short it is.
    parts = (lengths + _LONGEST - 1) // _LONGEST
    lasts = np.cumsum(parts) - 1
    rest_lengths = lengths - (parts - 1) * _LONGEST
    lengths = np.full(int(parts.sum()), _LONGEST, np.int64)
    lengths[lasts] = rest_lengths
    values, choices = np.repeat(values, parts), np.repeat(choices, parts)

    packed: list[bytes] = []
    rest = _header(pixels * _CHANNELS)
    for first in range(0, lengths.size, _BLOCK_RUNS):
        block = slice(first, first + _BLOCK_RUNS)
        bits = np.concatenate((rest, _run_bits(lengths[block], values[block], choices[block])))
        whole = bits.size - bits.size % 8
        packed.append(np.packbits(bits[:whole]).tobytes())
        rest = bits[whole:]
    # The reference fills up with one to eight zeros: a whole byte where nothing is to be filled.
    packed.append(np.packbits(rest).tobytes() or b"\0")
    return b"".join(packed)


def _run_bits(
    lengths: npt.NDArray[np.int64],
    values: npt.NDArray[np.int64],
    choices: npt.NDArray[np.int64],
) -> _Bits:
    """Return the bits of runs, 1 or 0 each, one after another."""
    length_bits = np.array(_LENGTH_BITS)[choices]
    words = _RUN << _CHOICE_BITS | choices
    words = (words << length_bits | lengths - 1) << _VALUE_BITS | values
    widths = 1 + _CHOICE_BITS + length_bits + _VALUE_BITS
    # Up to 27 bits: the lowest of 32.
    bits = np.unpackbits(words.astype(">u4").view(np.uint8).reshape(-1, 4), axis=1)
    return bits[np.arange(32) >= 32 - widths[:, None]]


def _header(count: int) -> _Bits:
    """Return the bits of the header of `count` bytes."""
    text = f"{count:0{_COUNT_BITS}b}{_VALUE_BITS - 1:0{_WORD_SIZE_BITS}b}"
    text += "".join(f"{bits - 1:0{_LENGTH_SIZE_BITS}b}" for bits in _LENGTH_BITS)
    return np.frombuffer(text.encode(), np.uint8) - np.uint8(ord("0"))
