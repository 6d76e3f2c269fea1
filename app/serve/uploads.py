"""Receiving the photos of a request: a form or a raw body, counted while it streams."""

import asyncio
import contextlib
from collections.abc import Callable

from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from app.serve.image_form import IMAGE_FIELD, ImageForm, MissingImageError, Received
from app.serve.upload_budget import Upload


class TooManyBytesError(Exception):
    """The body is larger than the server takes."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"The request body is larger than the {limit:,} bytes this server takes; send a "
            "smaller or more strongly compressed image."
        )


def announced_length(header: str | None, *, limit: int) -> int:
    """Return the declared length of a body in bytes, 0 if there is none to go by.

    Args:
        header: The Content-Length header. It is only believed when it is too large: what
            arrives is counted in any case.
        limit: Largest body taken.

    Raises:
        TooManyBytesError: If the declared length is above the limit.
    """
    if header is None or not header.isdecimal():
        return 0
    digits = header.lstrip("0") or "0"
    # Python refuses to read numbers of thousands of digits; a header can have them.
    if len(digits) > len(str(limit)) or int(digits) > limit:
        raise TooManyBytesError(limit)
    return int(digits)


async def receive_images(
    receive: Receive, content_type: str | None, upload: Upload, *, limit: int, most: int = 1
) -> list[Received]:
    """Read a request body to its end and return its images, at least one.

    In `multipart/form-data` they are the parts called `image`. Any other body is taken as the
    photo itself, whatever its declared type: the bytes decide what it is.

    Args:
        receive: Where the body comes from.
        content_type: Of the body.
        upload: Where its bytes count.
        limit: Most bytes of the body.
        most: Most images.

    Raises:
        TooManyBytesError: As soon as more than `limit` bytes have arrived.
        UploadsFullError: As soon as the budget of all uploads is used up.
        MissingImageError: If there is no image, only an empty one, or the form is broken.
        TooManyImagesError: As soon as there are more than `most`.
        ClientDisconnect: If the client leaves before the end.
    """
    kind, options = parse_options_header(content_type)
    if kind == b"multipart/form-data":
        form = ImageForm(options.get(b"boundary"), most)
        await _read_body(receive, upload, limit, form.write)
        return form.images()
    chunks: list[bytes] = []
    await _read_body(receive, upload, limit, chunks.append)
    data = b"".join(chunks)
    if not data:
        raise MissingImageError(
            "The request has no body; send the image as multipart field "
            f"`{IMAGE_FIELD}` or as the raw body."
        )
    return [Received(data, None)]


async def discard_body(receive: Receive, *, limit: int, seconds: float) -> None:
    """Read what a client still sends and throw it away, for a while.

    A connection that is closed with unread bytes is reset, and the client may then never see
    the answer (RFC 9112, section 9.6).
    """
    with contextlib.suppress(TimeoutError, TooManyBytesError, ClientDisconnect):
        async with asyncio.timeout(seconds):
            await _read_body(receive, None, limit, lambda chunk: None)


async def _read_body(
    receive: Receive, upload: Upload | None, limit: int, write: Callable[[bytes], object]
) -> None:
    total = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        more = message.get("more_body", False)
        total += len(chunk)
        if total > limit:
            raise TooManyBytesError(limit)
        if upload is not None:
            upload.count(len(chunk))
        if chunk:
            write(chunk)
