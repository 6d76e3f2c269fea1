"""Brings what Pillow decodes to one kind of picture: 8-bit RGB on white."""

import sys
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from app.inference.image_errors import BrokenImage, reading

Bytes = npt.NDArray[np.uint8]

_BAND_BYTES: Final = 1 << 20
"""Pixels are copied out of Pillow a band of rows at a time, small enough to stay in the cache."""

# Raw modes tell Pillow's decoders how samples lie in the file. Of 16-bit colour they keep the
# more significant byte; with the other byte order's raw mode, they keep the less significant.
_OTHER_ORDER: Final = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}

GREY_STRETCH: Final = {"L;2": 85, "L;4": 17}
"""What Pillow multiplies the grey of PNGs of two and four bits by, so that white is 255."""

# TIFF's tags, and the values that need care.
_BITS_PER_SAMPLE: Final = 258
_PHOTOMETRIC: Final = 262
_WHITE_IS_ZERO: Final = 0
_PLANAR_CONFIGURATION: Final = 284
_CHANNELS_APART: Final = 2


def load(image: ImageFile.ImageFile, reopen: Callable[[], ImageFile.ImageFile]) -> Image.Image:
    """Decode an opened image to 8 bits a sample: 16-bit values v become round(v / 257).

    (Pillow's own conversions clip 16-bit grey to white and cut the low byte off 16-bit colour.)

    Args:
        image: Opened, not loaded; is used up.
        reopen: Opens the same file again: 16-bit colour is decoded twice.

    Raises:
        BrokenImage: The file is damaged, or its samples have no known white.
    """
    name = image.format or ""
    raw_mode = raw_mode_of(image)
    if image.mode in ("F", "I"):
        raise BrokenImage(
            f"The {name} file has 32-bit, signed or floating-point samples, for which no white "
            "is defined; save it with 8 or 16 bits a sample."
        )
    if isinstance(image, TiffImageFile) and _is_misread(image):
        raise BrokenImage(
            "The TIFF file keeps its 16-bit channels apart and uncompressed, which cannot be read; "
            "save it with the channels of a pixel together."
        )
    if image.mode.startswith("I;16"):
        return _load_grey16(image, raw_mode)
    if raw_mode == "LA;16B":
        # Four bytes a pixel, as 8-bit RGBA has: grey high, grey low, alpha high, alpha low.
        halves = pixels_of(_decode(image, "RGBA"))
        return Image.fromarray(_round_to_8_bits(halves[..., 0::2], halves[..., 1::2]))
    if raw_mode in _TWO_BYTE_COLOUR:
        return _load_colour16(image, reopen, raw_mode)

    _decode(image, raw_mode)
    key = image.info.get("transparency")
    if image.mode in ("1", "L") and isinstance(key, int):
        image.info["transparency"] = key * GREY_STRETCH.get(raw_mode, 1) & 0xFF
    elif image.mode == "RGB" and isinstance(key, tuple):
        image.info["transparency"] = tuple(value & 0xFF for value in key)
    return image


def flatten(image: Image.Image) -> Image.Image:
    """Return a decoded image of any 8-bit mode as RGB, whatever is transparent laid on white.

    Raises:
        BrokenImage: The palette is damaged.
    """
    with reading(image.format or "image"):
        if not image.has_transparency_data:
            return image if image.mode == "RGB" else image.convert("RGB")
        if image.mode == "La":
            image = image.convert("LA")
        rgba = image.convert("RGBA")
    canvas = Image.new("RGB", rgba.size, "white")
    canvas.paste(rgba, mask=rgba.getchannel("A"))
    return canvas


