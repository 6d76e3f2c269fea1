"""The asynchronous queue in front of one device: single items in, batches through, answers out.

Knows nothing of images, networks or HTTP: it is given a blocking function that turns a list of
payloads of one group into as many results, and calls it from one thread of its own.
"""

import asyncio
import contextlib
import logging
import math
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from app.serve.groups import GroupQueue, KeyT

logger = logging.getLogger(__name__)

PayloadT = TypeVar("PayloadT")
ResultT = TypeVar("ResultT")

_RECENT_BATCHES: Final = 32
"""Batches that the estimate of the device's speed looks back on."""


class BatcherClosedError(RuntimeError):
    """The batcher takes no more work, or stopped before it came to this item."""


class DeadlineExceededError(TimeoutError):
    """The item's deadline passed before its batch began."""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[ResultT]):
    """A result and what it took.

    Attributes:
        value: What the function returned for this item.
        queued_s: From `submit` to the start of its batch, in seconds.
        ran_s: The run of its batch, in seconds.
        batch_size: Items in that batch.
    """

    value: ResultT
    queued_s: float
    ran_s: float
    batch_size: int


@dataclass(frozen=True, slots=True)
class BatchReport:
    """One run of the function, for metrics.

    Attributes:
        images: Items in the batch.
        pixels: Their pixels.
        ran_s: How long the run took, in seconds.
        failed: Whether it raised.
    """

    images: int
    pixels: int
    ran_s: float
    failed: bool


@dataclass(slots=True, eq=False)
class _Item(Generic[PayloadT, ResultT]):
    payload: PayloadT
    pixels: int
    arrived: float
    deadline: float
    future: "asyncio.Future[Outcome[ResultT]]"

    @property
    def gone(self) -> bool:
        return self.future.done()


@dataclass(slots=True)
class _Verdict(Generic[PayloadT, ResultT]):
    """What becomes of one item: its outcome, or `error` as long as there is none."""

    item: _Item[PayloadT, ResultT]
    error: Exception
    outcome: Outcome[ResultT] | None = None

    def deliver(self) -> None:
        # The waiter may have left between the run and now; its future is then cancelled.
        if self.item.future.done():
            return
        if self.outcome is not None:
            self.item.future.set_result(self.outcome)
        else:
            self.item.future.set_exception(self.error)


@dataclass(slots=True)
class _Speed:
    """Pixels per second of device time over the most recent batches."""

    recent: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=_RECENT_BATCHES))

    def add(self, pixels: int, seconds: float) -> None:
        self.recent.append((pixels, seconds))

    @property
    def pixels_per_s(self) -> float | None:
        seconds = sum(seconds for _, seconds in self.recent)
        return sum(pixels for pixels, _ in self.recent) / seconds if seconds > 0 else None


