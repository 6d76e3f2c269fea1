"""TIFF's directory of tags, in image files and in EXIF data.

Adobe TIFF 6.0, section 2, and BigTIFF, https://www.awaresystems.be/imaging/tiff/bigtiff.html.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from app.inference.image_errors import BrokenImage

MAX_VALUES: Final = 65_536
"""Tags, and values of one tag: above all, strips or tiles. Four bytes of file announce each."""

MAX_TILE_PIXELS: Final = 4096 * 4096
"""A tile is decoded whole, however small the image."""

_SHORT: Final = 3
_LONG: Final = 4
_BYTES_OF_TYPE: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 16: 8}
_ORIENTATION: Final = 274
_TILE_WIDTH: Final = 322
_TILE_LENGTH: Final = 323
# Size, samples, compression, strips or tiles, palette, JPEG tables, YCbCr.
_PIXEL_TAGS: Final = frozenset(
    {*range(256, 260), 262, 266, 273, *range(277, 280), 284, 292, 293, 317, 320}
    | {*range(322, 326), 338, 339, 347, *range(512, 522), *range(529, 533)}
)


def exif_orientation(exif: bytes) -> int:
    """Return the orientation, 1 to 8, that EXIF data asks for (Exif 3.0, 4.6.5.1.6).

    1, upright, also where there is none or it cannot be read: a photo is worth showing even if
    its metadata is damaged.
    """
    tiff = exif.removeprefix(b"Exif\0\0")
    layout = _layout(tiff)
    if layout is None:
        return 1
    for tag in _tags(tiff, layout):
        if tag.id == _ORIENTATION:
            return _valid_orientation(layout.number(tag))
    return 1


def _valid_orientation(value: int) -> int:
    return value if 1 <= value <= 8 else 1


def first_image_only(data: bytes) -> tuple[bytes, int]:
    """Reduce a TIFF file to its first image and the tags that its pixels need.

    The shorter directory is written over the old one, so that no address changes.

    Returns:
        The file, and the orientation that its tags asked for, 1 to 8.

    Raises:
        BrokenImage: It is cut short, or it announces more strips or tiles, or larger tiles, than
            any program writes.
    """
    layout = _layout(data)
    if layout is None or layout.directory_at(data) >= len(data):
        raise BrokenImage("The TIFF file is cut short.")
    orientation = 1
    kept: dict[int, _Tag] = {}
    for tag in _tags(data, layout):
        if tag.id == _ORIENTATION:
            orientation = _valid_orientation(layout.number(tag))
        elif tag.id in _PIXEL_TAGS and tag.id not in kept:
            if tag.values > MAX_VALUES:
                raise BrokenImage(
                    f"The TIFF file has more than {MAX_VALUES:,} strips or tiles; save it anew."
                )
            if not layout.within(data, tag):
                raise BrokenImage("The TIFF file is cut short.")
            kept[tag.id] = tag
    if kept.keys() & {_TILE_WIDTH, _TILE_LENGTH}:
        width, length = (
            layout.number(kept[side]) if side in kept else 0 for side in (_TILE_WIDTH, _TILE_LENGTH)
        )
        # 0 is a number we cannot read, but that the decoder perhaps can.
        if not 0 < width * length <= MAX_TILE_PIXELS:
            raise BrokenImage(
                f"The TIFF file has tiles of {width} x {length} pixels; save it anew in strips."
            )
    directory = b"".join(
        (
            struct.pack(layout.tag_count, len(kept)),
            *(struct.pack(layout.tag, *kept[tag_id]) for tag_id in sorted(kept)),
            # No next directory.
            struct.pack(layout.offset, 0),
        )
    )
    start = layout.directory_at(data)
    return b"".join((data[:start], directory, data[start + len(directory) :])), orientation


class _Tag(NamedTuple):
    """A directory entry; `content` holds the values, or where they are if they do not fit."""

    id: int
    type: int
    values: int
    content: bytes


@dataclass(frozen=True)
class _Layout:
    """How a classic or a BigTIFF file writes its directory; struct formats with byte order."""

    order: str
    tag_count: str
    tag: str
    offset: str
    offset_at: int

    def directory_at(self, data: bytes) -> int:
        """Return where the first directory begins, according to the header."""
        (start,) = struct.unpack_from(self.offset, data, self.offset_at)
        return int(start)

    def number(self, tag: _Tag) -> int:
        """Return the value of a tag that holds one SHORT or LONG, else 0."""
        formats = {_SHORT: "H", _LONG: "I"}
        if tag.values != 1 or tag.type not in formats:
            return 0
        (value,) = struct.unpack_from(self.order + formats[tag.type], tag.content)
        return int(value)

    def within(self, data: bytes, tag: _Tag) -> bool:
        """Return whether the file reaches to the end of a tag's values."""
        size = tag.values * _BYTES_OF_TYPE.get(tag.type, 0)
        if size <= len(tag.content):
            return True
        (start,) = struct.unpack(self.offset, tag.content)
        return int(start) + size <= len(data)


def _layout(data: bytes) -> _Layout | None:
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 16:
        return None
    (version,) = struct.unpack_from(order + "H", data, 2)
    if version == 42:
        return _Layout(order, order + "H", order + "HHI4s", order + "I", offset_at=4)
    if version == 43:
        return _Layout(order, order + "Q", order + "HHQ8s", order + "Q", offset_at=8)
    return None


def _tags(data: bytes, layout: _Layout) -> Iterator[_Tag]:
    """Yield the tags of the first directory, as far as the file goes."""
    start = layout.directory_at(data)
    first = start + struct.calcsize(layout.tag_count)
    if first > len(data):
        return
    (count,) = struct.unpack_from(layout.tag_count, data, start)
    size = struct.calcsize(layout.tag)
    # BigTIFF has 64 bits for the count.
    count = min(count, MAX_VALUES, (len(data) - first) // size)
    for fields in struct.iter_unpack(layout.tag, data[first : first + count * size]):
        yield _Tag(*fields)
