"""JPEG files: what is cut off before a decoder sees them, and the short way to their pixels.

ITU-T T.81, annex B. Nearly every JPEG holds an 8-bit grey or colour picture with nothing unusual
around it. Pillow's decoder writes such a picture straight into memory that NumPy reads. Its plugin
would parse the header a second time, in Python, and the pixels would have to be copied out of its
image while Python's lock is held. They are the same, bit for bit: libjpeg-turbo computes them
either way.
"""

import re
import struct
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from app.inference.image_errors import BrokenImage, reading
from app.inference.tiff import exif_orientation

Photo = npt.NDArray[np.uint8]

MAX_SEGMENTS: Final = 65_536

MAX_SCANS: Final = 100
"""libtiff's limit too. Encoders write about ten."""

# A marker is 0xff and a code. 0 escapes a 0xff among compressed data, 0xd0 to 0xd7 restart it.
_MARKER: Final = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_START_OF_SCAN: Final = 0xDA
_END_OF_IMAGE: Final = 0xD9
_WITHOUT_CONTENT: Final = (0x01, 0xD8)
_EXIF_SEGMENT: Final = 0xE1
# Application segments and comments, but for JFIF and Adobe: those two tell the colour space.
_METADATA: Final = frozenset({*range(0xE1, 0xF0), 0xFE}) - {0xEE}

# Starts of frames are 0xc0 to 0xcf, but for tables and an extension.
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL: Final = (0xC0, 0xC1)
_PLAIN: Final = (0xC0, 0xC1, 0xC2)
"""Baseline, extended and progressive, compressed by Huffman's codes."""


class Jpeg(NamedTuple):
    """A JPEG file without metadata and previews.

    Attributes:
        data: The file.
        orientation: The EXIF orientation that was cut off, 1 to 8.
        size: Width and height as stored, if `decode` reads the file; otherwise None.
    """

    data: bytes
    orientation: int
    size: tuple[int, int] | None


class _Frame(NamedTuple):
    """The head of a start-of-frame segment; 1 component is grey, 3 are YCbCr or RGB, 4 CMYK."""

    code: int
    bits: int
    height: int
    width: int
    components: int

    @property
    def is_plain(self) -> bool:
        grey_or_colour = self.bits == 8 and self.components in (1, 3)
        return self.code in _PLAIN and grey_or_colour and self.width > 0 < self.height


def trim(data: bytes) -> Jpeg:
    """Cut a file down to what its pixels need, in time and memory linear in its length.

    Raises:
        BrokenImage: It has more segments or scans than any encoder writes.
    """
    kept = []
    keep_from = 0
    orientation = 1
    seen_exif = False
    frame = None
    size = None
    scans = 0
    # Whether each segment begins where the one before it ends. Then every reader sees the same
    # ones; about what lies in between, they may differ.
    in_order = True
    position = 2
    for _ in range(MAX_SEGMENTS):
        marker = _MARKER.search(data, position)
        if marker is None:
            break
        code = marker[1][0]
        in_order = in_order and marker.start() == position
        position = marker.end()
        if code == _END_OF_IMAGE:
            # Behind it lie an MPO's further pictures or a phone's video.
            data = data[:position]
            break
        if code in _WITHOUT_CONTENT:
            continue
        length = int.from_bytes(data[position : position + 2])
        in_order = in_order and length >= 2
        content, position = position + 2, position + max(length, 2)
        if code in _METADATA:
            if code == _EXIF_SEGMENT and not seen_exif and data.startswith(b"Exif\0\0", content):
                seen_exif = True
                orientation = exif_orientation(data[content:position])
            kept.append(data[keep_from : marker.start()])
            keep_from = position
        elif code in _FRAMES and frame is None and content + 6 <= len(data):
            frame = _Frame(code, *struct.unpack_from(">BHHB", data, content))
        elif code == _START_OF_SCAN:
            scans += 1
            if scans > MAX_SCANS:
                raise BrokenImage(
                    f"The JPEG file has more than {MAX_SCANS} scans; save it anew as baseline."
                )
            if scans == 1 and frame is not None:
                if in_order and frame.is_plain:
                    size = frame.width, frame.height
                components = data[content : content + 1]
                if frame.code in _SEQUENTIAL and components == bytes((frame.components,)):
                    # The whole picture: libjpeg stops behind it, and refuses a second scan.
                    break
    else:
        raise BrokenImage(f"The JPEG file has more than {MAX_SEGMENTS:,} segments; save it anew.")
    kept.append(data[keep_from:])
    return Jpeg(b"".join(kept), orientation, size)


def decode(data: bytes, size: tuple[int, int], orientation: int) -> Photo:
    """Decode a file for which `trim` gave a size: RGB, HxWx3, C-contiguous, turned upright.

    Args:
        data: The file.
        size: Width and height as stored.
        orientation: EXIF's, 1 to 8.

    Raises:
        BrokenImage: The file is damaged or cut short.
    """
    width, height = size
    # Four bytes a pixel, the last unused: Pillow shares memory in this mode, but not in RGB.
    padded = np.empty((height, width), np.uint32)
    image = Image.frombuffer("RGBX", size, padded, "raw", "RGBX", 0, 1)
    with reading("JPEG"):
        image.frombytes(data, "jpeg", "RGBX", "")
    return _without_padding(_upright(padded, orientation))


def _upright(pixels: npt.NDArray[np.uint32], orientation: int) -> npt.NDArray[np.uint32]:
    """Undo an EXIF orientation (Exif 3.0, 4.6.5.1.6) of pixels, HxW; returns a view."""
    if orientation >= 5:
        pixels = pixels.T
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _without_padding(pixels: npt.NDArray[np.uint32]) -> Photo:
    """Copy pixels of four bytes, HxW, to pixels of three, HxWx3: drop each one's last byte."""
    height, width = pixels.shape
    # Items of four bytes that lie three apart: NumPy writes them in order, so that each one's
    # last byte is overwritten by the next one's first. Copying pixels[..., :3] would take ten
    # times as long, and Pillow's own copy would keep other threads of Python waiting.
    memory = np.empty(height * width * 3 + 1, np.uint8)
    np.ndarray((height, width), np.uint32, memory.data, 0, (3 * width, 3))[...] = pixels
    return memory[:-1].reshape(height, width, 3)
