"""A clock that a test moves, and a console that it reads."""

import io

from rich.console import Console


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def console(*, terminal: bool, width: int = 100) -> tuple[Console, io.StringIO]:
    """Return a console and where it writes to."""
    output = io.StringIO()
    return Console(file=output, force_terminal=terminal, width=width, color_system=None), output
