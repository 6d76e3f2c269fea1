"""How far the event loop is behind: it, too, is a stage that requests queue for."""

import asyncio
from collections import deque
from typing import Final

_EVERY_S: Final = 0.05
"""Pause between two askings."""

_RECENT: Final = 8
"""Askings that count, without the worst of them: a single stall, as of the garbage collector, is
over by the time that it is known. Turns of a busy loop are long and short by turns, so that the
mean tells how long several of them take."""


class LoopLag:
    """Seconds between the moment a callback is due and the moment it is run, as of late.

    Must be made inside the running event loop, and closed. Readable from any thread.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._recent = deque([0.0] * _RECENT, maxlen=_RECENT)
        self._ask()

    @property
    def seconds(self) -> float:
        """How late the loop is, for longer than a moment."""
        recent = tuple(self._recent)  # the loop's thread changes it
        return (sum(recent) - max(recent)) / (_RECENT - 1)

    def close(self) -> None:
        """Ask no more."""
        self._handle.cancel()

    def _ask(self) -> None:
        self._due = self._loop.time() + _EVERY_S
        self._handle = self._loop.call_at(self._due, self._answer)

    def _answer(self) -> None:
        self._recent.append(max(0.0, self._loop.time() - self._due))
        self._ask()
