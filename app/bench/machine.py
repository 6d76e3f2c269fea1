"""What figures were measured on."""

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from app.inference.processors import usable_processors


def describe_machine() -> dict[str, Any]:
    """Return processor, processors that this process may use, and versions, as JSON values."""
    return {
        "processor": _processor(),
        "processors": usable_processors(),
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", "torchvision", "pillow")},
    }


def _processor() -> str:
    """Return the processor's name where Linux tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
