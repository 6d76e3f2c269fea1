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


def kill_and_compare(tmp_path: Path, kills: int) -> None:
    (tmp_path / "data").mkdir()
    draw_folder(tmp_path / "data", train=24, val=4)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    duration = run(whole)
    moments = random.Random(0)
    killed = sum(kill_after(moments.uniform(0.3, 1.0) * duration, parts) for _ in range(kills))
    assert killed > 0
    run(parts, *(["--resume"] if (parts / "config.json").exists() else []))
    for name in ("best.safetensors", "metrics.jsonl"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes(), name
    assert {path.name for path in parts.iterdir()} == {path.name for path in whole.iterdir()}


@pytest.mark.timeout(600)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    kill_and_compare(tmp_path, kills=1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_killed_ten_times_ends_in_the_same_bytes(tmp_path: Path) -> None:
    kill_and_compare(tmp_path, kills=10)
