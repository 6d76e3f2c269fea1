"""Receiving a photo's bytes: multipart or raw, counted while they stream, bounded together."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

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

_MOST_PARTS: Final = 64
"""Parts of a form that are looked through for the image."""


class TooManyBytesError(Exception):
    """The body is larger than the server takes."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"The request body is larger than the {limit:,} bytes this server takes; send a "
            "smaller or more strongly compressed image."
        )


class MissingImageError(Exception):
    """The request holds no usable image part; the message says why."""


class UploadsFullError(OverloadedError):
    """Too many bytes of uploads are held."""


class Upload:
    """One upload's bytes and its share of the budget.

    Attributes:
        data: The photo's bytes, once received.
    """

    def __init__(self, budget: "UploadBudget") -> None:
        self._budget = budget
        self._held = 0
        self.data = b""

    def count(self, arrived: int) -> None:
        """Count bytes that have arrived.

        Raises:
            UploadsFullError: If the budget has no room for them.
        """
        self._budget.check(arrived)
        self._budget.held += arrived
        self._held += arrived

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
    length = int(header) if header is not None and header.isdecimal() else 0
    if length > limit:
        raise TooManyBytesError(limit)
    return length


async def receive_image(
    receive: Receive, content_type: str | None, upload: Upload, *, limit: int
) -> None:
    """Read a request body to its end and leave the photo's bytes in `upload.data`.

    `multipart/form-data` must hold one part called `image`. Any other body is taken as the
    photo itself, whatever its declared type: the bytes decide what it is.

    Raises:
        TooManyBytesError: As soon as more than `limit` bytes have arrived.
        UploadsFullError: As soon as the budget of all uploads is used up.
        MissingImageError: If there is no image, an empty one, several, or the form is broken.
        ClientDisconnect: If the client leaves before the end.
    """
    kind, options = parse_options_header(content_type)
    if kind == b"multipart/form-data":
        form = _ImageForm(options.get(b"boundary"))
        await _read_body(receive, upload, limit, form.write)
        upload.data = form.image()
    else:
        chunks: list[bytes] = []
        await _read_body(receive, upload, limit, chunks.append)
        upload.data = b"".join(chunks)
        if not upload.data:
            raise MissingImageError(
                "The request has no body; send the image as multipart field "
                f"`{IMAGE_FIELD}` or as the raw body."
            )


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
    """Keeps the one part called `image` of a multipart form, in memory, and nothing else."""

    def __init__(self, boundary: bytes | None) -> None:
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
        self._names: list[str] = []
        self._chunks: list[bytes] = []
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

    def image(self) -> bytes:
        """Return the image's bytes after the end of the body; raises MissingImageError."""
        if not self._ended:
            raise MissingImageError("The multipart form ends before its closing boundary.")
        found = self._names.count(IMAGE_FIELD)
        if found == 0:
            fields = ", ".join(f"`{name[:40]}`" for name in self._names[:5]) or "none"
            raise MissingImageError(f"The form has no field `{IMAGE_FIELD}`; its fields: {fields}.")
        if found > 1:
            raise MissingImageError(
                f"The form has {found} fields `{IMAGE_FIELD}`; send one image per request."
            )
        data = b"".join(self._chunks)
        if not data:
            raise MissingImageError(f"The field `{IMAGE_FIELD}` is empty.")
        return data

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
        self._names.append(name)
        if len(self._names) > _MOST_PARTS:
            raise MissingImageError(f"The form has more than {_MOST_PARTS} parts.")
        self._keep = name == IMAGE_FIELD and self._names.count(IMAGE_FIELD) == 1

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._keep:
            self._chunks.append(data[start:end])

    def _on_end(self) -> None:
        self._ended = True
