"""How much memory this process may still take.

Linux promises memory that it does not have and kills a process that then touches it, or that
outgrows the limit of its container (its control group): no allocation fails that one could catch.
So one has to look before.
"""

from pathlib import Path
from typing import Final

from app.inference.control_groups import Group, groups_of_this_process, read

_FILES: Final = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}
"""By version: a group's limit, what it uses, and the entry of `memory.stat` for cached files."""


def available_bytes(root: Path = Path("/")) -> int | None:
    """Return the bytes that this process can take before something is killed; None if unknown.

    The least of what the machine has left and of what each control group that the process is in
    has left of its limit. Memory that the kernel can take back from cached files is counted as
    left. Unknown on systems without `/proc/meminfo`.

    Args:
        root: Where `proc` and `sys` lie.
    """
    machine = _entry(root / "proc/meminfo", "MemAvailable:")
    if machine is None:
        return None
    return max(0, min([machine * 1024, *_left_in_groups(root)]))


def _left_in_groups(root: Path) -> list[int]:
    """Return what is left of the limit in each group that has one."""
    left = (_left_in_group(group) for group in groups_of_this_process("memory", root))
    return [room for room in left if room is not None]


def _left_in_group(group: Group) -> int | None:
    limit_name, usage_name, cached = _FILES[group.version]
    limit, usage = (read(group.folder / name).strip() for name in (limit_name, usage_name))
    if not (limit.isdecimal() and usage.isdecimal()):  # no limit is "max" in version 2
        return None
    return int(limit) - int(usage) + (_entry(group.folder / "memory.stat", cached) or 0)


def _entry(path: Path, name: str) -> int | None:
    """Return the number after a name in a file of `name number` lines; None if there is none."""
    for line in read(path).splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == name and words[1].isdecimal():
            return int(words[1])
    return None
