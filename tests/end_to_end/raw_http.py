"""Requests written byte by byte: broken, slow, cut off, as no HTTP client would send them."""

import socket
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

ANSWER_S = 60.0
"""How long an answer or the connection's end may take, in seconds: a server that hangs takes for
ever, a busy one much less."""

Address = tuple[str, int]
Headers = Sequence[tuple[str, str]]


class After(Enum):
    """What a client does when it has sent its last byte."""

    READS = "reads"
    CLOSES_ITS_SIDE = "closes its side and reads"
    VANISHES = "closes"
    RESETS = "resets the connection"


@dataclass(frozen=True)
class Reply:
    """What a connection brought.

    Attributes:
        status: Of the first answer; None if there was none before the connection's end.
        headers: Of the first answer, names in lower case.
        body: The first answer's.
    """

    status: int | None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


def request(
    body: bytes = b"",
    headers: Headers = (),
    *,
    query: str = "",
    content_type: str | None = "image/png",
    length: str | None = "",
    method: str = "POST",
    path: str = "/segment",
    version: str = "HTTP/1.1",
) -> bytes:
    """Write a request, right or wrong.

    Args:
        body: Its body.
        headers: More headers.
        query: After the `?`.
        content_type: None for no such header.
        length: Content-Length, if it is not the body's; None for no such header.
        method: Its method.
        path: Its path.
        version: Its version of the protocol.
    """
    lines = [f"{method} {path}{'?' if query else ''}{query} {version}", "Host: test"]
    if content_type is not None:
        lines.append(f"Content-Type: {content_type}")
    if length is not None:
        lines.append(f"Content-Length: {length or len(body)}")
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def exchange(
    address: Address, pieces: Iterable[bytes], *, after: After = After.READS, pause_s: float = 0.0
) -> Reply:
    """Send bytes on a connection of its own and return what comes back.

    Args:
        address: Of the server.
        pieces: Sent one after the other; the server may end this before they are through.
        after: What to do then.
        pause_s: Between two pieces, in seconds.

    Raises:
        TimeoutError: If there is neither an answer nor an end within `ANSWER_S`.
    """
    with socket.create_connection(address, ANSWER_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for piece in pieces:
                connection.sendall(piece)
                if pause_s:
                    time.sleep(pause_s)
            if after is After.CLOSES_ITS_SIDE:
                connection.shutdown(socket.SHUT_WR)
        except OSError as error:
            if isinstance(error, TimeoutError):
                raise
            # It has had enough, and may have said why.
        if after is After.RESETS:
            # Closing with a linger time of 0 sends RST in place of FIN.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if after in (After.RESETS, After.VANISHES):
            return Reply(None)
        return read_reply(connection)


def read_reply(connection: socket.socket) -> Reply:
    """Read one answer, or the connection's end.

    Raises:
        TimeoutError: If neither comes within `ANSWER_S`.
    """
    connection.settimeout(ANSWER_S)
    received = b""
    try:
        while True:
            while b"\r\n\r\n" not in received:
                if not (chunk := connection.recv(65536)):
                    assert not received, f"half an answer: {received!r}"
                    return Reply(None)
                received += chunk
            head, _, received = received.partition(b"\r\n\r\n")
            status_line, *lines = head.decode("latin-1").split("\r\n")
            status = int(status_line.split()[1])
            if status >= 200:  # 100 Continue comes before the answer
                break
        fields = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in fields}
        length = int(headers["content-length"])
        while len(received) < length:
            chunk = connection.recv(65536)
            assert chunk, f"{length - len(received)} bytes of the answer's body are missing"
            received += chunk
    except ConnectionResetError:
        return Reply(None)
    return Reply(status, headers, received[:length])
