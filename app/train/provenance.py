"""What a run was made with: versions, device, and the commit of this code."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Final

import torch
import torchvision

ROOT: Final = Path(__file__).parents[2]
"""Where the checkout is, if this code runs from one."""

GIT_TIMEOUT_S: Final = 10.0
"""A repository on a slow disk may take seconds; a run does not wait longer for a side note."""


def describe_environment(device: torch.device) -> dict[str, str]:
    """Return what is needed to meet the same numbers again: software and device, by name.

    Args:
        device: That the run computes on.
    """
    environment = {
        "commit": git_commit(ROOT),
        "Python": platform.python_version(),
        "PyTorch": torch.__version__,
        "torchvision": torchvision.__version__,
        "system": platform.platform(),
    }
    if device.type == "cuda":
        environment["CUDA"] = torch.version.cuda or "none"
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        environment["cuDNN"] = str(cudnn)
        environment["device"] = torch.cuda.get_device_name(device)
    else:
        environment["device"] = (
            f"CPU, {torch.get_num_threads()} of {os.cpu_count()} threads, "
            f"{torch.backends.cpu.get_cpu_capability()}"
        )
    return environment


def git_commit(root: Path) -> str:
    """Return the commit that is checked out at `root`, with `-dirty` if files were changed.

    Without a checkout it is what `SOURCE_REVISION` says, as the Docker image sets it. A text that
    says why stands in its place where there is neither: a run needs no checkout.
    """
    if not (root / ".git").exists():
        return os.environ.get("SOURCE_REVISION") or "not in a checkout"
    describe = ["describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *describe],
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unknown: {error}"
    if done.returncode:
        return f"unknown: {done.stderr.strip() or 'git failed'}"
    return done.stdout.strip()
