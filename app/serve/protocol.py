"""uvicorn's HTTP/1.1 for clients that mean harm, or mean another protocol.

The application bounds what a request costs once it is one. Before that, after its answer and
between its chunks nobody else looks: a head without end would fill memory, a client that falls
silent would hold its connection for ever, and so would one that never reads its answer, with the
answer. All that uvicorn has against them is a limit on idle connections after an answer.
"""

import asyncio
import logging
import uuid
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from app.serve.errors import BAD_REQUEST, HEAD_TOO_LARGE, Problem
from app.serve.logs import FIELDS
from app.serve.telemetry import Telemetry

logger = logging.getLogger(__name__)

MAX_HEAD_BYTES: Final = 65_536
"""Of a request line with its headers, and of what stands between two chunks of a body. Apache takes
100 headers of 8 KiB, nginx 32 KiB in all."""

STALL_S: Final = 10.0
"""How long a connection may stay as it is while the server waits for its client, in seconds:
without a whole head, with the rest of a body that has been answered, or with an answer that is not
read (where a client has credit, `MOST_CREDIT_S` longer). Looked at that often, so it may take twice
as long. A request in progress has its own deadline."""

LEAST_RATE: Final = 26_214
"""Bytes a second that a client must read of its answer, which is held until then, and send of a
body that was answered before it had come."""

MOST_CREDIT_S: Final = 60.0
"""How long a client may read nothing after it has read more than it had to, in seconds: `curl
--limit-rate` and others that pace themselves fill their buffers, 10 MB and more, and then rest.
What the kernels' buffers hold counts as read, so this is also what a client gets that reads
nothing. And how long it may go on sending what is thrown away. (60 s is nginx's `send_timeout`.)"""

MOST_PIPELINED: Final = 256
"""Requests that may wait on a connection for the one before them. All that one read of the socket
brings is parsed, and could be ten thousand."""

_SMALL_BYTES: Final = 2048
"""Pieces up to this wait for what follows them. The head of an answer takes some 300."""


