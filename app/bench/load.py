"""The load generator: clients that wait for their answers, or arrivals that do not.

A closed loop asks what the server can do: each of N clients sends its next photo when it has the
answer to the last. An open loop asks what its users will see: photos arrive at a given rate, at
random moments, whether or not earlier ones are answered. There the clock of a request starts when
it was *due*, so that a stall of the server, or of this generator, counts for everything that
should have been sent meanwhile (the opposite is known as coordinated omission).

Load flows before and after the requests that are measured: the first ones meet a server that is
warm and busy, and the last ones the same traffic as all others.
"""

import asyncio
import gc
import random
import resource
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

import uvloop

from app.bench.connection import Answer, Connection, clock

REFUSED: Final = "no connection"

_IDLE_S: Final = 3.0
"""How long an idle connection is used again, in seconds; uvicorn closes them after 5."""

_EARLY_S: Final = 0.0005
"""uvloop's timers count whole milliseconds: a request is sent up to half of one too early rather
than up to one too late. Its clock then starts when it is sent."""

_MOST_CONNECTIONS: Final = 65_536

_FAILURE_PAUSE_S: Final = 0.05
"""A client that got no answer waits before it tries again, in seconds, so that a dead server does
not cost a million failures."""


@dataclass(frozen=True)
class Target:
    """Where photos are sent.

    Attributes:
        host: Address.
        port: TCP port.
        requests: One whole request for each photo.
        weights: How often each is sent, against the others.
    """

    host: str
    port: int
    requests: Sequence[bytes]
    weights: Sequence[float]


@dataclass(frozen=True)
class Load:
    """How much is sent.

    Attributes:
        concurrency: Clients of a closed loop; not used with a rate.
        rate: Arrivals per second of an open loop; None for a closed one.
        duration_s: How long requests are measured, in seconds.
        requests: How many are measured instead; None to go by time.
        warm_up_s: Load before, in seconds.
        patience_s: When an answer is given up, in seconds.
        seed: Decides arrivals and the order of photos.
    """

    concurrency: int = 16
    rate: float | None = None
    duration_s: float = 20.0
    requests: int | None = None
    warm_up_s: float = 3.0
    patience_s: float = 120.0
    seed: int = 0


@dataclass(slots=True)
class Sample:
    """One request; times are in seconds of `clock`.

    Attributes:
        photo: Index of its photo.
        due: When it should have been sent.
        sent: When it was.
        measured: Whether it belongs to the measurement, not to the load before or after.
        answer: What came back.
    """

    photo: int
    due: float
    sent: float
    measured: bool
    answer: Answer

    @property
    def latency_s(self) -> float:
        """From the moment it was due, or sent if that was earlier, to its answer's end."""
        return self.answer.finished - min(self.due, self.sent)


@dataclass(frozen=True)
class Outcome:
    """What a load found.

    Attributes:
        samples: All requests, in order of their answers.
        opened: When the measurement began, in seconds of `clock`.
        closed: When it ended: after the duration, or with the last measured answer if a number of
            requests was asked for.
        cpu_share: Share of one processor that this generator used: near 1 it was the limit.
    """

    samples: list[Sample]
    opened: float
    closed: float
    cpu_share: float


def run_load(target: Target, load: Load) -> Outcome:
    """Send a load and wait for every answer."""
    _allow_many_connections()
    # What exists by now (torch, a gigabyte of objects) is no garbage; looking through it in the
    # middle of a load would make answers look late.
    gc.collect()
    gc.freeze()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_run(target, load))
    finally:
        gc.unfreeze()


async def _run(target: Target, load: Load) -> Outcome:
    return await _Generator(target, load).run()


