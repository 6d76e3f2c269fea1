"""Threads for one stage of the work, and how long a newcomer would wait for one of them."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

ReturnT = TypeVar("ReturnT")

_RECENT: Final = 32
"""Tasks that the expected time of the next looks back on."""


class Workers:
    """A pool of threads that knows how long its tasks take.

    Args:
        name: Prefix of the threads' names.
        threads: How many there are.
    """

    def __init__(self, name: str, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, name)
        self._threads = threads
        self._lock = threading.Lock()
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._tasks = 0

    @property
    def task_s(self) -> float:
        """Expected seconds of a task: the mean of late, without the longest; 0 before the first.

        Tasks that fail count too: this is about when a thread is free again.
        """
        with self._lock:
            recent = list(self._recent)
        if len(recent) > 1:
            recent.remove(max(recent))
        return sum(recent) / len(recent) if recent else 0.0

    @property
    def wait_s(self) -> float:
        """Expected seconds until a thread is free for a task that comes now."""
        return self.wait_behind_s(self._tasks)

    def wait_behind_s(self, tasks: int) -> float:
        """Expected seconds until a thread is free for a task that has so many before it."""
        return max(0, tasks + 1 - self._threads) / self._threads * self.task_s

    async def run(self, function: Callable[[], ReturnT]) -> ReturnT:
        """Run a function in one of the threads; raises what it raises.

        Cancelling the call takes the function out of the queue, unless it runs already.
        """
        with self._lock:
            self._tasks += 1
        try:
            future = self._pool.submit(self._timed, function)
        except BaseException:  # shut down, or the system has no thread left
            self._finished(None)
            raise
        future.add_done_callback(self._finished)
        try:
            return await asyncio.wrap_future(future)
        finally:
            # Its error's traceback leads to this frame: they would keep each other, and the
            # request, until a collection.
            del future

    def shutdown(self) -> None:
        """Take no more tasks and drop those that wait; what runs is not interrupted."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _timed(self, function: Callable[[], ReturnT]) -> ReturnT:
        began = time.monotonic()
        try:
            return function()
        finally:
            seconds = time.monotonic() - began
            with self._lock:
                self._recent.append(seconds)

    def _finished(self, future: "Future[ReturnT] | None") -> None:
        with self._lock:
            self._tasks -= 1
