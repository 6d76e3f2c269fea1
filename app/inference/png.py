"""A small PNG writer for label maps, masks and photos.

Pillow deflates with zlib and tries every row filter, which takes longer than a forward pass on a
GPU. This one filters every row by subtracting the row above (PNG's filter type 2, "up"), which
turns the insides of segments into zeros, and deflates with Intel ISA-L. Format: W3C PNG
specification, third edition, https://www.w3.org/TR/png-3/.
"""

import itertools
import struct
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from model.classes import RGB

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_GREY: Final = 0
_TRUECOLOUR: Final = 2
_INDEXED: Final = 3
_FILTER_UP: Final = 2

_LEVEL: Final = 1
"""ISA-L's levels 2 and 3 are up to ten times slower here and save at most two percent."""


def encode_palette_png(
    label_map: npt.NDArray[np.uint8],
    palette: Sequence[RGB],
    *,
    transparent: int | None = None,
) -> bytes:
    """Encode a label map as a palette PNG (Pillow's mode P): palette index = label.

    Args:
        label_map: Labels, HxW, at least 1x1.
        palette: Colour of label 0, 1, ...; at most 256. Labels past its end are black.
        transparent: Label that viewers show as transparent (a `tRNS` chunk), if it is there.

    Raises:
        ValueError: Not HxW uint8, no pixels, or more than 256 colours.
    """
    _check(label_map, dimensions=2)
    if len(palette) > 256:
        raise ValueError(f"a PNG palette has at most 256 colours, not {len(palette)}")
    # An index without an entry is an error to PNG readers.
    highest = int(label_map.max())
    entries = bytes(itertools.chain.from_iterable(palette)).ljust(3 * (highest + 1), b"\0")
    extra = _chunk(b"PLTE", entries)
    # Void, 255, would take a palette of 1 kB where it is not. Whether a label is above the highest
    # costs nothing; to look for it takes four times as long as to find the highest.
    if transparent is not None and transparent <= highest:
        # Entries that tRNS does not reach are opaque.
        extra += _chunk(b"tRNS", b"\xff" * transparent + b"\x00")
    return _encode(label_map, _INDEXED, extra)


def encode_grey_png(values: npt.NDArray[np.uint8]) -> bytes:
    """Encode grey values, HxW, as an 8-bit grey PNG (Pillow's mode L).

    Raises:
        ValueError: Not HxW uint8, or no pixels.
    """
    _check(values, dimensions=2)
    return _encode(values, _GREY)


def encode_rgb_png(photo: npt.NDArray[np.uint8]) -> bytes:
    """Encode a photo, HxWx3 RGB, as an 8-bit truecolour PNG (Pillow's mode RGB).

    Raises:
        ValueError: Not HxWx3 uint8, or no pixels.
    """
    _check(photo, dimensions=3)
    return _encode(photo, _TRUECOLOUR)


def _check(pixels: npt.NDArray[Any], dimensions: int) -> None:
    # ISA-L would happily deflate any buffer; a reader could not make sense of it.
    fits = pixels.ndim == dimensions and (dimensions == 2 or pixels.shape[2] == 3)
    if not fits or pixels.dtype != np.uint8 or pixels.size == 0:
        expected = "HxW" if dimensions == 2 else "HxWx3"
        raise ValueError(
            f"expected {expected} uint8 with at least one pixel, got {pixels.dtype} "
            f"of shape {pixels.shape}"
        )


def _encode(pixels: npt.NDArray[np.uint8], colour_type: int, extra: bytes = b"") -> bytes:
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    # A scanline is its filter's number, then its bytes.
    scanlines = np.empty((height, rows.shape[1] + 1), np.uint8)
    scanlines[:, 0] = _FILTER_UP
    scanlines[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=scanlines[1:, 1:])
    # Width, height, 8 bits a channel, colour type, deflate, adaptive filters, not interlaced.
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    return b"".join(
        (
            _SIGNATURE,
            _chunk(b"IHDR", header),
            extra,
            _chunk(b"IDAT", isal_zlib.compress(scanlines, _LEVEL)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = isal_zlib.crc32(content, isal_zlib.crc32(kind))
    return b"".join((struct.pack(">I", len(content)), kind, content, struct.pack(">I", checksum)))
