"""What a run tells of itself: bar, lines, the time left, events."""

from typing import Any

import pytest
from progress_doubles import Clock, console
from rich.console import Console

from app.train import progress as module
from app.train.progress import Progress, show_duration


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def line(epoch: int, **values: Any) -> dict[str, Any]:
    return {"epoch": epoch, "step": 10 * epoch, "learning_rate": 1e-3, "loss": 0.5, **values}


VAL = {"mean_iu": 0.5123, "pixel_accuracy": 0.8}


def test_lines_come_seldom_and_tell_the_time_left(clock: Clock) -> None:
    where, output = console(terminal=False)
    with Progress(where) as progress:
        for step in range(1, 14):  # 5 s each: 60 s from the first to the last
            progress.step(step, 100, loss=0.25, images_per_second=1.6)
            clock.now += 5
    first, second = output.getvalue().splitlines()
    # 30 s after the start; 6 steps took them, 93 are left.
    assert first == "step 7/100, 8 min left, loss 0.250, 1.6 images/s"
    assert second.startswith("step 13/100, 7 min left")


def test_an_epochs_line_tells_val_best_and_the_time_left(clock: Clock) -> None:
    where, output = console(terminal=False)
    progress = Progress(where)
    for step in range(1, 11):
        progress.step(step, 40, loss=0.25, images_per_second=1.6)
        clock.now += 1
    progress.epoch(line(1, val=VAL), 4, best=0.6)
    assert output.getvalue().strip() == (
        "epoch 1/4: loss 0.5000, val mIoU 0.5123 (best 0.6000), pixel accuracy 0.8000, 33 s left"
    )


def test_the_time_left_is_that_of_the_work_where_steps_differ(clock: Clock) -> None:
    where, output = console(terminal=False)
    progress = Progress(where)
    for step in range(1, 12):  # 1 s each, a third of what the later ones will take
        progress.step(step, 20, loss=0.25, images_per_second=1.6, work=(step / 3, 14.0))
        clock.now += 1
    progress.epoch(line(1), 4, best=0.6)
    assert output.getvalue().strip().endswith(", 34 s left")


def test_validations_count_in_the_time_left(clock: Clock) -> None:
    where, output = console(terminal=False)
    progress = Progress(where)
    progress.step(1, 3, loss=0.25, images_per_second=1.6)
    clock.now += 1
    progress.step(2, 3, loss=0.25, images_per_second=1.6)
    clock.now += 599  # of validation
    progress.epoch(line(1), 2, best=-1)
    assert output.getvalue().strip().endswith(", 10 min left")


def test_a_resumed_run_is_timed_by_its_own_steps(clock: Clock) -> None:
    where, output = console(terminal=False)
    progress = Progress(where)
    for step in (901, 902, 903):
        clock.now += 60
        progress.step(step, 1000, loss=0.25, images_per_second=1.6)
    assert output.getvalue().splitlines()[-1].startswith("step 903/1000, 1 h 37 min left")
    assert progress.account() == "steps 901 to 903 in 3 min"


def test_a_finished_run_has_no_time_left_and_its_account(clock: Clock) -> None:
    where, output = console(terminal=False)
    progress = Progress(where)
    assert progress.account() == "no step"
    for step in (1, 2):
        clock.now += 30
        progress.step(step, 2, loss=0.25, images_per_second=1.6)
    progress.epoch(line(1), 1, best=-1)
    assert output.getvalue().splitlines()[-1] == "epoch 1/1: loss 0.5000"
    assert progress.account() == "2 steps in 1 min"


@pytest.mark.parametrize(("waiting", "shown"), [(0.05, False), (0.35, True)])
def test_waiting_for_data_is_told_when_it_costs_time(
    clock: Clock, waiting: float, shown: bool
) -> None:
    where, output = console(terminal=False)
    progress = Progress(where)
    clock.now += 60
    progress.step(1, 2, loss=0.25, images_per_second=1.6, waiting=waiting)
    assert ("35% waiting for data" in output.getvalue()) == shown


def test_a_bar_holds_all_figures_in_80_columns(clock: Clock) -> None:
    where, output = console(terminal=True, width=80)
    with Progress(where) as progress:
        progress.step(2000, 2760, loss=0.25, images_per_second=112.3)
        progress.epoch(line(1, val=VAL), 4, best=0.5123)
        clock.now += 5.7
        progress.step(2001, 2760, loss=0.25, images_per_second=112.3)
    printed = output.getvalue()
    assert "2001/2760, 1 h 12 min left, loss 0.250, mIoU 0.512, 112.3 images/s" in printed
    assert "━" in printed
    assert "step 2001/2760" not in printed


def test_undefined_val_is_told_as_such(clock: Clock) -> None:
    where, output = console(terminal=False)
    val = {"mean_iu": None, "pixel_accuracy": None}
    Progress(where).epoch(line(1, val=val), 4, best=-1)
    assert "val mIoU undefined" in output.getvalue()


class Recorder:
    """Stands in for the events."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def step(self, *args: Any, **kwargs: Any) -> None:
        self.calls.append(("step", *args, kwargs))

    def epoch(self, line: dict[str, Any]) -> None:
        self.calls.append(("epoch", line))

    def close(self) -> None:
        self.calls.append(("close",))


def test_events_get_everything_and_are_closed_even_after_an_error() -> None:
    events = Recorder()
    values = {"loss": 0.25, "images_per_second": 1.6, "waiting": 0.1, "learning_rate": 1e-3}

    def fail() -> None:
        with Progress(Console(quiet=True), events) as progress:  # type: ignore[arg-type]
            progress.step(1, 2, **values)
            progress.epoch(line(1), 1, best=-1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert events.calls == [("step", 1, 2, values), ("epoch", line(1)), ("close",)]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (3569, "59 min"),
        (3590, "1 h 00 min"),
        (100 * 3600, "100 h 00 min"),
    ],
)
def test_durations_are_told_as_people_do(seconds: float, shown: str) -> None:
    assert show_duration(seconds) == shown
