"""Progress of a training run: a bar on a terminal, plain lines elsewhere, events if asked for."""

import time
from types import TracebackType
from typing import Any, Final, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from app.progress import LineTimer
from app.train.events import Events

BAR_WIDTH: Final = 10
"""In characters: 80 columns hold it and all figures."""

WAITING_SHOWN: Final = 0.1
"""Share of the time spent waiting for data from which on it is worth a word."""


class _Moment(NamedTuple):
    """How far a run had come: steps, work done, and when."""

    step: int
    work: float
    time: float


class Progress:
    """Shows steps and epochs.

    Args:
        console: Where to; decides between bar and lines.
        events: Where TensorBoard events go, None for nowhere; closed when the bar is.
    """

    def __init__(self, console: Console, events: Events | None = None) -> None:
        self._console = console
        self._events = events
        self._bar = Bar(
            # On a narrow terminal the bar goes first, then the status is cut at its right end.
            BarColumn(bar_width=BAR_WIDTH),
            TextColumn("{task.completed}/{task.total}, {task.fields[status]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=0, status="", visible=False)
        self._began = time.monotonic()
        self._timer = LineTimer(self._began)
        self._first: _Moment | None = None
        self._latest = _Moment(0, 0.0, 0.0)
        self._work_left = 0.0
        self._val = ""

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
        if self._events:
            self._events.close()

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def step(
        self,
        step: int,
        steps: int,
        *,
        loss: float,
        images_per_second: float,
        waiting: float = 0.0,
        learning_rate: float | None = None,
        work: tuple[float, float] | None = None,
    ) -> None:
        """Report one optimiser step.

        Args:
            step: Steps done, of the whole run.
            steps: Steps of the whole run.
            loss: Of this step.
            images_per_second: Photos trained on.
            waiting: Share of the time spent waiting for data, 0 to 1.
            learning_rate: Of this step.
            work: What is done and what there is in all, where steps do not all cost the same;
                from it the time left is told.
        """
        now = time.monotonic()
        done, whole = work or (step, steps)
        self._latest = _Moment(step, done, now)
        self._work_left = whole - done
        if self._first is None:
            self._first = self._latest
        parts = [self._time_left(), f"loss {loss:.3f}", self._val]
        parts.append(f"{images_per_second:.1f} images/s")
        if waiting > WAITING_SHOWN:
            parts.append(f"{waiting:.0%} waiting for data")
        status = ", ".join(part for part in parts if part)
        self._bar.update(self._task, completed=step, total=steps, status=status, visible=True)
        if not self._console.is_terminal and self._timer.due(now):
            self.say(f"step {step}/{steps}, {status}")
        if self._events:
            self._events.step(
                step,
                steps,
                loss=loss,
                images_per_second=images_per_second,
                waiting=waiting,
                learning_rate=learning_rate,
            )

    def epoch(self, line: dict[str, Any], epochs: int, *, best: float) -> None:
        """Report a finished epoch.

        Args:
            line: The epoch's line of `metrics.jsonl`.
            epochs: Of the whole run.
            best: Highest val mIoU so far.
        """
        parts = [f"epoch {line['epoch']}/{epochs}: loss {line['loss']:.4f}"]
        if "val" in line:
            val = line["val"]
            self._val = f"mIoU {_show(val['mean_iu'], 3)}"
            parts.append(f"val mIoU {_show(val['mean_iu'], 4)} (best {best:.4f})")
            parts.append(f"pixel accuracy {_show(val['pixel_accuracy'], 4)}")
        if left := self._time_left():
            parts.append(left)
        self.say(", ".join(parts))
        if self._events:
            self._events.epoch(line)

    def account(self) -> str:
        """Say which steps were made, and how long it has taken with all that stands around them."""
        if self._first is None:
            return "no step"
        first, last = self._first.step, self._latest.step
        steps = f"{last} steps" if first == 1 else f"steps {first} to {last}"
        return f"{steps} in {show_duration(time.monotonic() - self._began)}"

    def _time_left(self) -> str:
        """Estimate it from this process's pace, validations included; empty if not known.

        The first step is no measure: it warms up kernels and workers.
        """
        if self._first is None or self._latest.step == self._first.step or self._work_left <= 0:
            return ""
        seconds = time.monotonic() - self._first.time
        pace = seconds / (self._latest.work - self._first.work)
        return f"{show_duration(pace * self._work_left)} left"


def show_duration(seconds: float) -> str:
    """Return a time as people say it, in `s`, `min`, or `h` and `min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02} min"


def _show(value: float | None, digits: int) -> str:
    return "undefined" if value is None else f"{value:.{digits}f}"
