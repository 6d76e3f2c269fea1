import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_up_system import write_system

from app.inference.processors import usable_processors

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(autouse=True)
def sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of sixteen processors, all of which this process may run on."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)))


def test_without_groups_it_is_what_the_process_may_run_on(tmp_path: Path) -> None:
    assert usable_processors(tmp_path) == 16


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("10000 100000", 1),
        ("6400000 100000", 16),
        ("max 100000", 16),
        ("", 16),
        ("0 0", 16),
    ],
)
def test_version_2(tmp_path: Path, limit: str, expected: int) -> None:
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": limit + "\n"}
    assert usable_processors(write_system(tmp_path, files)) == expected


@pytest.mark.parametrize(("quota", "expected"), [("300000", 3), ("-1", 16)])
def test_version_1(tmp_path: Path, quota: str, expected: int) -> None:
    files = {
        "proc/self/cgroup": "3:cpuset:/\n2:cpu,cpuacct:/docker/abc\n0::/docker/abc\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": quota + "\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    }
    assert usable_processors(write_system(tmp_path, files)) == expected


def test_the_tightest_group_above_counts(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/pods.slice/box.scope\n",
        "sys/fs/cgroup/pods.slice/box.scope/cpu.max": "800000 100000\n",
        "sys/fs/cgroup/pods.slice/cpu.max": "400000 100000\n",
    }
    assert usable_processors(write_system(tmp_path, files)) == 4


@pytest.fixture
def one_processors_time() -> Iterator[Path]:
    """A control group of this machine that may take the time of one processor."""
    parents = [Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")]  # versions 1 and 2
    group = next(parent for parent in parents if parent.is_dir()) / f"fcn-test-{os.getpid()}"
    try:
        group.mkdir()
        if (group / "cpu.max").exists():
            (group / "cpu.max").write_text("100000 100000")
        else:
            (group / "cpu.cfs_quota_us").write_text("100000")
    except OSError as error:
        if group.is_dir():
            group.rmdir()
        pytest.skip(f"no control group can be made here: {error}")
    yield group
    group.rmdir()


def test_torch_takes_no_more_threads_than_a_quota_lets_run(one_processors_time: Path) -> None:
    code = f"""
import os, pathlib
pathlib.Path({str(one_processors_time / "cgroup.procs")!r}).write_text(str(os.getpid()))
import torch
from app.inference.device import choose_compute
torch.set_num_threads(2)
choose_compute("cpu")
print(torch.get_num_threads())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