class Batcher(Generic[KeyT, PayloadT, ResultT]):
    """Batches submitted items by group and runs the batches one after another.

    The next batch is chosen at the moment the device becomes idle, by the thread that feeds
    it: batches form by themselves while the device is busy, and it never waits for the event
    loop. Every submitted item is resolved: with its outcome, with the error of its own run, or
    with `DeadlineExceededError` or `BatcherClosedError`.

    Args:
        run: Called as `run(key, payloads)` from the batcher's thread; returns one result per
            payload, in order. If it raises for several payloads it is called again with each
            alone, so that only the culprit fails.
        max_images: Most items in a batch.
        max_pixels: Most pixels in a batch; an item larger than this runs alone.
        delay_s: How long the first of a batch may wait for company; see `GroupQueue`.
        fatal: Errors after which the function can never work again: they end the thread, and
            everything that waits is failed.
        observe: Called in the event loop after every run.
        clock: Monotonic seconds; deadlines are on this clock.
    """

    def __init__(
        self,
        run: Callable[[KeyT, list[PayloadT]], Sequence[ResultT]],
        *,
        max_images: int,
        max_pixels: int,
        delay_s: float = 0.0,
        fatal: tuple[type[Exception], ...] = (),
        observe: Callable[[BatchReport], None] = lambda report: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._fatal = fatal
        self._observe = observe
        self._clock = clock
        self._queue: GroupQueue[KeyT, _Item[PayloadT, ResultT]] = GroupQueue(
            max_images=max_images, max_pixels=max_pixels, delay_s=delay_s
        )
        self._changed = threading.Condition()
        self._closed = False
        self._speed = _Speed()
        self._running_pixels = 0
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    @property
    def depth(self) -> int:
        """Items waiting for their batch."""
        return len(self._queue)

    @property
    def alive(self) -> bool:
        """Whether the thread that feeds the device is there."""
        return self._thread.is_alive()

    @property
    def backlog_s(self) -> float:
        """Estimated seconds until all that was submitted has run; 0 before the first batch."""
        with self._changed:  # the batcher's thread adds to it
            speed = self._speed.pixels_per_s
            pixels = self._queue.pixels + self._running_pixels
        return pixels / speed if speed else 0.0

    async def submit(
        self, key: KeyT, payload: PayloadT, *, pixels: int, deadline: float = math.inf
    ) -> Outcome[ResultT]:
        """Queue one payload and wait for its outcome.

        Cancelling the call takes the item out of the queue, and lets go of the payload, at
        once; if its batch is running already, the result is thrown away.

        Args:
            key: Only items of equal keys share a batch.
            payload: Handed to the function as it is.
            pixels: Its share of the pixel cap.
            deadline: When the answer is no longer wanted, in seconds of the clock.

        Raises:
            DeadlineExceededError: If the deadline passes before the batch begins.
            BatcherClosedError: If the batcher is closed, before or while the item waits.
            Exception: Whatever the function raised for this payload alone.
        """
        future: asyncio.Future[Outcome[ResultT]] = self._loop.create_future()
        item = _Item(payload, pixels, self._clock(), deadline, future)
        with self._changed:
            if self._closed:
                raise BatcherClosedError("the queue is closed")
            ticket = self._queue.push(key, item)
            self._changed.notify()
        try:
            return await future
        finally:
            with self._changed:
                self._queue.discard(key, ticket)

    def close(self) -> None:
        """Take no more work and fail what still waits; a run in progress is not interrupted.

        Callable from any thread, more than once.
        """
        with self._changed:
            self._closed = True
            left = self._queue.drain()
            self._changed.notify()
        self._deliver([_Verdict(item, error=_closed_early()) for item in left])

    async def join(self, timeout_s: float) -> bool:
        """Wait until the thread has ended after `close`; False if it has not in that time."""
        await asyncio.to_thread(self._thread.join, timeout_s)
        return not self._thread.is_alive()

    # What follows runs in the batcher's own thread.

    def _work(self) -> None:
        try:
            while (batch := self._next_batch()) is not None:
                self._run_batch(*batch)
                # An idle thread must not hold on to the last payloads.
                del batch
        except self._fatal:
            logger.critical("no more work can be done", exc_info=True)
        finally:
            # Reached on `close`, and also if the thread dies: nobody may wait for a dead thread.
            self.close()

    def _next_batch(self) -> tuple[KeyT, list[_Item[PayloadT, ResultT]]] | None:
        """Block until a batch is due; None once closed."""
        with self._changed:
            while not self._closed:
                popped = self._queue.pop(self._clock())
                self._deliver([_Verdict(item, error=_too_late()) for item in popped.expired])
                if popped.key is not None and popped.batch:
                    self._running_pixels = sum(item.pixels for item in popped.batch)
                    return popped.key, popped.batch
                # An idle thread must not hold on to what has expired.
                del popped
                self._changed.wait(self._queue.due_in(self._clock()))
            return None

    def _run_batch(self, key: KeyT, batch: list[_Item[PayloadT, ResultT]]) -> None:
        verdicts = [_Verdict(item, error=_closed_early()) for item in batch]
        try:
            failure = self._attempt(key, verdicts)
            if failure is not None and len(verdicts) > 1:
                logger.warning(
                    "a batch of %d failed (%r), trying each alone", len(verdicts), failure
                )
                for verdict in verdicts:
                    self._retry(key, verdict)
        finally:
            # Also when something that is no Exception ends this thread.
            self._running_pixels = 0
            self._deliver(verdicts)

    def _retry(self, key: KeyT, verdict: _Verdict[PayloadT, ResultT]) -> None:
        if verdict.item.deadline <= self._clock():
            verdict.error = _too_late()
        elif not verdict.item.gone:
            self._attempt(key, [verdict])

    def _attempt(self, key: KeyT, verdicts: list[_Verdict[PayloadT, ResultT]]) -> Exception | None:
        """Run the items together and fill in their verdicts; return the error, if any.

        A fatal error is raised: it ends the thread.
        """
        began = self._clock()
        pixels = sum(verdict.item.pixels for verdict in verdicts)
        failure: Exception | None = None
        try:
            results = self._run(key, [verdict.item.payload for verdict in verdicts])
            if len(results) != len(verdicts):
                raise RuntimeError(f"{len(results)} results for a batch of {len(verdicts)}")
        except Exception as error:
            # A future refuses to hold StopIteration.
            failure = RuntimeError(repr(error)) if isinstance(error, StopIteration) else error
            # The frames hold what the failed run allocated, and the retries need the room.
            traceback.clear_frames(error.__traceback__)
        ran_s = self._clock() - began
        if failure is None:
            with self._changed:
                self._speed.add(pixels, ran_s)
            for verdict, value in zip(verdicts, results, strict=True):
                queued_s = began - verdict.item.arrived
                verdict.outcome = Outcome(value, queued_s, ran_s, len(verdicts))
        else:
            for verdict in verdicts:
                verdict.error = failure
        report = BatchReport(len(verdicts), pixels, ran_s, failed=failure is not None)
        self._in_loop(lambda: self._observe(report))
        if isinstance(failure, self._fatal):
            raise failure
        return failure

    def _deliver(self, verdicts: list[_Verdict[PayloadT, ResultT]]) -> None:
        def deliver() -> None:
            for verdict in verdicts:
                verdict.deliver()

        if verdicts:
            self._in_loop(deliver)

    def _in_loop(self, callback: Callable[[], object]) -> None:
        # A closed loop has nobody left who waits.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback)


def _closed_early() -> BatcherClosedError:
    return BatcherClosedError("the server stopped before it came to this request")


def _too_late() -> DeadlineExceededError:
    return DeadlineExceededError("the deadline passed in the queue")
