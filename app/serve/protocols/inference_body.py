"""The body of a request of the Open Inference Protocol: unpacked, and made into photos."""

import re
import zlib
from typing import Final

from app.serve.protocols import tensors
from app.serve.protocols.errors import InvalidRequestError
from app.serve.protocols.json_body import beside_the_loop
from app.serve.protocols.open_inference import (
    DATATYPES,
    FILE,
    InferenceRequest,
    InputTensor,
    refuse_extensions,
)
from app.serve.settings import Settings
from app.serve.upload_budget import Upload
from app.serve.uploads import TooManyBytesError

JSON_LENGTH_HEADER: Final = "Inference-Header-Content-Length"

_MOST_EXPANSION: Final = 1032
"""How many bytes deflate can make of one (https://zlib.net/zlib_tech.html)."""

_GZIP_OR_ZLIB: Final = zlib.MAX_WBITS | 32
"""What tells `zlib` to find out which of the two it is."""


async def decompress(upload: Upload, encoding: str, *, limit: int) -> None:
    """Undo the Content-Encoding of a body.

    Args:
        upload: The body.
        encoding: The header; `identity` if there is none.
        limit: Most bytes that it may have then.

    Raises:
        InvalidRequestError: If the encoding is not known, or the body broken.
        TooManyBytesError: If it would be larger than `limit`.
        UploadsFullError: If the budget of all uploads has no room for it.
    """
    encoding = encoding.strip().lower()
    if encoding == "identity":
        return
    if encoding not in ("gzip", "deflate"):
        raise InvalidRequestError(
            f"Content-Encoding: {encoding[:40]} is not understood; gzip and deflate are."
        )
    upload.count(min(limit, len(upload.data) * _MOST_EXPANSION))

    def inflate() -> bytes:
        inflater = zlib.decompressobj(_GZIP_OR_ZLIB)
        try:
            data = inflater.decompress(upload.data, limit + 1)
        except zlib.error as error:
            raise InvalidRequestError(f"The {encoding} body is broken: {error}.") from None
        if len(data) > limit:
            raise TooManyBytesError(limit)
        if not inflater.eof or inflater.unused_data:
            raise InvalidRequestError(f"The {encoding} body is cut short, or more follows it.")
        return data

    upload.data = await beside_the_loop(inflate, len(upload.data) * _MOST_EXPANSION)


def json_length(upload: Upload, header: str | None) -> int:
    """Return how many bytes of a body are JSON.

    Args:
        upload: The body.
        header: `Inference-Header-Content-Length`; without it all is JSON.

    Raises:
        InvalidRequestError: If it is no number from 1 to the body's length.
    """
    length = len(upload.data)
    if header is None:
        return length
    told = int(header) if re.fullmatch("[0-9]{1,12}", header) else 0
    if not 0 < told <= length:
        raise InvalidRequestError(
            f"{JSON_LENGTH_HEADER}: {header[:20]!r} is no length within the {length:,} bytes of "
            "the body."
        )
    return told


async def image_files(
    document: InferenceRequest, upload: Upload, behind: int, settings: Settings, *, one_size: bool
) -> list[bytes]:
    """Turn the input tensor into one image file a photo.

    Args:
        document: The request.
        upload: The body it came in.
        behind: Bytes of the body that stand behind the JSON.
        settings: Bound the photos' number and pixels.
        one_size: Whether all photos must have one size, since the answer has a tensor of pixels.

    Raises:
        InvalidRequestError: If the tensor is not what it says, or sizes differ.
        TooManyImagesError: If there are too many photos.
        AnswerTooLargeError: If they have too many pixels together.
        ImageError: If one of them is no image, or too large.
    """
    tensor = _the_input(document)
    size = tensor.parameters.binary_data_size
    if (size or 0) != behind:
        raise InvalidRequestError(
            f"`{tensor.name}` has {size or 0:,} bytes behind the JSON by its `binary_data_size`; "
            f"there are {behind:,}."
        )
    if (size is None) == (tensor.data is None):
        raise InvalidRequestError(f"`{tensor.name}` needs its values once: in JSON or behind it.")
    upload.count(len(upload.data))  # the files are made of it, and no larger

    def convert() -> list[bytes]:
        tail = memoryview(upload.data)[-behind:] if behind else memoryview(b"")
        files = _photos(tensor, tail, settings.request_images)
        if one_size:
            tensors.check_sizes(files, max_pixels=settings.max_pixels)
        return files

    return await beside_the_loop(convert, len(upload.data))


def _the_input(request: InferenceRequest) -> InputTensor:
    (tensor,) = request.inputs
    refuse_extensions(tensor.name, tensor.parameters)
    if tensor.datatype != DATATYPES[tensor.name]:
        raise InvalidRequestError(
            f"`{tensor.name}` has datatype {DATATYPES[tensor.name]}, not {tensor.datatype[:20]}."
        )
    return tensor


def _photos(tensor: InputTensor, tail: memoryview, most: int) -> list[bytes]:
    if tensor.name == FILE:
        number = tensors.files_number(tensor.shape, most=most)
        if tensor.data is None:
            return tensors.files_of_bytes(tail, number)
        return tensors.files_of_json(tensor.data, number)
    shape = tensors.photos_shape(tensor.shape, most=most)
    if tensor.data is None:
        pixels = tensors.pixels_of_bytes(tail, *shape)
    else:
        pixels = tensors.pixels_of_json(tensor.data, *shape)
    return [tensors.bmp_of(photo) for photo in pixels]