def pixels_of(image: Image.Image) -> Bytes:
    """Copy the pixels of a loaded image of 8 bits a sample, HxW or HxWxC, C-contiguous."""
    width, height = image.size
    samples = len(image.getbands())
    pixels = np.empty((height, width, samples) if samples > 1 else (height, width), np.uint8)
    # np.asarray(image) would pass the whole image through two temporary copies.
    rows = max(1, _BAND_BYTES // (width * samples))
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        band = image if rows >= height else image.crop((0, top, width, bottom))
        pixels[top:bottom] = np.asarray(band)
    return pixels


_TWO_BYTE_COLOUR: Final = frozenset(
    f"{mode};16{order}" for mode in ("RGB", "RGBX", "RGBA", "CMYK") for order in "LBN"
)


def _is_misread(image: TiffImageFile) -> bool:
    # Pillow takes each byte of such a file for a sample, and reports no error.
    return (
        image.tag_v2.get(_PLANAR_CONFIGURATION) == _CHANNELS_APART
        and 16 in image.tag_v2.get(_BITS_PER_SAMPLE, ())
        and len(image.getbands()) > 1
        and image.info.get("compression") == "raw"
    )


def raw_mode_of(image: ImageFile.ImageFile) -> str:
    """Return how samples lie in an image's file, as Pillow's decoders call it; "" if unknown.

    Args:
        image: Opened, not loaded.
    """
    if not image.tile:
        return ""
    arguments = image.tile[0][3]
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _decode(image: ImageFile.ImageFile, raw_mode: str) -> ImageFile.ImageFile:
    """Decode in place, reading samples as `raw_mode` says."""
    if raw_mode and raw_mode != raw_mode_of(image):
        image.tile = [_with_raw_mode(tile, raw_mode) for tile in image.tile]
    with reading(image.format or "image"):
        if isinstance(image, TiffImageFile):
            # Given pixels to fill, it does not hold the size against Pillow's own limit, a
            # global that other users of Pillow rely on: ours has been applied already.
            image.im = Image.new(image.mode, image.size).im
        image.load()
    return image


def _with_raw_mode(tile: ImageFile._Tile, raw_mode: str) -> ImageFile._Tile:
    if isinstance(tile.args, tuple):
        return tile._replace(args=(raw_mode, *tile.args[1:]))
    return tile._replace(args=raw_mode)


def _load_grey16(image: ImageFile.ImageFile, raw_mode: str) -> Image.Image:
    _decode(image, raw_mode)
    values: npt.NDArray[np.uint16] = np.asarray(image).astype(np.uint16)
    if raw_mode == "I;12":
        values = (values << 4 | values >> 8).astype(np.uint16)
    if isinstance(image, TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        values = ~values
    grey = _round_to_8_bits((values >> 8).astype(np.uint8), values.astype(np.uint8))
    key = image.info.get("transparency")
    if not isinstance(key, int):
        return Image.fromarray(grey)
    alpha = np.where(values == key, 0, 255).astype(np.uint8)
    return Image.fromarray(np.stack((grey, alpha), axis=2))


def _load_colour16(
    image: ImageFile.ImageFile, reopen: Callable[[], ImageFile.ImageFile], raw_mode: str
) -> Image.Image:
    with reading(image.format or "image"):
        again = reopen()
    high = pixels_of(_decode(image, raw_mode))
    low = pixels_of(_decode(again, raw_mode[:-1] + _OTHER_ORDER[raw_mode[-1]]))
    key = image.info.get("transparency")
    transparent = None
    if image.mode == "RGB" and isinstance(key, tuple):
        same = [(high[..., i] == k >> 8) & (low[..., i] == k & 0xFF) for i, k in enumerate(key)]
        transparent = same[0] & same[1] & same[2]
    samples = _round_to_8_bits(high, low)
    if transparent is not None:
        samples = np.dstack((samples, np.where(transparent, 0, 255).astype(np.uint8)))
        return Image.fromarray(samples)
    return Image.frombytes(image.mode, image.size, samples.tobytes())


def _round_to_8_bits(high: Bytes, low: Bytes) -> Bytes:
    """Return round(v / 257) of 16-bit values v = 256 high + low.

    v / 257 = high + (low - high) / 257, so it is high, or one beside it.
    """
    difference = low.astype(np.int16) - high
    return high + (difference > 128) - (difference < -128)
