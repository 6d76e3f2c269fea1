import sys
from pathlib import Path

import pytest
from made_up_system import write_system

from app.inference.memory import available_bytes

MIB = 2**20


def system(root: Path, files: dict[str, str]) -> Path:
    """A made-up machine with 1 GiB available, and these files."""
    meminfo = "MemTotal: 4194304 kB\nMemAvailable:    1048576 kB\n"
    return write_system(root, {"proc/meminfo": meminfo, **files})


def test_without_groups_it_is_what_the_machine_has_left(tmp_path: Path) -> None:
    assert available_bytes(system(tmp_path, {})) == 1024 * MIB


def test_a_system_without_meminfo_is_unknown(tmp_path: Path) -> None:
    assert available_bytes(tmp_path) is None


def test_version_2_limit_less_usage_but_for_cached_files(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": f"{512 * MIB}\n",
        "sys/fs/cgroup/memory.current": f"{300 * MIB}\n",
        "sys/fs/cgroup/memory.stat": f"anon {200 * MIB}\nfile {100 * MIB}\n"
        f"inactive_anon 0\ninactive_file {80 * MIB}\n",
    }
    assert available_bytes(system(tmp_path, files)) == (512 - 300 + 80) * MIB


def test_the_tightest_group_above_counts(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/machine.slice/box.scope"
    files = {
        "proc/self/cgroup": "0::/machine.slice/box.scope\n",
        f"{group}/memory.max": "max\n",
        f"{group}/memory.current": f"{100 * MIB}\n",
        "sys/fs/cgroup/machine.slice/memory.max": f"{400 * MIB}\n",
        "sys/fs/cgroup/machine.slice/memory.current": f"{350 * MIB}\n",
    }
    assert available_bytes(system(tmp_path, files)) == 50 * MIB


def test_a_container_that_is_told_the_hosts_path_sees_its_group_as_the_root(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "12:cpu,cpuacct:/docker/abc\n11:memory:/docker/abc\n0::/docker/abc\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{512 * MIB}\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{500 * MIB}\n",
        "sys/fs/cgroup/memory/memory.stat": f"inactive_file 1\ntotal_inactive_file {8 * MIB}\n",
    }
    assert available_bytes(system(tmp_path, files)) == 20 * MIB


def test_version_1_without_a_limit_is_a_huge_number(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "4:memory:/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{300 * MIB}\n",
    }
    assert available_bytes(system(tmp_path, files)) == 1024 * MIB


def test_a_group_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": "1000\n",
        "sys/fs/cgroup/memory.current": "2000\n",
    }
    assert available_bytes(system(tmp_path, files)) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_this_machine_has_something_left() -> None:
    available = available_bytes()
    assert available is not None
    assert available > MIB
