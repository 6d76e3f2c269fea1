"""Cuts an image file down to what its pixels need, before a decoder sees it.

A photo's cost should lie in its pixels, which have a limit. But decoders also read everything
around them, and a small file can make that dear: 70 kB of compressed PNG text unpack to 64 MB, a
JPEG's EXIF segments are joined in quadratic time, each of a progressive JPEG's scans passes over
all pixels, a GIF's first frame allocates before anyone could ask for its size, and each strip of
a TIFF, of which four bytes announce one, becomes an object. So text, colour profiles, previews
and further frames are left out here, in time and memory linear in the file's length, and counts
that no camera or program writes are refused. What comes out is again a file of the same format.

Damage is none of this module's business where it can leave it to the decoder: a file that ends
too early is passed on as far as it goes.
"""

import struct
from dataclasses import dataclass
from typing import Final

from app.inference.image_errors import BrokenImage, UnknownFormat
from app.inference.jpeg import trim
from app.inference.tiff import exif_orientation, first_image_only

MAX_PARTS: Final = 65_536
"""Chunks or blocks in a file. A 100-megapixel PNG has about 40,000 chunks."""


@dataclass(frozen=True)
class Container:
    """An image file without anything but its first picture.

    Attributes:
        format: One of `FORMATS`.
        data: The file.
        orientation: The EXIF orientation that was cut off, 1 to 8; None where it is still inside.
        canvas: Width and height, where the decoder allocates before it tells them.
        jpeg_size: Width and height as stored, where `jpeg.decode` reads the file.
    """

    format: str
    data: bytes
    orientation: int | None = None
    canvas: tuple[int, int] | None = None
    jpeg_size: tuple[int, int] | None = None


FORMATS: Final = ("JPEG", "PNG", "WebP", "BMP", "TIFF", "GIF", "AVIF")
"""The formats that are read; MPO counts as JPEG."""


def open_container(data: bytes) -> Container:
    """Recognise a file by its first bytes and cut it down.

    Raises:
        UnknownFormat: It begins like none of `FORMATS`.
        BrokenImage: It has more parts than any real file, or is a run-length encoded BMP.
    """
    match sniff(data):
        case "JPEG":
            jpeg = trim(data)
            return Container("JPEG", jpeg.data, jpeg.orientation, jpeg_size=jpeg.size)
        case "PNG":
            return _png(data)
        case "GIF":
            return _gif(data)
        case "TIFF":
            return Container("TIFF", *first_image_only(data))
        case "WebP":
            return Container("WebP", data, canvas=_webp_canvas(data))
        case "BMP":
            return _bmp(data)
        case None:
            raise UnknownFormat(
                f"The file is not an image of a known format; known are {', '.join(FORMATS)}."
            )
        case other:
            return Container(other, data)


def sniff(data: bytes) -> str | None:
    """Return which of `FORMATS` the bytes begin like, or None."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    if data.startswith(b"BM"):
        return "BMP"
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data[4:8] == b"ftyp":
        # The file type box: length, "ftyp", the major brand, a version, more brands.
        end = min(int.from_bytes(data[:4]), 256)
        brands = {data[start : start + 4] for start in range(8, end, 4)}
        return "AVIF" if brands & {b"avif", b"avis"} else None
    return None


def _refuse_parts(format_: str, parts: str) -> BrokenImage:
    return BrokenImage(f"The {format_} file has more than {MAX_PARTS:,} {parts}; save it anew.")


# PNG: https://www.w3.org/TR/png-3/, chapter 5.

_PNG_SIGNATURE_BYTES: Final = 8
_PNG_PIXEL_CHUNKS: Final = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})


def _png(data: bytes) -> Container:
    kept = [data[:_PNG_SIGNATURE_BYTES]]
    orientation = 1
    position = _PNG_SIGNATURE_BYTES
    for _ in range(MAX_PARTS):
        kind = data[position + 4 : position + 8]
        # Length, kind, content, checksum.
        end = position + 12 + int.from_bytes(data[position : position + 4])
        if kind in _PNG_PIXEL_CHUNKS:
            kept.append(data[position:end])
        elif kind == b"eXIf":
            orientation = exif_orientation(data[position + 8 : end - 4])
        position = end
        if kind == b"IEND" or position >= len(data):
            return Container("PNG", b"".join(kept), orientation)
    raise _refuse_parts("PNG", "chunks")


# GIF: https://www.w3.org/Graphics/GIF/spec-gif89a.txt.

_GIF_HEADER_BYTES: Final = 13
_HAS_COLOUR_TABLE: Final = 0x80
_EXTENSION: Final = b"!"
_IMAGE: Final = b","
_GRAPHIC_CONTROL: Final = 0xF9
_GRAPHIC_CONTROL_BYTES: Final = 8
_DISPOSAL: Final = 0x1C
_MAX_GIF_SIDE: Final = 65_535


def _gif(data: bytes) -> Container:
    if len(data) < _GIF_HEADER_BYTES:
        return Container("GIF", data)
    flags = data[10]
    position = _GIF_HEADER_BYTES
    if flags & _HAS_COLOUR_TABLE:
        position += 3 << (flags & 7) + 1
    header = bytearray(data[:position])
    control = bytearray()
    parts = 0
    while data[position : position + 1] == _EXTENSION:
        start = position
        position += 2
        # Sub-blocks, each led by its length, up to an empty one.
        while length := data[position] if position < len(data) else 0:
            position += 1 + length
            parts += 1
            if parts > MAX_PARTS:
                break
        position += 1
        parts += 1
        if parts > MAX_PARTS:
            raise _refuse_parts("GIF", "blocks before its first frame")
        if data[start + 1 : start + 2] == bytes([_GRAPHIC_CONTROL]):
            control = bytearray(data[start:position])

    frame = data[position : position + 10]
    if len(frame) == 10 and frame[:1] == _IMAGE:
        # A first frame larger than the screen enlarges it.
        screen = struct.unpack_from("<HH", header, 6)
        left, top, width, height = struct.unpack_from("<4H", frame, 1)
        size = max(screen[0], left + width), max(screen[1], top + height)
        if max(size) > _MAX_GIF_SIDE:
            raise BrokenImage("The GIF file's first frame lies outside its screen.")
        struct.pack_into("<HH", header, 6, *size)
    if len(control) == _GRAPHIC_CONTROL_BYTES:
        # How the frame is to be disposed of matters to the second only.
        control[3] &= ~_DISPOSAL & 0xFF
    return Container("GIF", bytes(header + control) + data[position:], orientation=1)


# WebP: RFC 9649.


def _webp_canvas(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X" and len(data) >= 30:
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and len(data) >= 30:
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


# BMP: https://learn.microsoft.com/windows/win32/gdi/bitmap-header-types.

# The one header without a compression field: Windows 2's and OS/2 1's.
_BMP_CORE_HEADER_BYTES: Final = 12
_BMP_RUN_LENGTHS: Final = (1, 2)


def _bmp(data: bytes) -> Container:
    header_bytes = int.from_bytes(data[14:18], "little")
    compression = int.from_bytes(data[30:34], "little")
    if header_bytes != _BMP_CORE_HEADER_BYTES and compression in _BMP_RUN_LENGTHS:
        # Pillow decodes these in Python, a pixel at a time.
        raise BrokenImage(
            "The BMP file is run-length encoded, which is not read; save it uncompressed."
        )
    return Container("BMP", data)
