"""Whether this machine has an NVIDIA GPU that this process cannot use, and what to do about it.

A container without access to the GPU still sees the host's kernel: the driver's list under /proc,
and the PCI bus under /sys. So a card that is idle by mistake can be told from none at all.
"""

from pathlib import Path
from typing import Final

_NVIDIA: Final = "0x10de"
"""PCI vendor number, https://pci-ids.ucw.cz."""

_DISPLAY_CONTROLLERS: Final = "0x03"
"""PCI base class of VGA (0x0300) and 3D (0x0302) controllers; a card's audio has another."""


def unused_gpu(root: Path = Path("/")) -> str | None:
    """Return one sentence about the GPU that lies idle; None if this machine shows none.

    Ask when CUDA was wanted if there is any, and there was none.

    Args:
        root: The file system's root.
    """
    if models := _models_by_driver(root):
        names = ", ".join(models)
        if (root / "dev" / "nvidiactl").exists():
            return (
                f"this machine has {names}, but PyTorch cannot use it: the driver may be older "
                "than PyTorch's CUDA"
            )
        if _in_container(root):
            return (
                f"this machine has {names}, but the container does not see it: start it with "
                "`make up` or `docker run --gpus all`, or give the pod an nvidia.com/gpu"
            )
        return f"this machine has {names}, but /dev/nvidiactl is missing: run nvidia-smi as root"
    if buses := _on_pci_bus(root):
        return f"this machine has an NVIDIA GPU at PCI {', '.join(buses)}, but no driver for it"
    return None


def _models_by_driver(root: Path) -> list[str]:
    """Return the models that the kernel's driver lists, in the order of their bus addresses."""
    models = []
    for information in sorted(root.glob("proc/driver/nvidia/gpus/*/information")):
        lines = _read(information).splitlines()
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        models.append(fields.get("Model", "an NVIDIA GPU").strip())
    return models


def _on_pci_bus(root: Path) -> list[str]:
    """Return the bus addresses of NVIDIA's display controllers."""
    return [
        device.name
        for device in sorted(root.glob("sys/bus/pci/devices/*"))
        if _read(device / "vendor").strip() == _NVIDIA
        and _read(device / "class").startswith(_DISPLAY_CONTROLLERS)
    ]


def _in_container(root: Path) -> bool:
    # Docker and Podman mark theirs; containerd does not, but an image is an overlay.
    if any((root / mark).exists() for mark in (".dockerenv", "run/.containerenv")):
        return True
    mounts = (line.split() for line in _read(root / "proc/self/mounts").splitlines())
    return any(fields[1:3] == ["/", "overlay"] for fields in mounts)


def _read(path: Path) -> str:
    """Return the text of a file of the kernel; empty if this process may not know it."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