class _Writer:
    """What a connection needs of its transport; counts what is written, and writes less often.

    Neither the transport's buffer nor its calls to pause and resume say how much that is: the
    kernel takes megabytes at once. And uvicorn writes the head of an answer by itself, which
    uvloop sends at once: two calls of the kernel for each answer, and a client that wakes up twice.

    Args:
        transport: Where to.
        loop: Whose turns end what a small piece waits for.

    Attributes:
        written: Bytes written so far.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.written = 0
        self._transport = transport
        self._loop = loop
        self._held = b""
        self.abort = transport.abort
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        """Write; a small piece waits for what follows it in this turn of the loop."""
        self.written += len(data)
        if self._held:
            data, self._held = self._held + data, b""
        elif len(data) <= _SMALL_BYTES:
            self._held = data
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait to be sent."""
        return len(self._held) + self._transport.get_write_buffer_size()

    def close(self) -> None:
        """Close the connection when all is sent."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        held, self._held = self._held, b""
        if held and not self._transport.is_closing():  # the client may have gone meanwhile
            self._transport.write(held)


class GuardedProtocol(HttpToolsProtocol):
    """One connection; uvicorn makes it: `uvicorn.Config(http=partial(GuardedProtocol, ...))`.

    Args:
        *args: uvicorn's.
        telemetry: Counts what is refused here and who is cut.
        **kwargs: uvicorn's.
    """

    def __init__(self, *args: Any, telemetry: Telemetry, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._telemetry = telemetry
        self._in_head = True
        self._head_bytes = 0
        self._progress = 0  # heads, bodies and answers completed
        self._progress_seen = 0
        self._answered = 0  # requests
        self._reading: int | None = None  # how many those were at the last look, if bytes waited
        self._taken = 0  # bytes of answers that had left by then
        self._credit_s = 0.0  # by how much the client is ahead of `LEAST_RATE`
        self._body_bytes = 0  # received since then
        self._discarded_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        # uvicorn's own `cycle` is the request that arrived last: others may be before it.
        self._running: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to watch the client."""
        super().connection_made(transport)
        self._writer = _Writer(transport, self.loop)
        self.transport = self._writer  # type: ignore[assignment]
        self._timer = self.loop.call_later(STALL_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop watching."""
        if self._timer is not None:
            self._timer.cancel()
        self._disconnect()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse; refuse what has no end, and stay with HTTP/1.1 whatever else is offered."""
        self._unset_keepalive_if_required()
        self._head_bytes += len(data)
        while data:
            try:
                self.parser.feed_data(data)
                data = b""
            except httptools.HttpParserUpgrade as upgrade:
                data = self._declined(data[upgrade.args[0] :])
            except httptools.HttpParserError:
                self.send_400_response("This is no HTTP/1.1 request.")
                return
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(
                HEAD_TOO_LARGE,
                f"The request line and its headers take at most {MAX_HEAD_BYTES:,} bytes.",
            )

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; what comes after the body (trailers) is of no use to anybody."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request, unless `_declined` will."""
        if not self.parser.should_upgrade():
            if len(self.pipeline) >= MOST_PIPELINED:
                raise ValueError("too many requests at once")  # the parser ends, and so does this
            self._in_head = False
            self._advance()
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._head_bytes = 0
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request; the next one's head may follow."""
        if not self.parser.should_upgrade():
            self._in_head = True
            self._advance()
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Begin to wait for the client again."""
        self._answered += 1
        self._progress += 1
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be parsed, as a problem document."""
        self._refuse(BAD_REQUEST, msg)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _disconnect(self) -> None:
        """Tell the request in progress that nobody waits for its answer, before it writes it."""
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()

    def _advance(self) -> None:
        self._head_bytes = 0
        self._progress += 1

    def _declined(self, rest: bytes) -> bytes:
        """Return a request that offers to change the protocol without that offer.

        A server may ignore the offer (RFC 9110, section 7.8), but the parser ends at such a head.
        Java's HttpClient offers HTTP/2 with every first request, also with a POST.

        Args:
            rest: What came after the head.
        """
        method = self.parser.get_method()
        version = self.parser.get_http_version().encode("ascii")
        if method == b"CONNECT":  # which is nothing but a change of protocol
            self.send_400_response("This server is no proxy.")
            return b""
        self.parser = httptools.HttpRequestParser(self)
        headers = b"".join(
            b"%s: %s\r\n" % header for header in self.headers if header[0] != b"upgrade"
        )
        return b"%s %s HTTP/%s\r\n%s\r\n%s" % (method, self.url, version, headers, rest)

    def _look(self) -> None:
        """Abort the connection if its client has not done its part since the last look."""
        unsent = self.transport.get_write_buffer_size()
        taken = self._writer.written - unsent
        ahead_s = (taken - self._taken) / LEAST_RATE
        self._credit_s = min(self._credit_s + ahead_s, MOST_CREDIT_S)
        unchanged = self._progress == self._progress_seen
        if not unchanged:
            self._discarded_s = 0.0
        if unsent:
            if self._reading == self._answered:  # the same answer as at the last look
                self._credit_s -= STALL_S
            stalled = self._credit_s < 0
        else:
            at_work = self._running is not None and not self._running.response_complete
            stalled = not at_work and unchanged and not self._is_discarding()
        if stalled:
            self._telemetry.count_cut()
            self._disconnect()
            self.transport.abort()  # closing would wait until the answer is read
            return
        self._taken = taken
        self._reading = self._answered if unsent else None
        self._progress_seen = self._progress
        self._body_bytes = 0
        self._timer = self.loop.call_later(STALL_S, self._look)

    def _is_discarding(self) -> bool:
        """Whether the rest of a body that was answered early comes fast enough, and not for ever.

        Most clients read no answer before they have sent it all.
        """
        self._discarded_s += STALL_S
        return self._body_bytes >= LEAST_RATE * STALL_S and self._discarded_s <= MOST_CREDIT_S

    def _refuse(self, problem: Problem, detail: str) -> None:
        """Answer, unless another answer is on its way, and close the connection."""
        if self.transport.is_closing():
            return
        running = self._running
        if running is None or running.response_complete or not running.response_started:
            request_id = uuid.uuid4().hex
            self.transport.write(_answer(problem, detail, request_id))
            self._telemetry.count_refusal(problem.slug, problem.status)
            fields = {"id": request_id, "status": problem.status, "problem": problem.slug}
            logger.info("refused", extra={FIELDS: fields})
        self._disconnect()
        self.transport.close()


def _answer(problem: Problem, detail: str, request_id: str) -> bytes:
    """Return a whole answer, as it goes over the connection."""
    body = problem.document(detail, request_id).model_dump_json().encode()
    head = (
        "content-type: application/problem+json\r\n"
        f"content-length: {len(body)}\r\n"
        f"x-request-id: {request_id}\r\n"
        "connection: close\r\n\r\n"
    )
    return STATUS_LINE[problem.status] + head.encode("ascii") + body
