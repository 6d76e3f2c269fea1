"""How much memory this process may still take.

Linux promises memory that it does not have and kills a process that then touches it, or that
outgrows the limit of its container (its control group): no allocation fails that one could catch.
So one has to look before.
"""

from pathlib import Path


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
    """Return what is left of the limit in each group that has one, version 1 and version 2.

    `/proc/self/cgroup` has a line `ID:CONTROLLERS:PATH` for each hierarchy. A container often
    sees its own group as the root, whatever path that file tells, so the root is looked at too.
    """
    left = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mount, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = mount / path.lstrip("/")
        while group.is_relative_to(mount):
            left.append(_left_in_group(group, *names))
            group = group.parent
    return [room for room in left if room is not None]


def _left_in_group(group: Path, limit_name: str, usage_name: str, cached: str) -> int | None:
    limit, usage = _read(group / limit_name).strip(), _read(group / usage_name).strip()
    if not (limit.isdecimal() and usage.isdecimal()):  # no limit is "max" in version 2
        return None
    return int(limit) - int(usage) + (_entry(group / "memory.stat", cached) or 0)


def _entry(path: Path, name: str) -> int | None:
    """Return the number after a name in a file of `name number` lines; None if there is none."""
    for line in _read(path).splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == name and words[1].isdecimal():
            return int(words[1])
    return None


def _read(path: Path) -> str:
    """Return a file's text; empty if it cannot be read, as where a kernel does not have it."""
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""