class _Window:
    """Which requests are measured, and when the load can end."""

    def __init__(self, load: Load, now: float) -> None:
        self.opened = now + load.warm_up_s
        self.closed = self.opened + load.duration_s
        self._requests = load.requests
        self._measured = 0
        self._outstanding = 0

    def take(self, due: float) -> bool:
        """Note a request, and tell whether it is measured."""
        if due < self.opened or self._full(due):
            return False
        self._measured += 1
        self._outstanding += 1
        return True

    def give_back(self, finished: float) -> None:
        """Note the answer to a measured request."""
        self._outstanding -= 1
        if self._requests is not None:
            self.closed = finished

    def over(self, due: float) -> bool:
        """Whether every request due by then that is to be measured has been answered."""
        return self._full(due) and not self._outstanding

    def _full(self, due: float) -> bool:
        if self._requests is not None:
            return self._measured >= self._requests
        return due >= self.closed


class _Generator:
    """One load on one server."""

    def __init__(self, target: Target, load: Load) -> None:
        self._target = target
        self._load = load
        self._loop = asyncio.get_running_loop()
        self._window = _Window(load, clock())
        self._photos = _photo_indices(target.weights, load.seed)
        self._idle: list[Connection] = []
        self._samples: list[Sample] = []

    async def run(self) -> Outcome:
        began, cpu_began = clock(), time.process_time()
        try:
            async with asyncio.TaskGroup() as tasks:
                if self._load.rate is None:
                    for _ in range(self._load.concurrency):
                        tasks.create_task(self._client())
                else:
                    async for due in self._arrivals(self._load.rate):
                        tasks.create_task(self._exchange(due))
        finally:
            for connection in self._idle:
                connection.close()
        cpu_share = (time.process_time() - cpu_began) / (clock() - began)
        return Outcome(self._samples, self._window.opened, self._window.closed, cpu_share)

    async def _client(self) -> None:
        while not self._window.over(clock()):
            answer = await self._exchange(clock())
            if answer.status is None:
                await asyncio.sleep(_FAILURE_PAUSE_S)

    async def _arrivals(self, rate: float) -> AsyncIterator[float]:
        """Wait for each arrival and yield when it was due."""
        # Not the photos' generator: arrivals are the same whatever is sent.
        generator = random.Random(self._load.seed)
        due = clock()
        while True:
            due += generator.expovariate(rate)
            wait_s = due - clock()
            # Also when late: somebody must read the answers.
            await asyncio.sleep(wait_s if wait_s > _EARLY_S else 0)
            # By when it was due, not by the time: after a stall those are still to come that
            # should have been sent meanwhile.
            if self._window.over(due):
                return
            yield due

    async def _exchange(self, due: float) -> Answer:
        """Send a photo, wait for its answer and keep the sample."""
        measured = self._window.take(due)
        photo = next(self._photos)
        sent = clock()
        answer = await self._post(self._target.requests[photo])
        self._samples.append(Sample(photo, due, sent, measured, answer))
        if measured:
            self._window.give_back(answer.finished)
        return answer

    async def _post(self, request: bytes) -> Answer:
        connection = self._idle_connection() or await self._connect()
        if connection is None:
            return Answer(None, REFUSED, clock(), b"")
        try:
            answer = await connection.post(request, patience_s=self._load.patience_s)
        except asyncio.CancelledError:
            connection.close()
            raise
        if connection.usable:
            self._idle.append(connection)
        return answer

    def _idle_connection(self) -> Connection | None:
        """Return the connection used last, unless the server is about to close it."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and clock() - connection.idle_since < _IDLE_S:
                return connection
            connection.close()
        return None

    async def _connect(self) -> Connection | None:
        try:
            async with asyncio.timeout(self._load.patience_s):
                _, connection = await self._loop.create_connection(
                    Connection, self._target.host, self._target.port
                )
        except (OSError, TimeoutError):
            return None
        return connection


def _photo_indices(weights: Sequence[float], seed: int) -> Iterator[int]:
    """Yield indices at random for ever, each as often as its weight says."""
    generator = random.Random(seed)
    bounds = list(accumulate(weights))
    while True:
        yield from generator.choices(range(len(bounds)), cum_weights=bounds, k=256)


def _allow_many_connections() -> None:
    """Raise this process's limit on open files: an overloaded server holds many connections."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, _MOST_CONNECTIONS), most))
