"""TensorBoard events, read back as TensorBoard does."""

import os
import signal
import sys
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from app.errors import UsageError
from app.train import events as module
from app.train.__main__ import train
from app.train.events import Events
from app.train.trainer import Trainer


def take(events: Events, step: int, loss: float, *, steps: int = 6, **values: Any) -> None:
    defaults = {"images_per_second": 2.0, "waiting": 0.25, "learning_rate": 1e-3}
    events.step(step, steps, loss=loss, **(defaults | values))


def line(step: int, mean_iu: float | None) -> dict[str, Any]:
    val = {"mean_iu": mean_iu, "pixel_accuracy": 0.75, "iu": {"leaf & stem": 0.5, "spot": None}}
    return {"epoch": 1, "step": step, "loss": 1.0, "learning_rate": 1e-3, "val": val}


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


def test_steps_and_epochs_become_curves(tmp_path: Path) -> None:
    events = Events(tmp_path)
    for step in (1, 2, 3):
        take(events, step, loss=step / 4)
    events.epoch(line(3, mean_iu=0.5))
    events.close()
    curves = read(tmp_path)
    assert curves["train/loss"] == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert curves["train/learning_rate"] == [(step, pytest.approx(1e-3)) for step in (1, 2, 3)]
    assert curves["train/images_per_second"][0] == (1, 2.0)
    assert curves["train/waiting_for_data"][0] == (1, 0.25)
    assert curves["val/mean_iu"] == [(3, 0.5)]
    assert curves["val/pixel_accuracy"] == [(3, 0.75)]
    assert curves["val_iu/leaf & stem"] == [(3, 0.5)]
    assert "val_iu/spot" not in curves


def test_what_is_not_known_leaves_a_gap(tmp_path: Path) -> None:
    events = Events(tmp_path)
    take(events, 1, loss=1, learning_rate=None)
    events.epoch(line(1, mean_iu=None))
    events.epoch({key: value for key, value in line(2, None).items() if key != "val"})
    events.close()
    assert {"train/learning_rate", "val/mean_iu"}.isdisjoint(read(tmp_path))


def test_long_runs_write_means_and_their_last_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POINTS", 4)
    events = Events(tmp_path)
    for step in range(1, 10):
        take(events, step, loss=step, steps=9)
    events.close()
    assert read(tmp_path)["train/loss"] == [(2, 1.5), (4, 3.5), (6, 5.5), (8, 7.5), (9, 9)]


def test_steps_that_are_done_again_are_drawn_once(tmp_path: Path) -> None:
    """A state of step 3 was saved, the process was killed in step 5, and another went on."""
    killed = Events(tmp_path)
    for step in range(1, 6):
        take(killed, step, loss=step)
        if step == 3:
            killed.epoch(line(3, mean_iu=0.5))
    killed.close()
    resumed = Events(tmp_path)
    for step in range(4, 7):
        take(resumed, step, loss=10 * step)
    resumed.epoch(line(6, mean_iu=0.75))
    resumed.close()
    curves = read(tmp_path)
    assert curves["train/loss"] == [(1, 1), (2, 2), (3, 3), (4, 40), (5, 50), (6, 60)]
    assert curves["val/mean_iu"] == [(3, 0.5), (6, 0.75)]


def test_a_process_that_only_validates_keeps_the_step_before(tmp_path: Path) -> None:
    """A process was stopped in the validation after step 3; the next one begins with it."""
    stopped = Events(tmp_path)
    for step in range(1, 4):
        take(stopped, step, loss=step)
    stopped.close()
    resumed = Events(tmp_path)
    resumed.epoch(line(3, mean_iu=0.5))
    resumed.close()
    curves = read(tmp_path)
    assert curves["train/loss"] == [(1, 1), (2, 2), (3, 3)]
    assert curves["val/mean_iu"] == [(3, 0.5)]


def test_nothing_is_written_before_there_is_an_event(tmp_path: Path) -> None:
    Events(tmp_path / "tensorboard").close()
    assert not (tmp_path / "tensorboard").exists()


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match=r"--tensorboard needs .*pip install tensorboard") as error:
        Events(tmp_path)
    assert "\n" not in str(error.value)


def test_a_stopped_run_goes_on_in_its_events_and_its_report_tells_both_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer._train_step

    def step_with_ctrl_c(self: Trainer, *args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return step(self, *args)

    words = ["--dataset", "shapes", "--device", "cpu", "--precision", "fp32", "--head-width", "8"]
    words += ["--crop", "32x32", "--batch-size", "2", "--max-steps", "3", "--tensorboard"]
    out = str(tmp_path / "run")
    monkeypatch.setattr(Trainer, "_train_step", step_with_ctrl_c)
    assert train([*words, "--out", out]) == 130
    monkeypatch.setattr(Trainer, "_train_step", step)
    assert train(["--out", out, "--resume"]) == 0

    curves = read(tmp_path / "run" / "tensorboard")
    assert [step for step, _ in curves["train/loss"]] == [1, 2, 3]
    assert [step for step, _ in curves["val/mean_iu"]] == [3]
    assert {"val_iu/circle", "val/pixel_accuracy"} <= curves.keys()
    report = unescape((tmp_path / "run" / "report.html").read_text())
    assert f"python -m app.train {' '.join(words)} --out {out}</pre>" in report
    assert f"python -m app.train --out {out} --resume</pre>" in report
    assert "steps 2 to 3 in " in report
