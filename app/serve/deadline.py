"""Ending the work on a request early: at its deadline, when its client leaves, or on shutdown."""

import asyncio
import time
from types import TracebackType
from typing import Self

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from app.serve.batcher import DeadlineExceededError


class RequestScope:
    """An async context whose block is cancelled when its answer is no longer wanted.

    Args:
        deadline: In seconds of `time.monotonic`.
        timeout_s: What the deadline came from, for the message.

    Attributes:
        received: Whether the request has arrived completely: it is taken then, and a shutdown
            waits for its answer.

    Raises:
        DeadlineExceededError: From the block's end, if the deadline passed in it.
        ClientDisconnect: If the client left; see `watch`.
        Exception: Whatever `abort` was called with.
    """

    def __init__(self, deadline: float, timeout_s: float) -> None:
        self.deadline = deadline
        self.received = False
        self._reason: Exception | None = DeadlineExceededError(
            f"The answer was not ready within {timeout_s:g} seconds; try a smaller photo or a "
            "smaller `scale`, or come back when the server is less busy."
        )
        self._ended = False
        self._watcher: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._timer = asyncio.timeout(self.deadline - time.monotonic())
        await self._timer.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended = True
        if self._watcher is not None:
            self._watcher.cancel()
        try:
            await self._timer.__aexit__(kind, error, trace)
        except TimeoutError:
            raise self._taken_reason() from None
        if isinstance(error, DeadlineExceededError):
            raise self._taken_reason() from error  # the queue noticed before the timer

    def _taken_reason(self) -> Exception:
        """Hand out the reason and forget it.

        Its traceback will lead to the block's frames and what they hold: the photo, an engine that
        has been replaced. A reason held by its own frames would keep them until a collection.
        """
        reason, self._reason = self._reason, None
        assert reason is not None  # a block ends once
        return reason

    def abort(self, reason: Exception) -> None:
        """Cancel the block and let it end with `reason`; does nothing if it has ended."""
        if not self._ended and not self._timer.expired():
            self._reason = reason
            self._timer.reschedule(asyncio.get_running_loop().time())

    def watch(self, receive: Receive) -> None:
        """Note that the body has been read; from now on abort when the client leaves."""
        self.received = True
        self._watcher = asyncio.create_task(self._wait_for_disconnect(receive))

    async def _wait_for_disconnect(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.abort(ClientDisconnect())
