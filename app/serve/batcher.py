"""The asynchronous queue in front of one device: single items in, batches through, answers out.

Knows nothing of images, networks or HTTP: it is given a blocking function that turns a list of
payloads of one group into as many results, and calls it from threads of its own. Which items make
a batch is `groups`' business, how much of the device it has `shares`', what becomes of a batch
that fails `batch`'s, and how long it all takes `cost`'s.
"""

import asyncio
import contextlib
import functools
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
from app.serve.shares import DeviceShares

__all__ = ["BatchReport", "Batcher", "BatcherClosedError", "DeadlineExceededError", "Outcome"]

logger = logging.getLogger(__name__)


class Batcher(Generic[KeyT, PayloadT, ResultT]):
    """Batches submitted items by group and runs the batches, several at a time where it may.

    The next batch is chosen at the moment a part of the device becomes idle, by the thread that
    feeds it: batches form by themselves while the device is busy, and it never waits for the event
    loop. A batch beside which nothing waits or runs has the whole device. Every submitted item is
    resolved: with its outcome, with the error of its own run, or with `DeadlineExceededError` or
    `BatcherClosedError`.

    Args:
        run: Called as `run(key, payloads)` from one of the batcher's threads; returns one result
            per payload, in order. If it raises for several payloads it is called again with
            halves of them, so that only the culprit fails.
        max_images: Most items in a batch.
        max_pixels: Most pixels in all batches that run at a time; an item larger than this runs
            alone.
        most_images: A group's own cap on items; see `GroupQueue`. Must not block.
        saving: What sharing a batch saves; see `GroupQueue`. Must not block.
        delay_s: How long the first of a batch may wait for company; see `GroupQueue`.
        lanes: Most batches that run at a time, each on its share of the device.
        take_share: Called by a thread before it runs a batch, with the share that the batch has,
            above 0 to 1.
        fatal: Errors after which the function can never work again: they end the threads, and
            everything that waits is failed.
        observe: Called in the event loop after every run, with how many seconds of the whole
            device it took.
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
        lanes: int = 1,
        take_share: Callable[[float], object] = lambda share: None,
        fatal: tuple[type[Exception], ...] = (),
        observe: Callable[[BatchReport[KeyT], float], None] = lambda report, device_s: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._max_pixels = max_pixels
        self._lanes = lanes
        self._take_share = take_share
        self._fatal = fatal
        self._observe = observe
        self._clock = clock
        self._queue: GroupQueue[KeyT, Item[PayloadT, ResultT]] = GroupQueue(
            max_images=max_images,
            max_pixels=max_pixels,
            most_images=most_images,
            saving=saving,
            delay_s=delay_s,
        )
        self._cost = CostModel()
        self._shares = DeviceShares(lanes, max_pixels=max_pixels)
        self._lock = threading.Lock()
        self._called = [threading.Condition(self._lock) for _ in range(lanes)]
        self._idle: list[int] = []  # lanes whose thread waits to be called
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._threads = [
            threading.Thread(target=self._work, args=[lane], name=f"batcher_{lane}", daemon=True)
            for lane in range(lanes)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def depth(self) -> int:
        """Items waiting for their batch."""
        return len(self._queue)

    @property
    def alive(self) -> bool:
        """Whether the threads that feed the device are there."""
        return all(thread.is_alive() for thread in self._threads)

    def expected_s(self, *, items: int = 0, pixels: int = 0, unsized: int = 0) -> float:
        """Estimated seconds until all that was submitted has run; 0 before the first batch.

        Callable from any thread.

        Args:
            items: So many more are counted, each in a batch of its own.
            pixels: Of those together.
            unsized: So many more are counted as if they were like those that ran of late.
        """
        with self._lock:  # the batcher's threads change all of it
            queue, cost = self._queue, self._cost
            waiting = cost.seconds(queue.pixels + pixels, queue.batches + items)
            running = self._shares.left_s(self._clock())
            return running + waiting + cost.seconds_of_photos(unsized)

    def cost_s(self, pixels: int, *, others: int = 0, company: int = 0) -> float:
        """Estimated seconds that an item takes once its turn has come; 0 before the first batch.

        Beside others that is as long as its whole batch takes on a share of the device.

        Args:
            pixels: Of the item.
            others: Items that will come before it, besides those that are there.
            company: Most of them that may be in its batch.
        """
        with self._lock:
            lanes = min(self._lanes, 1 + others + self._queue.batches + self._shares.running)
            if lanes == 1 or pixels >= self._max_pixels:  # nothing fits beside that one
                return self._cost.seconds(pixels)
            company = min(company, others + len(self._queue))
            return lanes * self._cost.seconds(pixels * (1 + company))

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
        with self._lock:
            if self._closed:
                raise BatcherClosedError("the queue is closed")
            ticket = self._queue.push(key, item)
            self._call()
        try:
            return await future
        finally:
            with self._lock:
                if self._queue.discard(key, ticket):
                    self._call()  # what there was no room for may have kept others waiting
            # As in `Workers.run`: an error's traceback would lead back to it.
            del item, future

    def close(self) -> None:
        """Take no more work and fail what still waits; a run in progress is not interrupted.

        Callable from any thread, more than once.
        """
        with self._lock:
            self._closed = True
            left = self._queue.drain()
            while self._idle:
                self._call()
        self._deliver([Verdict(item, closed_early()) for item in left])

    async def join(self, timeout_s: float) -> bool:
        """Wait until the threads have ended after `close`; False if they have not in that time."""

        def join() -> None:
            until = time.monotonic() + timeout_s
            for thread in self._threads:
                thread.join(max(0.0, until - time.monotonic()))

        await asyncio.to_thread(join)
        return not any(thread.is_alive() for thread in self._threads)

    # What follows runs in the batcher's own threads. Each has a number, its lane.

    def _work(self, lane: int) -> None:
        runner: BatchRunner[KeyT, PayloadT, ResultT] = BatchRunner(
            functools.partial(self._run_on_share, lane),
            fatal=self._fatal,
            clock=self._clock,
            observe=functools.partial(self._ran, lane),
            deliver=self._deliver,
        )
        try:
            while (popped := self._next_batch(lane)) is not None:
                assert popped.key is not None  # a batch has one
                runner.run(popped.key, popped.batch, popped.reason)
                # An idle thread must not hold on to the last payloads.
                del popped
        except self._fatal:
            logger.critical("no more work can be done", exc_info=True)
        finally:
            # Reached on `close`, and also if the thread dies: nobody may wait for a dead thread.
            self.close()

    def _run_on_share(self, lane: int, key: KeyT, payloads: list[PayloadT]) -> Sequence[ResultT]:
        self._take_share(self._shares.share(lane))
        return self._run(key, payloads)

    def _next_batch(self, lane: int) -> Popped[KeyT, Item[PayloadT, ResultT]] | None:
        """Block until a batch is due and has a part of the device; None once closed."""
        with self._lock:
            self._shares.end(lane)
            while not self._closed:
                if not self._shares.free:
                    self._wait(lane)
                    continue
                now = self._clock()
                popped = self._queue.pop(now, room=self._shares.room, lanes=self._shares.free)
                self._deliver([Verdict(item, too_late()) for item in popped.expired])
                if popped.batch:
                    self._begin(lane, sum(item.pixels for item in popped.batch), now)
                    return popped
                # An idle thread must not hold on to what has expired.
                del popped
                due_in = self._queue.due_in(now)
                # What is due and was not taken has no room until another batch ends.
                self._wait(lane, None if self._shares.running and due_in == 0 else due_in)
            return None

    def _begin(self, lane: int, pixels: int, now: float) -> None:
        """Give a lane's batch its share of the device, and wake up whoever can use the rest."""
        shares, queue = self._shares, self._queue
        shares.begin(lane, pixels=pixels, others=queue.batches, next_pixels=queue.next_pixels(now))
        shares.expect(lane, now + self._cost.seconds(pixels) / shares.share(lane))
        if shares.free and len(queue):
            self._call()

    def _wait(self, lane: int, timeout_s: float | None = None) -> None:
        self._idle.append(lane)
        self._called[lane].wait(timeout_s)
        if lane in self._idle:  # nobody called
            self._idle.remove(lane)

    def _call(self) -> None:
        """Wake up the lane that became idle last: its thread's memory and caches are warm."""
        if self._idle:
            self._called[self._idle.pop()].notify()

    def _ran(self, lane: int, report: BatchReport[KeyT]) -> None:
        with self._lock:
            self._shares.expect_no_more(lane)
            device_s = report.ran_s * self._shares.share(lane)
            if not report.failed:
                self._cost.add(images=report.images, pixels=report.pixels, seconds=device_s)
        self._in_loop(lambda: self._observe(report, device_s))

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
