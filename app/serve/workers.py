"""Threads for one stage of the work, and how long a newcomer would wait for one of them."""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Final, Generic, TypeVar

from app.serve.futures import settle

ReturnT = TypeVar("ReturnT")

_RECENT: Final = 32
"""Tasks that the expected time of the next looks back on."""


@dataclass(slots=True, eq=False)
class _Task(Generic[ReturnT]):
    """A function on its way through a thread; without it once it is taken, or given up."""

    function: Callable[[], ReturnT] | None
    future: "asyncio.Future[ReturnT]"


class Workers:
    """A pool of threads that knows how long its tasks take.

    `concurrent.futures` would do, but its second future, linked to the loop's own, costs the loop
    half of all that it does for a stage. To be used in one event loop.

    Args:
        name: Prefix of the threads' names.
        threads: How many there are.
    """

    def __init__(self, name: str, threads: int) -> None:
        self._threads = threads
        self._lock = threading.Lock()
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._task_s = 0.0
        self._tasks = 0
        self._open = True
        self._queue: SimpleQueue[_Task[Any] | None] = SimpleQueue()
        for index in range(threads):
            threading.Thread(target=self._work, name=f"{name}_{index}", daemon=True).start()

    @property
    def task_s(self) -> float:
        """Expected seconds of a task: the mean of late, without the longest; 0 before the first.

        Tasks that fail count too: this is about when a thread is free again.
        """
        return self._task_s

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

        Raises:
            RuntimeError: If the pool is shut down.
        """
        if not self._open:
            raise RuntimeError("the threads are shut down")
        future: asyncio.Future[ReturnT] = asyncio.get_running_loop().create_future()
        task = _Task(function, future)
        with self._lock:
            self._tasks += 1
        self._queue.put(task)
        try:
            return await future
        finally:
            if self._take(task) is not None:
                self._leave()
            # Its error's traceback leads to this frame: they would keep each other, and the
            # request, until a collection.
            del future, task

    def learn(self, seconds: float) -> None:
        """Let a task count that was done elsewhere: it is one of those that `task_s` speaks of."""
        with self._lock:
            self._recent.append(seconds)
            recent = list(self._recent)
            if len(recent) > 1:
                recent.remove(max(recent))
            # Here and not when asked: requests ask several times each.
            self._task_s = sum(recent) / len(recent)

    def shutdown(self) -> None:
        """Take no more tasks and cancel those that wait; what runs is not interrupted."""
        self._open = False
        with contextlib.suppress(Empty):
            while True:
                task = self._queue.get_nowait()
                if task is not None:
                    task.future.cancel()
        for _ in range(self._threads):
            self._queue.put(None)

    def _take(self, task: _Task[ReturnT]) -> Callable[[], ReturnT] | None:
        """Return the task's function, once: to whoever runs it, or gives it up."""
        with self._lock:
            function, task.function = task.function, None
        return function

    def _leave(self) -> None:
        with self._lock:
            self._tasks -= 1

    def _work(self) -> None:
        while (task := self._queue.get()) is not None:
            function = self._take(task)
            if function is not None:
                began = time.monotonic()
                value, error = _outcome(function)
                self.learn(time.monotonic() - began)
                self._leave()
                # A closed loop has nobody left who waits.
                with contextlib.suppress(RuntimeError):
                    future = task.future
                    future.get_loop().call_soon_threadsafe(settle, future, value, error)
                # An idle thread must not hold on to a request.
                del future, value, error
            del task, function


def _outcome(function: Callable[[], ReturnT]) -> tuple[ReturnT | None, BaseException | None]:
    """Return what a function returns, and what it raises."""
    try:
        return function(), None
    except BaseException as error:
        return None, error
