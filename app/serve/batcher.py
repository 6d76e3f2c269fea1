"""The asynchronous queue in front of one device: single items in, batches through, answers out.

Knows nothing of images, networks or HTTP: it is given a blocking function that turns a list of
payloads of one group into as many results, and calls it from one thread of its own. Which items
make a batch is `groups`' business, what becomes of a batch that fails `batch`'s, and how long it
all takes `cost`'s.
"""

import asyncio
import contextlib
import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic

from app.serve.batch import (
    BatcherClosedError,
    BatchReport,
    BatchRunner,
    DeadlineExceededError,
    Item,
    Outcome,
    PayloadT,
    ResultT,
    Verdict,
    closed_early,
    too_late,
)
from app.serve.cost import CostModel
from app.serve.groups import GroupQueue, KeyT, Popped

__all__ = ["BatchReport", "Batcher", "BatcherClosedError", "DeadlineExceededError", "Outcome"]

logger = logging.getLogger(__name__)


class Batcher(Generic[KeyT, PayloadT, ResultT]):
    """Batches submitted items by group and runs the batches one after another.

    The next batch is chosen at the moment the device becomes idle, by the thread that feeds
    it: batches form by themselves while the device is busy, and it never waits for the event
    loop. Every submitted item is resolved: with its outcome, with the error of its own run, or
    with `DeadlineExceededError` or `BatcherClosedError`.

    Args:
        run: Called as `run(key, payloads)` from the batcher's thread; returns one result per
            payload, in order. If it raises for several payloads it is called again with halves
            of them, so that only the culprit fails.
        max_images: Most items in a batch.
        max_pixels: Most pixels in a batch; an item larger than this runs alone.
        most_images: A group's own cap on items; see `GroupQueue`. Must not block.
        saving: What sharing a batch saves; see `GroupQueue`. Must not block.
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
        most_images: Callable[[KeyT], int] = lambda key: sys.maxsize,
        saving: Callable[[KeyT], float] = lambda key: math.inf,
        delay_s: float = 0.0,
        fatal: tuple[type[Exception], ...] = (),
        observe: Callable[[BatchReport[KeyT]], None] = lambda report: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fatal = fatal
        self._observe = observe
        self._clock = clock
        self._runner: BatchRunner[KeyT, PayloadT, ResultT] = BatchRunner(
            run, fatal=fatal, clock=clock, observe=self._ran, deliver=self._deliver
        )
        self._queue: GroupQueue[KeyT, Item[PayloadT, ResultT]] = GroupQueue(
            max_images=max_images,
            max_pixels=max_pixels,
            most_images=most_images,
            saving=saving,
            delay_s=delay_s,
        )
        self._cost = CostModel()
        self._idle_at = -math.inf
        self._changed = threading.Condition()
        self._closed = False
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

    def expected_s(self, *, items: int = 0, pixels: int = 0, unsized: int = 0) -> float:
        """Estimated seconds until all that was submitted has run; 0 before the first batch.

        Callable from any thread.

        Args:
            items: So many more are counted, each in a batch of its own.
            pixels: Of those together.
            unsized: So many more are counted as if they were like those that ran of late.
        """
        with self._changed:  # the batcher's thread changes all of it
            queue, cost = self._queue, self._cost
            waiting = cost.seconds(queue.pixels + pixels, queue.batches + items)
            running = max(0.0, self._idle_at - self._clock())
            return running + waiting + cost.seconds_of_photos(unsized)

    def cost_s(self, pixels: int) -> float:
        """Estimated seconds of a batch with so many pixels; 0 before the first batch."""
        with self._changed:
            return self._cost.seconds(pixels)

    async def submit(
        self, key: KeyT, payload: PayloadT, *, pixels: int, deadline: float = math.inf
    ) -> Outcome[ResultT]:
        """Queue one payload and wait for its outcome.

        Cancelling the call takes the item out of the queue, and lets go of the payload, at
        once; if its batch is running already, the result is thrown away.

        Args:
            key: Only items of equal keys share a batch.
            payload: Handed to the function as it is.
            pixels: Its share of the pixel cap, at least 1.
            deadline: When the answer is no longer wanted, in seconds of the clock.

        Raises:
            DeadlineExceededError: If the deadline passes before the batch begins.
            BatcherClosedError: If the batcher is closed, before or while the item waits.
            Exception: Whatever the function raised for this payload alone.
        """
        future: asyncio.Future[Outcome[ResultT]] = self._loop.create_future()
        item = Item(payload, pixels, self._clock(), deadline, future)
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
            # As in `Workers.run`: an error's traceback would lead back to it.
            del item, future

    def close(self) -> None:
        """Take no more work and fail what still waits; a run in progress is not interrupted.

        Callable from any thread, more than once.
        """
        with self._changed:
            self._closed = True
            left = self._queue.drain()
            self._changed.notify()
        self._deliver([Verdict(item, closed_early()) for item in left])

    async def join(self, timeout_s: float) -> bool:
        """Wait until the thread has ended after `close`; False if it has not in that time."""
        await asyncio.to_thread(self._thread.join, timeout_s)
        return not self._thread.is_alive()

    # What follows runs in the batcher's own thread.

    def _work(self) -> None:
        try:
            while (popped := self._next_batch()) is not None:
                assert popped.key is not None  # a batch has one
                self._runner.run(popped.key, popped.batch, popped.reason)
                # An idle thread must not hold on to the last payloads.
                del popped
        except self._fatal:
            logger.critical("no more work can be done", exc_info=True)
        finally:
            # Reached on `close`, and also if the thread dies: nobody may wait for a dead thread.
            self.close()

    def _next_batch(self) -> Popped[KeyT, Item[PayloadT, ResultT]] | None:
        """Block until a batch is due; None once closed."""
        with self._changed:
            while not self._closed:
                popped = self._queue.pop(now := self._clock())
                self._deliver([Verdict(item, too_late()) for item in popped.expired])
                if popped.batch:
                    pixels = sum(item.pixels for item in popped.batch)
                    self._idle_at = now + self._cost.seconds(pixels)
                    return popped
                # An idle thread must not hold on to what has expired.
                del popped
                self._changed.wait(self._queue.due_in(now))
            return None

    def _ran(self, report: BatchReport[KeyT]) -> None:
        with self._changed:
            self._idle_at = -math.inf  # or about to begin with a part of what failed
            if not report.failed:
                self._cost.add(images=report.images, pixels=report.pixels, seconds=report.ran_s)
        self._in_loop(lambda: self._observe(report))

    def _deliver(self, verdicts: list[Verdict[PayloadT, ResultT]]) -> None:
        def deliver() -> None:
            for verdict in verdicts:
                verdict.deliver()

        if verdicts:
            self._in_loop(deliver)

    def _in_loop(self, callback: Callable[[], object]) -> None:
        # A closed loop has nobody left who waits.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback)
