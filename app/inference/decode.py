"""From an image file's bytes to RGB pixels, within limits.

Pillow decodes; `containers` decides what it gets to see, `rgb` what becomes of it, and `jpeg` is
the short way that nearly every JPEG takes. Plugins are called directly instead of through
`Image.open`, which would apply Pillow's own limit on pixels (a global that other users of Pillow in
this process rely on) and its warning (which cannot be silenced in one thread only). Safe to call
from several threads at once. Colour profiles are not applied.
"""

import io
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from app.inference import jpeg
from app.inference.containers import FORMATS, Container, open_container
from app.inference.image_errors import (
    BrokenImage,
    ImageError,
    TooManyPixels,
    UnknownFormat,
    reading,
)
from app.inference.rgb import flatten, load, pixels_of
from app.inference.tiff import exif_orientation

__all__ = [
    "FORMATS",
    "BrokenImage",
    "ImageError",
    "ImageHeader",
    "OpenedPhoto",
    "TooManyPixels",
    "UnknownFormat",
    "decode",
    "open_photo",
    "read_header",
    "resize",
    "scaled_size",
]

Photo = npt.NDArray[np.uint8]

_PLUGINS: Final[dict[str, type[ImageFile.ImageFile]]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WebP": WebPImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
    "GIF": GifImageFile,
    "AVIF": AvifImageFile,
}

# What undoes each EXIF orientation (Exif 3.0, 4.6.5.1.6); 1 is upright.
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_AS_IT_IS: Final = 1
_SWAPS_SIDES: Final = (5, 6, 7, 8)


@dataclass(frozen=True)
class ImageHeader:
    """What an image's header says.

    Attributes:
        format: One of `FORMATS`.
        width: In pixels, as the image is shown: after its EXIF orientation.
        height: The same.
    """

    format: str
    width: int
    height: int

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.width * self.height


class OpenedPhoto:
    """A photo whose header has been read, and whose pixels have not been decoded.

    Attributes:
        header: What its header says.
    """

    def __init__(self, container: Container, max_pixels: int) -> None:
        self._container = container
        self._max_pixels = max_pixels
        self._image: ImageFile.ImageFile | None = None
        if container.jpeg_size is not None:
            _check_pixels(container.jpeg_size, max_pixels)
            width, height = container.jpeg_size
            self._orientation = container.orientation or _AS_IT_IS
        else:
            self._image = _open(container, max_pixels)
            width, height = self._image.size
            self._orientation = _orientation(container, self._image)
        if self._orientation in _SWAPS_SIDES:
            width, height = height, width
        self.header = ImageHeader(container.format, width, height)

    def decode(self) -> Photo:
        """Decode it as `decode` does, from what was read already.

        Raises:
            BrokenImage: As `decode`.
        """
        if self._container.jpeg_size is not None:
            data, size = self._container.data, self._container.jpeg_size
            return jpeg.decode(data, size, self._orientation)
        # Pillow's images are used up by decoding them.
        image, self._image = self._image or self._open(), None
        rgb = flatten(load(image, reopen=self._open))
        if self._orientation in _UPRIGHT:
            rgb = rgb.transpose(_UPRIGHT[self._orientation])
        return pixels_of(rgb)

    def _open(self) -> ImageFile.ImageFile:
        return _open(self._container, self._max_pixels)


def open_photo(data: bytes, *, max_pixels: int) -> OpenedPhoto:
    """Read the header; `decode` of what is returned then costs no second reading.

    Raises:
        UnknownFormat: The bytes begin like no image format that is read here.
        BrokenImage: The header is damaged or cut short.
        TooManyPixels: It announces more than `max_pixels`.
    """
    return OpenedPhoto(open_container(data), max_pixels)


def read_header(data: bytes, *, max_pixels: int) -> ImageHeader:
    """Read the header only; what the image would take in memory plays no role.

    Raises:
        As `open_photo`.
    """
    return open_photo(data, max_pixels=max_pixels).header


def decode(data: bytes, *, max_pixels: int) -> Photo:
    """Decode an image as it is shown: RGB, HxWx3, C-contiguous.

    The EXIF orientation is applied, transparent parts lie on white, 16-bit values v become
    round(v / 257), other colour spaces are converted, and an animation gives its first frame.

    Raises:
        UnknownFormat: The bytes begin like no image format that is read here.
        BrokenImage: The file is damaged, cut short, or of a kind nobody can show.
        TooManyPixels: The header announces more than `max_pixels`; nothing was decoded.
    """
    return open_photo(data, max_pixels=max_pixels).decode()


def resize(photo: Photo, size: tuple[int, int]) -> Photo:
    """Resize a photo, HxWx3, to `size`, (height, width): bilinear, antialiased when shrinking."""
    height, width = size
    if photo.shape[:2] == (height, width):
        return photo
    return pixels_of(Image.fromarray(photo).resize((width, height), Image.Resampling.BILINEAR))


def scaled_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Return height and width times `scale`, rounded to whole pixels, at least 1 each.

    Raises:
        ValueError: `scale` is not a positive number.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale is {scale}, not a positive number")
    # Half pixels round up; Python's round() would take them to the even side.
    return max(1, math.floor(height * scale + 0.5)), max(1, math.floor(width * scale + 0.5))


def _open(container: Container, max_pixels: int) -> ImageFile.ImageFile:
    """Read the header; the pixels stay undecoded."""
    if container.canvas is not None:
        _check_pixels(container.canvas, max_pixels)
    with reading(container.format):
        image = _PLUGINS[container.format](io.BytesIO(container.data))
    _check_pixels(image.size, max_pixels)
    return image


def _check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise TooManyPixels(width, height, limit=max_pixels)


def _orientation(container: Container, image: ImageFile.ImageFile) -> int:
    if container.orientation is not None:
        return container.orientation
    return exif_orientation(image.info.get("exif", b""))
