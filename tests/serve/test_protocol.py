"""Connections that wait for their client, on a transport that the test fills and drains."""

import asyncio
import logging

import pytest
import uvicorn
from uvicorn.server import ServerState

from app.serve.protocol import (
    LEAST_RATE,
    MOST_CREDIT_S,
    MOST_PIPELINED,
    STALL_S,
    GuardedProtocol,
)
from app.serve.telemetry import UNMATCHED, Telemetry

pytestmark = pytest.mark.anyio

GET = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"
PIECE = 2**20
LEAST = round(LEAST_RATE * STALL_S)  # what has to be read from one look to the next


@pytest.fixture
def anyio_backend():
    return "asyncio"


class Transport(asyncio.Transport):
    """Takes as much as the kernel would at once, and keeps the rest until the test reads it."""

    def __init__(self):
        super().__init__()
        self.unsent = self.room = 0
        self.writes = []
        self.aborted = self.closed = False

    def get_extra_info(self, name, default=None):
        return default

    def get_write_buffer_size(self):
        return self.unsent

    def is_closing(self):
        return self.aborted or self.closed

    def write(self, data):
        assert not self.is_closing()
        self.writes.append(bytes(data))
        taken = min(len(data), self.room)
        self.room -= taken
        self.unsent += len(data) - taken

    def abort(self):
        self.aborted = True

    def close(self):
        self.closed = True

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass


async def never_answer(scope, receive, send):
    await asyncio.Event().wait()


async def answer_at_once(scope, receive, send):
    await send({"type": "http.response.start", "status": 429, "headers": []})
    await send({"type": "http.response.body", "body": b""})


class Connection:
    """A connection to an application; each look comes when it is called."""

    def __init__(self, app=never_answer):

        config = uvicorn.Config(app, ws="none", lifespan="off")
        config.load()
        self.state = ServerState()
        self.transport = Transport()
        self.telemetry = Telemetry()
        self.protocol = GuardedProtocol(
            config=config, server_state=self.state, app_state={}, telemetry=self.telemetry
        )
        self.protocol.connection_made(self.transport)

    def write(self, size):
        """Give the client so much more to read, as uvicorn does."""
        self.protocol.transport.write(bytes(size))

    def read(self, size):
        """Let the client read so much of what waits, or make room for what comes."""
        waiting = min(size, self.transport.unsent)
        self.transport.unsent -= waiting
        self.transport.room += size - waiting

    def counted(self, metric, **labels):
        """Return the value of a metric; None if there is none yet."""
        return self.telemetry.registry.get_sample_value(metric, labels)

    def answered(self):
        """Let the request in progress end."""
        self.protocol.on_response_complete()

    def look(self):
        """Let the time pass until the next look; returns whether it ended the connection."""
        self.protocol._timer.cancel()
        self.protocol._look()
        return self.transport.aborted

    def end(self):
        for task in self.state.tasks:
            task.cancel()
        self.protocol.connection_lost(None)


@pytest.fixture
async def connection():
    connection = Connection()
    connection.protocol.data_received(GET)
    yield connection
    connection.end()


async def test_an_answer_that_is_read_piece_by_piece_goes_on(connection):
    # After each piece that has been read comes the next: as much waits as before.
    for _ in range(4):
        connection.write(PIECE)
        assert not connection.look()
        connection.read(PIECE)


async def test_one_large_piece_that_is_read_steadily_goes_on(connection):
    connection.write(PIECE)
    for _ in range(3):
        assert not connection.look()
        connection.read(LEAST)
    assert not connection.look()
    connection.read(LEAST - 1)
    assert connection.counted("fcn_connections_cut_total") == 0
    assert connection.look()
    assert connection.counted("fcn_connections_cut_total") == 1


async def test_an_answer_has_its_time_from_the_first_look_at_it(connection):
    assert not connection.look()
    connection.write(PIECE)
    assert not connection.look()  # which may come a moment after the answer
    assert connection.look()


@pytest.mark.parametrize("read", [0, 1, LEAST - 1])
async def test_an_answer_that_is_hardly_read_is_given_up(connection, read):
    connection.write(PIECE)
    assert not connection.look()
    connection.read(read)
    assert connection.look()


async def test_each_body_that_was_answered_early_has_its_time():
    connection = Connection(answer_at_once)
    rest = round(MOST_CREDIT_S / STALL_S)
    for _ in range(2):
        connection.protocol.data_received(POST.replace(b"1000000000", b"%d" % (rest * LEAST)))
        await asyncio.sleep(0.01)
        assert connection.protocol.cycle.response_complete
        connection.transport.unsent = 0
        assert not connection.look()
        for _ in range(rest):
            connection.protocol.data_received(bytes(LEAST))
            assert not connection.look()
    connection.end()


