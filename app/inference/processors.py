"""How many processors this process may use."""

import math
import os
from pathlib import Path

from app.inference.control_groups import Group, groups_of_this_process, read


def usable_processors(root: Path = Path("/")) -> int:
    """Return how many threads of this process can run at a time, at least 1.

    The least of the processors that it may run on (`taskset`, Docker's `--cpuset-cpus`) and the
    processor time that the control groups it is in may take: Docker's `--cpus`, Kubernetes'
    `limits.cpu`. The kernel does not hide the other processors from a process with such a quota, it
    stops all its threads once they have used it up: with a thread for each processor of a large
    machine a forward takes many times as long as with the few that fit. Part of a processor counts
    as a whole one, as for the JVM.

    Args:
        root: Where `proc` and `sys` lie.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quotas = [_quota(group) for group in groups_of_this_process("cpu", root)]
    return max(1, min([allowed or 1, *(math.ceil(quota) for quota in quotas if quota is not None)]))


def _quota(group: Group) -> float | None:
    """Return the processors whose time a group may take; None without a limit."""
    if group.version == 2:
        words = read(group.folder / "cpu.max").split()  # no limit is "max"
    else:
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")  # no limit is -1
        words = [read(group.folder / name).strip() for name in names]
    if len(words) == 2 and all(word.isdecimal() and int(word) for word in words):
        return int(words[0]) / int(words[1])
    return None
