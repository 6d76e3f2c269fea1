"""Tensors of the Open Inference Protocol: bytes and JSON values -> photos, label maps -> either."""

import math
import struct
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic_core import to_json

from app.inference.decode import read_header
from app.serve.answers import AnswerTooLargeError
from app.serve.image_form import TooManyImagesError
from app.serve.protocols.errors import InvalidRequestError
from app.serve.protocols.json_body import decode_base64

_CHANNELS: Final = 3

# A BMP without compression (https://learn.microsoft.com/windows/win32/gdi/bitmap-header-types):
# file header, information header, rows of BGR, each filled up to whole words.
_FILE_HEADER: Final = struct.Struct("<2sIHHI")
_INFO_HEADER: Final = struct.Struct("<IiiHHIIiiII")
_BITS_PER_PIXEL: Final = 24
_WORD: Final = 4


def photos_shape(shape: Sequence[int], *, most: int) -> tuple[int, int, int]:
    """Return number, height and width of the photos in a tensor of RGB pixels.

    Args:
        shape: Of the tensor.
        most: Most photos of a request.

    Raises:
        InvalidRequestError: If the shape is neither HxWx3 nor NxHxWx3.
        TooManyImagesError: If N is larger than `most`.
    """
    if len(shape) not in (3, 4) or shape[-1] != _CHANNELS or min(shape) < 1:
        raise InvalidRequestError(
            f"`image` has shape {list(shape)[:8]}; it must be [height, width, 3] or "
            "[photos, height, width, 3], RGB."
        )
    number = shape[0] if len(shape) == 4 else 1
    _check_number(number, most)
    return number, shape[-3], shape[-2]


def pixels_of_bytes(
    data: memoryview, number: int, height: int, width: int
) -> npt.NDArray[np.uint8]:
    """View raw bytes as photos, NxHxWx3.

    Raises:
        InvalidRequestError: If they are more or fewer than the shape says.
    """
    if len(data) != number * height * width * _CHANNELS:
        raise InvalidRequestError(
            f"`image` has {len(data):,} bytes; its shape asks for "
            f"{number * height * width * _CHANNELS:,}."
        )
    return np.frombuffer(data, np.uint8).reshape(number, height, width, _CHANNELS)


def pixels_of_json(data: Any, number: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Make photos, NxHxWx3, of JSON numbers in row-major order, nested or flat.

    Raises:
        InvalidRequestError: If they are no whole numbers from 0 to 255, or too few or many.
    """
    # As objects first: left to itself, NumPy makes every place as wide as the longest string. Rows
    # of different lengths stay lists.
    values = np.asarray(data, dtype=object).ravel()
    if set(map(type, values)) != {int} or values.min() < 0 or values.max() > 255:
        raise InvalidRequestError(
            "`image`: `data` must hold whole numbers from 0 to 255 only, in rows of one length."
        )
    if values.size != number * height * width * _CHANNELS:
        raise InvalidRequestError(
            f"`image`: `data` has {values.size:,} values; its shape asks for "
            f"{number * height * width * _CHANNELS:,}."
        )
    return values.astype(np.uint8).reshape(number, height, width, _CHANNELS)


def files_number(shape: Sequence[int], *, most: int) -> int:
    """Return the number of files in a BYTES tensor: all but one of its dimensions must be 1.

    Args:
        shape: Of the tensor.
        most: Most photos of a request.

    Raises:
        InvalidRequestError: If it is no list of files.
        TooManyImagesError: If it has more than `most`.
    """
    number = math.prod(shape)
    if min(shape) < 1 or number != max(shape):
        raise InvalidRequestError(
            f"`file` has shape {list(shape)[:8]}; it must be [photos]: an image file each."
        )
    _check_number(number, most)
    return number


def files_of_bytes(data: memoryview, number: int) -> list[bytes]:
    """Cut a BYTES tensor into its elements: each has its length before it, 32 bits, little-endian.

    Raises:
        InvalidRequestError: If it has more or fewer than `number`, or one is cut short.
    """
    files = []
    place = 0
    for _ in range(number):
        start = place + 4
        place = start + int.from_bytes(data[place:start], "little")
        if start > len(data) or place > len(data):
            raise InvalidRequestError("`file` ends in the middle of an element.")
        files.append(bytes(data[start:place]))
    if place != len(data):
        raise InvalidRequestError("`file` has more elements than its shape says.")
    return files


def files_of_json(data: Any, number: int) -> list[bytes]:
    """Decode a BYTES tensor of JSON strings, which are base64: JSON has no other bytes.

    Raises:
        InvalidRequestError: If it has more or fewer than `number` strings, or other values.
    """
    while isinstance(data, list) and len(data) == 1 and isinstance(data[0], list):
        data = data[0]
    if not isinstance(data, list) or not all(isinstance(text, str) for text in data):
        raise InvalidRequestError("`file`: `data` must be a list of image files in base64.")
    if len(data) != number:
        raise InvalidRequestError(f"`file`: `data` has {len(data)} elements, its shape {number}.")
    return [decode_base64(text) for text in data]


def check_sizes(files: Sequence[bytes], *, max_pixels: int) -> None:
    """Hold photos whose label maps are to be one tensor to one size and a bound, by their headers.

    Raises:
        ImageError: If a header cannot be read, or says more than `max_pixels`.
        InvalidRequestError: If they differ in size.
        AnswerTooLargeError: If together they have more than `max_pixels`.
    """
    headers = [read_header(file, max_pixels=max_pixels) for file in files]
    sizes = sorted({(header.width, header.height) for header in headers})
    if len(sizes) > 1:
        shown = ", ".join(f"{width} x {height}" for width, height in sizes)
        raise InvalidRequestError(
            "The photos of one request must have one size, since their label maps are one tensor; "
            f"these have {shown}."
        )
    pixels = sum(header.pixels for header in headers)
    if pixels > max_pixels:
        raise AnswerTooLargeError(
            f"The label maps of this request's photos have {pixels:,} pixels together; at most "
            f"{max_pixels:,} are given in one answer."
        )


def bmp_of(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Write RGB pixels, HxWx3, as an image file that any decoder reads at the cost of a copy."""
    height, width = pixels.shape[:2]
    used = width * _CHANNELS
    stride = -(-used // _WORD) * _WORD
    rows = np.zeros((height, stride), np.uint8)
    for channel in range(_CHANNELS):
        rows[:, _CHANNELS - 1 - channel : used : _CHANNELS] = pixels[..., channel]
    offset = _FILE_HEADER.size + _INFO_HEADER.size
    file_header = _FILE_HEADER.pack(b"BM", offset + rows.size, 0, 0, offset)
    # A negative height: the first row is the top one.
    info_header = _INFO_HEADER.pack(
        _INFO_HEADER.size, width, -height, 1, _BITS_PER_PIXEL, 0, rows.size, 0, 0, 0, 0
    )
    return b"".join((file_header, info_header, rows.data))


def label_map_as_json(label_map: npt.NDArray[np.uint8]) -> bytes:
    """Write a label map, HxW, as JSON numbers with commas between them, without brackets."""
    # Row by row: as a list, a label takes eight bytes.
    return b",".join(to_json(row.tolist())[1:-1] for row in label_map)


def _check_number(number: int, most: int) -> None:
    if number > most:
        raise TooManyImagesError(
            f"The request has {number} photos; at most {most} are taken at a time."
        )
