"""Linux's control groups (cgroups): where the limits of a container lie.

`man 7 cgroups`; https://docs.kernel.org/admin-guide/cgroup-v2.html and cgroup-v1/.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple


class Group(NamedTuple):
    """A control group.

    Attributes:
        version: 1 or 2; they name their files differently.
        folder: Where its files lie.
    """

    version: Literal[1, 2]
    folder: Path


@functools.cache
def groups_of_this_process(controller: str, root: Path = Path("/")) -> Sequence[Group]:
    """Return each group that this process is in, from its own up to the root: all limits hold.

    Looked up once: memory is asked for before every forward, and processes hardly ever move.

    `/proc/self/cgroup` has a line `ID:CONTROLLERS:PATH` for each hierarchy. A container often
    sees its own group as the root, whatever path that file tells, so folders may be missing.

    Args:
        controller: `cpu` or `memory`.
        root: Where `proc` and `sys` lie.
    """
    groups = []
    for line in read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        version: Literal[1, 2]
        if not controllers:
            version, mount = 2, root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            version, mount = 1, root / "sys/fs/cgroup" / controller
        else:
            continue
        folder = mount / path.lstrip("/")
        while folder.is_relative_to(mount):
            if folder.is_dir():
                groups.append(Group(version, folder))
            folder = folder.parent
    return groups


def read(path: Path) -> str:
    """Return a file's text; empty if it cannot be read, as where a kernel does not have it."""
    try:
        with path.open("rb", buffering=0) as file:  # half the time of reading text
            return file.read().decode()
    except (OSError, ValueError):
        return ""