async def test_who_reads_ahead_may_rest_as_long_as_a_steady_reader_takes(connection):
    connection.read(PIECE)  # the kernel has room
    for _ in range(2):
        connection.write(PIECE)
    assert not connection.look()
    rests = PIECE // LEAST
    assert not any(connection.look() for _ in range(rests))
    assert connection.look()


async def test_a_rest_has_its_bound(connection):
    connection.read(10 * PIECE)
    for _ in range(11):
        connection.write(PIECE)
    assert not connection.look()
    rests = int(MOST_CREDIT_S / STALL_S)
    assert not any(connection.look() for _ in range(rests))
    assert connection.look()


async def test_answers_after_one_another_are_no_answer_that_is_not_read(connection):
    for _ in range(5):
        connection.write(50_000)
        assert not connection.look()
        connection.read(50_000)
        connection.answered()


async def test_new_requests_make_no_reader_of_a_client(connection):
    connection.write(PIECE)
    assert not connection.look()
    connection.protocol.data_received(GET)
    assert connection.look()


POST = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 1000000000\r\n\r\n"


@pytest.mark.parametrize("received", [0, LEAST - 1, LEAST])
async def test_a_body_that_was_answered_early_may_come_to_its_end(received):
    connection = Connection(answer_at_once)
    connection.protocol.data_received(POST)
    while not connection.protocol.cycle.response_complete:
        await asyncio.sleep(0)
    connection.transport.unsent = 0
    assert not connection.look()
    for _ in range(int(MOST_CREDIT_S / STALL_S)):
        connection.protocol.data_received(bytes(received))
        assert connection.look() == (received < LEAST)
        if received < LEAST:
            break
    else:
        connection.protocol.data_received(bytes(received))
        assert connection.look()  # but not for ever
    connection.end()


async def answer_in_two_pieces(scope, receive, send):
    length = (b"content-length", b"8")
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": b"once", "more_body": True})
    await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": b"more"})


async def test_an_answers_head_goes_with_its_body():
    connection = Connection(answer_in_two_pieces)
    connection.protocol.data_received(GET)
    for _ in range(5):
        await asyncio.sleep(0)
    head_and_first, second = connection.transport.writes
    assert head_and_first.startswith(b"HTTP/1.1 200")
    assert head_and_first.endswith(b"\r\n\r\nonce")
    assert second == b"more"
    connection.end()


async def test_a_small_piece_that_nothing_follows_is_sent_in_the_same_turn(connection):
    connection.write(1)
    assert connection.transport.writes == []
    assert connection.protocol.transport.get_write_buffer_size() == 1
    await asyncio.sleep(0)
    assert connection.transport.writes == [bytes(1)]


async def test_a_small_piece_is_sent_before_the_connection_is_closed(connection):
    connection.write(1)
    connection.protocol.transport.close()
    assert connection.transport.closed
    assert connection.transport.writes == [bytes(1)]


async def test_nothing_is_written_to_a_client_that_has_gone(connection):
    connection.write(1)
    connection.transport.abort()
    await asyncio.sleep(0)
    assert connection.transport.writes == []


async def test_requests_that_wait_behind_another_are_few(connection):
    connection.protocol.data_received(GET * MOST_PIPELINED)
    assert not connection.transport.is_closing()
    connection.protocol.data_received(GET * 10_000)
    assert connection.transport.is_closing()
    assert len(connection.protocol.pipeline) <= MOST_PIPELINED


@pytest.mark.parametrize(
    ("sent", "status", "problem"),
    [
        (b"no request\r\n\r\n", 400, "bad-request"),
        (b"GET / HTTP/1.1\r\nX: " + bytes(65_536).replace(b"\0", b"x"), 431, "head-too-large"),
    ],
    ids=["broken", "large"],
)
async def test_what_is_no_request_is_counted_and_logged(sent, status, problem, caplog):
    connection = Connection()
    with caplog.at_level(logging.INFO, "app.serve.protocol"):
        connection.protocol.data_received(sent)
    (answer,) = connection.transport.writes
    assert answer.startswith(b"HTTP/1.1 %d" % status)
    labels = {"route": UNMATCHED, "status": str(status)}
    assert connection.counted("fcn_requests_total", **labels) == 1
    assert connection.counted("fcn_rejects_total", reason=problem) == 1
    (line,) = caplog.records
    fields = line.fields
    assert (fields["status"], fields["problem"]) == (status, problem)
    assert fields["id"].encode() in answer
    connection.end()
