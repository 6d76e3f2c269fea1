"""Progress of many photos on stderr: a bar on a terminal, plain lines elsewhere."""

import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import Progress as Bar

LINE_EVERY_S: Final = 30.0
"""Seconds between lines where there is no terminal, as of the other commands."""


class Progress:
    """Shows how many of some photos are done.

    Args:
        total: How many there are.
        shown: Whether to show anything at all.
    """

    def __init__(self, total: int, *, shown: bool) -> None:
        self._total = total
        self._shown = shown
        self._done = 0

    def __enter__(self) -> Self:
        """Start the bar."""
        if self._shown:
            self._console = Console(stderr=True)
            self._bar = Bar(
                console=self._console, transient=True, disable=not self._console.is_terminal
            )
            self._task = self._bar.add_task("segmenting", total=self._total)
            self._last_line = time.monotonic()
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the terminal as it was."""
        if self._shown:
            self._bar.stop()

    def advance(self) -> None:
        """Count one photo."""
        self._done += 1
        if not self._shown:
            return
        self._bar.advance(self._task)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            self.say(f"segmenting: {self._done} of {self._total}")

    def say(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        if self._shown:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
