"""Progress of many things: a bar on a terminal, a line every 30 s elsewhere; imports no torch."""

import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import Progress as Bar

LINE_EVERY_S: Final = 30.0
"""Seconds between lines where there is no terminal: a log of hours stays readable."""


class LineTimer:
    """Tells whether the next line is due.

    Args:
        now: When the work began, in seconds of `time.monotonic()`.
    """

    def __init__(self, now: float) -> None:
        self._last = now

    def due(self, now: float) -> bool:
        """Return whether `LINE_EVERY_S` have passed since the last line; they begin again then."""
        if now - self._last < LINE_EVERY_S:
            return False
        self._last = now
        return True


class Progress:
    """Shows how many of some things are done.

    Args:
        total: How many there are.
        what: What is done to them, as in `segmenting`.
        console: Where to; None for nowhere.
    """

    def __init__(self, total: int, what: str, console: Console | None) -> None:
        self._total = total
        self._what = what
        self._console = console
        self._done = 0
        self._timer = LineTimer(time.monotonic())
        self._bar: Bar | None = None
        if console is not None and console.is_terminal:
            self._bar = Bar(console=console, transient=True)
            self._task = self._bar.add_task(what, total=total)

    def __enter__(self) -> Self:
        """Start the bar."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()

    def advance(self) -> None:
        """Count one more."""
        self._done += 1
        if self._bar is not None:
            self._bar.advance(self._task)
        elif self._timer.due(time.monotonic()):
            self.say(f"{self._what}: {self._done} of {self._total}")

    def say(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        if self._console is not None:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
