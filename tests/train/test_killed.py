"""A run that is killed outright, at any moment, goes on as if nothing had happened."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from drawn_folder import draw_folder

OPTIONS = "--dataset folder --device cpu --precision fp32 --backbone alexnet --head-width 4"
OPTIONS += " --crop 64x64 --batch-size 4 --epochs 8 --val-every 2"


def command(out: Path, *more: str) -> list[str]:
    data = str(out.parent / "data")
    return [
        sys.executable,
        "-m",
        "app.train",
        *OPTIONS.split(),
        "--data",
        data,
        "--out",
        str(out),
        *more,
    ]


def run(out: Path, *more: str) -> float:
    """Train to the end; return the seconds that took."""
    started = time.monotonic()
    done = subprocess.run(command(out, *more), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return time.monotonic() - started


def kill_after(seconds: float, out: Path) -> bool:
    """Start or resume a run and kill it; return whether it was still running."""
    more = ["--resume"] if (out / "config.json").exists() else []
    process = subprocess.Popen(
        command(out, *more), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True
    return False


def kill_after_an_epoch(out: Path) -> None:
    """Start a run and kill it as soon as it has finished the first of its epochs."""
    process = subprocess.Popen(command(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (out / "metrics.jsonl").exists():
        assert process.poll() is None, "the run ended before its first epoch did"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Draw the data; return the folders of an undisturbed run and of one that is killed."""
    (tmp_path / "data").mkdir()
    draw_folder(tmp_path / "data", train=24, val=4)
    return tmp_path / "whole", tmp_path / "parts"


def finish_and_compare(whole: Path, parts: Path) -> None:
    run(parts, *(["--resume"] if (parts / "config.json").exists() else []))
    for name in ("best.safetensors", "metrics.jsonl"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes(), name
    assert {path.name for path in parts.iterdir()} == {path.name for path in whole.iterdir()}


@pytest.mark.timeout(600)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole, parts = folders(tmp_path)
    run(whole)
    kill_after_an_epoch(parts)
    finish_and_compare(whole, parts)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_killed_ten_times_ends_in_the_same_bytes(tmp_path: Path) -> None:
    whole, parts = folders(tmp_path)
    duration = run(whole)
    moments = random.Random(0)
    killed = sum(kill_after(moments.uniform(0.3, 1.0) * duration, parts) for _ in range(10))
    assert killed > 0
    finish_and_compare(whole, parts)
