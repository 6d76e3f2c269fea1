"""Progress of a training run: a bar on a terminal, plain lines elsewhere."""

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

from app.cli import LINE_EVERY_S


class Progress:
    """Shows steps and epochs.

    Args:
        console: Where to; decides between bar and lines.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Bar(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}, {task.fields[speed]:.1f} images/s"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("training", loss=float("nan"), speed=0.0)
        self._last_line = time.monotonic()

    def __enter__(self) -> "Progress":
        """Start the bar."""
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the terminal as it was."""
        self._bar.stop()

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def step(self, step: int, steps: int, *, loss: float, images_per_second: float) -> None:
        """Report one optimiser step of the whole run."""
        self._bar.update(
            self._task, completed=step, total=steps, loss=loss, speed=images_per_second
        )
        now = time.monotonic()
        if not self._console.is_terminal and now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            self.say(f"step {step}/{steps}: loss {loss:.3f}, {images_per_second:.1f} images/s")

    def epoch(self, line: dict[str, Any], epochs: int, *, best: float) -> None:
        """Report a finished epoch, a line of `metrics.jsonl`."""
        text = f"epoch {line['epoch']}/{epochs}: loss {line['loss']:.4f}"
        if "val" in line:
            val = line["val"]
            text += (
                f", val mIoU {_show(val['mean_iu'])} (best {best:.4f}), "
                f"pixel accuracy {_show(val['pixel_accuracy'])}"
            )
        self.say(text)


def _show(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
