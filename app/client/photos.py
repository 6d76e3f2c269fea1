"""What callers have -> the bytes of an image file, read once and losslessly encoded."""

import io
import os
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

Photo = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | BinaryIO
    | Image.Image
    | NDArray[np.uint8]
)
"""A path, an image file's bytes, an open binary file, a Pillow image, or RGB pixels, HxWx3."""

_PNG_MODES: Final = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})
"""Of Pillow's modes: those that a PNG holds as they are."""

_NO_RANGE: Final = frozenset({"I", "F"})
"""Of Pillow's modes: those whose numbers do not say what is white."""

_FASTEST: Final = 1
"""zlib level: a photo's noise hardly shrinks at any, and sending it costs more than its bytes."""


def read_photo(photo: Photo) -> bytes:
    """Return the bytes of an image file.

    Files and bytes go as they are. Pixels become a PNG, which loses nothing. A Pillow image is
    taken as it lies in memory, so that its mask has its size: an EXIF orientation that nobody has
    applied to it is left out. An open file is read from where it stands and not closed.

    Raises:
        OSError: If the file cannot be read.
        TypeError: If `photo` is none of the above, or a file opened as text.
        ValueError: If an array is not HxWx3 uint8, or a Pillow image has 32-bit pixels.
    """
    if isinstance(photo, bytes):
        return photo
    if isinstance(photo, bytearray | memoryview):
        return bytes(photo)
    if isinstance(photo, str | os.PathLike):
        return Path(photo).read_bytes()
    if isinstance(photo, Image.Image):
        return _encode_image(photo)
    if isinstance(photo, np.ndarray):
        return _encode_pixels(photo)
    return _read_file(photo)


def shown(photo: Photo) -> Image.Image:
    """Return a photo as RGB, the way the server sees it: upright, on white where transparent.

    Raises:
        OSError: If it cannot be read or is no image that Pillow knows.
        TypeError: As `read_photo`.
        ValueError: As `read_photo`.
    """
    with Image.open(io.BytesIO(read_photo(photo))) as opened:
        image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255 instead of scaling.
        deep = np.asarray(image).astype(np.float64)
        image = Image.fromarray(np.rint(deep / 257).astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("RGB")
    colours = image.convert("RGBA")
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(colours, mask=colours.getchannel("A"))
    return canvas


def _encode_image(image: Image.Image) -> bytes:
    if image.mode in _NO_RANGE:
        raise ValueError(
            f"a Pillow image of mode {image.mode} does not say what is black and what is white; "
            "convert it to 8 bits first"
        )
    if image.mode.startswith("I;16"):
        # A PNG is made of the little-endian one only, and Pillow's conversion of the others to RGB
        # clips at 255 instead of scaling.
        image = Image.fromarray(np.asarray(image).astype("<u2"))
    return _png(image if image.mode in _PNG_MODES else image.convert("RGB"))


def _encode_pixels(pixels: NDArray[Any]) -> bytes:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ValueError(f"expected HxWx3 uint8 (RGB), got {pixels.dtype} of shape {pixels.shape}")
    return _png(Image.fromarray(np.ascontiguousarray(pixels)))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=_FASTEST, exif=b"")
    return buffer.getvalue()


def _read_file(file: BinaryIO) -> bytes:
    read = getattr(file, "read", None)
    if read is None:
        raise TypeError(
            "a photo is a path, bytes, a binary file, a Pillow image or an HxWx3 uint8 array, "
            f"not {type(file).__name__}"
        )
    data = read()
    if not isinstance(data, bytes):
        raise TypeError('the file is opened as text; open it with mode "rb"')
    return data
