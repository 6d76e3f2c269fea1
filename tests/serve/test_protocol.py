"""Connections that wait for their client, on a transport that the test fills and drains."""

import asyncio

import pytest
import uvicorn
from uvicorn.server import ServerState

from app.serve.protocol import (
    LEAST_READ_RATE,
    MOST_CREDIT_S,
    MOST_PIPELINED,
    STALL_S,
    GuardedProtocol,
)

pytestmark = pytest.mark.anyio

GET = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"
PIECE = 2**20
LEAST = round(LEAST_READ_RATE * STALL_S)  # what has to be read from one look to the next


@pytest.fixture
def anyio_backend():
    return "asyncio"


class Transport(asyncio.Transport):
    def __init__(self):
        super().__init__()
        self.unsent = 0
        self.aborted = self.closed = False
        self.written = b""

    def get_extra_info(self, name, default=None):
        return default

    def get_write_buffer_size(self):
        return self.unsent

    def is_closing(self):
        return self.aborted or self.closed

    def write(self, data):
        self.written += data

    def abort(self):
        self.aborted = True

    def close(self):
        self.closed = True

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass


class Connection:
    """A connection to an application that answers nothing; each look comes when it is called."""

    def __init__(self):
        self.requests = []

        async def app(scope, receive, send):
            self.requests.append(scope)
            await asyncio.Event().wait()

        config = uvicorn.Config(app, http=GuardedProtocol, ws="none", lifespan="off")
        config.load()
        self.state = ServerState()
        self.transport = Transport()
        self.protocol = GuardedProtocol(config=config, server_state=self.state, app_state={})
        self.protocol.connection_made(self.transport)

    def write(self, unsent):
        """Add to what the client has to read, as uvicorn does: beyond its bound it waits."""
        self.transport.unsent = unsent
        self.protocol.pause_writing()

    def read(self, unsent):
        """Let the client read until so much is left: uvicorn goes on writing."""
        self.transport.unsent = unsent
        self.protocol.resume_writing()

    def look(self, unsent):
        """Let the time pass until the next look; returns whether it ended the connection."""
        self.transport.unsent = unsent
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
    # After each piece that has been read the next fills the buffer anew, as it happens more than
    # before.
    for unsent in (100_000, 400_000, 400_000, 900_000):
        connection.write(PIECE)
        assert not connection.look(unsent)
        connection.read(0)


async def test_one_large_piece_that_is_read_steadily_goes_on(connection):
    for turn in range(4):
        assert not connection.look(PIECE - turn * LEAST)
    assert connection.look(PIECE - 4 * LEAST + 1)


async def test_an_answer_has_its_time_from_the_first_look_at_it(connection):
    assert not connection.look(0)
    connection.write(PIECE)
    assert not connection.look(PIECE)  # which may come a moment after the answer
    assert connection.look(PIECE)


@pytest.mark.parametrize("read", [0, 1, LEAST - 1])
async def test_an_answer_that_is_hardly_read_is_given_up(connection, read):
    assert not connection.look(PIECE)
    assert connection.look(PIECE - read)


async def test_who_reads_ahead_may_rest_as_long_as_a_steady_reader_takes(connection):
    for _ in range(2):
        connection.write(PIECE)
        connection.read(0)
    connection.write(PIECE)
    assert not connection.look(PIECE)
    rests = 2 * PIECE // LEAST
    assert not any(connection.look(PIECE) for _ in range(rests))
    assert connection.look(PIECE)


async def test_no_rest_is_longer_than_two_minutes(connection):
    for _ in range(1000):
        connection.write(PIECE)
        connection.read(0)
    connection.write(PIECE)
    assert not connection.look(PIECE)
    rests = int(MOST_CREDIT_S / STALL_S)
    assert not any(connection.look(PIECE) for _ in range(rests))
    assert connection.look(PIECE)


async def test_requests_that_wait_behind_another_are_few(connection):
    connection.protocol.data_received(GET * MOST_PIPELINED)
    assert not connection.transport.is_closing()
    connection.protocol.data_received(GET * 10_000)
    assert connection.transport.is_closing()
    assert len(connection.protocol.pipeline) <= MOST_PIPELINED
