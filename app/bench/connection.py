"""One HTTP/1.1 connection that posts prepared requests, as cheaply as Python can.

The generator shares the machine's processors with the server it measures, so what it costs is
taken from the result. A request is bytes made once and written as they are, and an answer's body
is counted and thrown away: several times the requests per second of a general HTTP client.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Final, NamedTuple, cast

from httptools import HttpParserError, HttpResponseParser

_BOUNDARY: Final = b"7d1f0c52b86e4a3f9e2d"

clock: Final = time.perf_counter
"""Seconds. The event loop's own clock counts whole milliseconds, in uvloop."""

TIMED_OUT: Final = "no answer in time"
DISCONNECTED: Final = "disconnected"
NOT_HTTP: Final = "no HTTP"


class Answer(NamedTuple):
    """What came back.

    Attributes:
        status: HTTP status; None if there was no whole answer.
        error: Why there was none.
        finished: When its last byte arrived, in seconds of `clock`.
        server_timing: The header of that name, as it came.
    """

    status: int | None
    error: str | None
    finished: float
    server_timing: bytes


def build_request(
    host: str,
    path: str,
    photo: bytes,
    *,
    media_type: str,
    multipart: bool = True,
    headers: Sequence[tuple[str, str]] = (),
) -> bytes:
    """Return a whole `POST` of a photo.

    Args:
        host: For the `Host` header.
        path: With its query.
        photo: The file.
        media_type: Its type.
        multipart: As field `image` of a form, else as the body itself.
        headers: More headers.
    """
    body, content_type = photo, media_type
    if multipart:
        content_type = f"multipart/form-data; boundary={_BOUNDARY.decode()}"
        part = (
            'Content-Disposition: form-data; name="image"; filename="photo"\r\n'
            f"Content-Type: {media_type}\r\n\r\n"
        ).encode()
        body = b"--%s\r\n%s%s\r\n--%s--\r\n" % (_BOUNDARY, part, photo, _BOUNDARY)
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {host}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in headers),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Connection(asyncio.Protocol):
    """A connection; posts one request at a time.

    Attributes:
        usable: Whether another request can be posted.
        idle_since: When its last answer ended, in seconds of `clock`.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser = HttpResponseParser(self)
        self._waiting: asyncio.Future[Answer] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._server_timing = b""
        self._transport: asyncio.Transport
        self.usable = False
        self.idle_since = clock()

    def post(self, request: bytes, *, patience_s: float) -> "asyncio.Future[Answer]":
        """Send a request; the future always resolves to an answer, if need be one without status.

        Args:
            request: All its bytes.
            patience_s: How long to wait for the answer, in seconds.
        """
        waiting: asyncio.Future[Answer] = self._loop.create_future()
        self._waiting = waiting
        self._server_timing = b""
        self._timer = self._loop.call_later(patience_s, self._fail, TIMED_OUT)
        self._transport.write(request)
        return waiting

    def close(self) -> None:
        """Close at once; what is waited for ends without an answer."""
        self._fail(DISCONNECTED)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's derives from nothing
        self.usable = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self._fail(DISCONNECTED)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        try:
            self._parser.feed_data(data)
        except HttpParserError:
            self._fail(NOT_HTTP)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        if name.lower() == b"server-timing":
            self._server_timing = value

    def on_message_complete(self) -> None:
        """Called by the parser."""
        status = self._parser.get_status_code()
        if status < 200:  # 100 Continue and its kin come before the answer
            return
        # A server that answers before it has read the body will not read another request.
        keep = self._parser.should_keep_alive() and not self._transport.get_write_buffer_size()
        self.idle_since = clock()
        self._resolve(Answer(status, None, self.idle_since, self._server_timing))
        if not keep:
            self._end()

    def _fail(self, error: str) -> None:
        self._resolve(Answer(None, error, clock(), b""))
        self._end()

    def _end(self) -> None:
        self.usable = False
        self._transport.abort()

    def _resolve(self, answer: Answer) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(answer)
        self._waiting = None
