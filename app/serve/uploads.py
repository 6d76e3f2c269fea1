"""Receiving a photo's bytes: multipart or raw, counted while they stream, bounded together."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from app.serve.admission import OverloadedError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

OVERHEAD_BYTES: Final = 65_536
"""What an upload costs besides its own bytes: uvicorn buffers that much of a body before it
stops reading the socket (`uvicorn.protocols.http.flow_control.HIGH_WATER_LIMIT`)."""

IMAGE_FIELD: Final = "image"

EMPTY_IMAGE: Final = f"The field `{IMAGE_FIELD}` is empty."

_MOST_PARTS: Final = 64
"""Parts of a form that are looked through for images, besides these."""

_MOST_NAME: Final = 200
"""Letters kept of a file name: even four bytes each, it fits into a zip and a log line."""


class TooManyBytesError(Exception):
    """The body is larger than the server takes."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"The request body is larger than the {limit:,} bytes this server takes; send a "
            "smaller or more strongly compressed image."
        )


class MissingImageError(Exception):
    """The request holds no usable image part; the message says why."""


class TooManyImagesError(Exception):
    """The form holds more images than a request may."""


class UploadsFullError(OverloadedError):
    """Too many bytes of uploads are held."""


class Upload:
    """One upload's bytes and its share of the budget.

    Attributes:
        data: The photo's bytes, once received.
        name: Its file name, without folders, if it has one.
    """

    def __init__(self, budget: "UploadBudget") -> None:
        self._budget = budget
        self._held = 0
        self.data = b""
        self.name: str | None = None

    def count(self, arrived: int) -> None:
        """Count bytes that have arrived.

        Raises:
            UploadsFullError: If the budget has no room for them.
        """
        self._budget.check(arrived)
        self._budget.held += arrived
        self._held += arrived

    def divide(self, images: Sequence["Received"]) -> "list[Upload]":
        """Return an upload for each image, which can be released by itself.

        What is held besides the images goes to the first.
        """
        parts = []
        for image in images:
            part = Upload(self._budget)
            part.data, part.name = image.data, image.name
            part._held = len(image.data)
            self._held -= part._held
            parts.append(part)
        parts[0]._held += self._held
        self._held = 0
        return parts

    def release(self) -> None:
        """Let go of the bytes and give their share back."""
        self.data = b""
        self._budget.held -= self._held
        self._held = 0


class UploadBudget:
    """One bound for the bytes of all uploads that are held and not yet decoded.

    What counts is what has arrived, not what is announced, so a client that stalls holds
    little. Each upload also counts `OVERHEAD_BYTES`, which bounds their number.

    Args:
        max_bytes: The bound.
        retry_after: When there should be room again, in whole seconds.
    """

    def __init__(self, max_bytes: int, *, retry_after: Callable[[], int]) -> None:
        self._max_bytes = max_bytes
        self._retry_after = retry_after
        self.held = 0

    @contextmanager
    def open(self, announced: int = 0) -> Iterator[Upload]:
        """Begin an upload; at the end of the block it is released.

        Args:
            announced: The body's declared length in bytes, 0 if unknown.

        Raises:
            UploadsFullError: If that much would not fit now.
        """
        self.check(OVERHEAD_BYTES + announced)
        upload = Upload(self)
        upload.count(OVERHEAD_BYTES)
        try:
            yield upload
        finally:
            upload.release()

    def check(self, more: int) -> None:
        """Raise UploadsFullError if `more` bytes would pass the bound."""
        if self.held + more > self._max_bytes:
            raise UploadsFullError(
                "The server is receiving too many uploads at once: "
                f"{self.held / 1e6:.1f} MB of at most {self._max_bytes / 1e6:.1f} MB are held.",
                self._retry_after(),
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


class Received(NamedTuple):
    """An image of a request.

    Attributes:
        data: Its bytes; none at all for an empty part of a form that has several images.
        name: Its file name, without folders, if it has one.
    """

    data: bytes
    name: str | None


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
        form = _ImageForm(options.get(b"boundary"), most)
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


class _ImageForm:
    """Keeps the parts called `image` of a multipart form, in memory, and nothing else.

    Args:
        boundary: What separates the parts.
        most: Most images.
    """

    def __init__(self, boundary: bytes | None, most: int) -> None:
        if not boundary:
            raise MissingImageError("The multipart content type has no boundary.")
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._on_part_begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_end": self._on_end,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)
        except FormParserError as error:
            raise MissingImageError(f"The multipart form is broken: {error}.") from error
        self._most = most
        self._others: list[str] = []
        self._images: list[tuple[str | None, list[bytes]]] = []
        self._header = bytearray()
        self._value = bytearray()
        self._disposition = b""
        self._keep = False
        self._ended = False

    def write(self, chunk: bytes) -> None:
        """Parse a chunk of the body; raises MissingImageError if it cannot be one."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise MissingImageError(f"The multipart form is broken: {error}.") from error

    def images(self) -> list[Received]:
        """Return the images after the end of the body; raises MissingImageError."""
        if not self._ended:
            raise MissingImageError("The multipart form ends before its closing boundary.")
        if not self._images:
            fields = ", ".join(f"`{name[:40]}`" for name in self._others[:5]) or "none"
            raise MissingImageError(f"The form has no field `{IMAGE_FIELD}`; its fields: {fields}.")
        images = [Received(b"".join(chunks), name) for name, chunks in self._images]
        if len(images) == 1 and not images[0].data:
            raise MissingImageError(EMPTY_IMAGE)
        return images

    def _on_part_begin(self) -> None:
        self._disposition = b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        self._keep = name == IMAGE_FIELD
        if self._keep:
            if len(self._images) == self._most:
                raise TooManyImagesError(
                    f"The form has more than {self._most} fields `{IMAGE_FIELD}`, the most that "
                    "one request may have; send several requests."
                )
            self._images.append((_base_name(options.get(b"filename")), []))
        else:
            self._others.append(name)
            if len(self._others) > _MOST_PARTS:
                raise MissingImageError(f"The form has more than {_MOST_PARTS} parts.")

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._keep:
            self._images[-1][1].append(data[start:end])

    def _on_end(self) -> None:
        self._ended = True


def _base_name(file_name: bytes | None) -> str | None:
    """Return a client's file name without folders and what cannot be printed; None if none is left.

    It comes back in answers only and never becomes a path here.
    """
    text = (file_name or b"").decode("utf-8", "replace").replace("\\", "/").rpartition("/")[2]
    name = "".join(letter for letter in text if letter.isprintable())[:_MOST_NAME].strip(". ")
    return name or None
