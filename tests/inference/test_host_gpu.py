"""A drawn /proc, /sys and /dev: what is said of a GPU that lies idle."""

from pathlib import Path

import pytest

from app.inference.host_gpu import unused_gpu

INFORMATION = """\
Model: \t\t NVIDIA H100 80GB HBM3
IRQ:   \t\t 61
GPU UUID: \t GPU-00000000-0000-0000-0000-000000000000
Bus Location: \t 0000:04:00.0
"""


def write(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    """The root of a machine whose kernel has the driver and two GPUs."""
    for bus in ("0000:04:00.0", "0000:05:00.0"):
        write(tmp_path / "proc/driver/nvidia/gpus" / bus / "information", INFORMATION)
    return tmp_path


@pytest.mark.parametrize(
    ("mark", "text"),
    [
        (".dockerenv", ""),
        ("run/.containerenv", ""),
        ("proc/self/mounts", "overlay / overlay ro,relatime 0 0\nproc /proc proc rw 0 0\n"),
    ],
)
def test_a_container_that_does_not_see_the_gpu_is_told_how_to(
    driver: Path, mark: str, text: str
) -> None:
    write(driver / mark, text)
    said = unused_gpu(driver)
    assert said is not None
    assert said.startswith("this machine has NVIDIA H100 80GB HBM3, NVIDIA H100 80GB HBM3,")
    assert "the container does not see it" in said
    assert "make up" in said


def test_visible_and_yet_not_used_is_the_driver_s_fault(driver: Path) -> None:
    write(driver / ".dockerenv")
    write(driver / "dev/nvidiactl")
    assert "the driver may be older" in str(unused_gpu(driver))


def test_outside_of_a_container_nobody_is_sent_to_docker(driver: Path) -> None:
    write(driver / "proc/self/mounts", "/dev/sda1 / ext4 rw 0 0\noverlay /mnt overlay rw 0 0\n")
    said = str(unused_gpu(driver))
    assert "nvidia-smi" in said
    assert "container" not in said


def test_a_card_without_a_driver(tmp_path: Path) -> None:
    functions = {
        "0000:01:00.0": ("0x10de", "0x030200"),
        "0000:01:00.1": ("0x10de", "0x040300"),  # the same card's audio
        "0000:02:00.0": ("0x8086", "0x030000"),  # another vendor's graphics
    }
    for bus, (vendor, kind) in functions.items():
        write(tmp_path / "sys/bus/pci/devices" / bus / "vendor", f"{vendor}\n")
        write(tmp_path / "sys/bus/pci/devices" / bus / "class", f"{kind}\n")
    said = str(unused_gpu(tmp_path))
    assert "at PCI 0000:01:00.0, but no driver" in said


def test_no_gpu(tmp_path: Path) -> None:
    assert unused_gpu(tmp_path) is None


def test_information_without_a_model(tmp_path: Path) -> None:
    write(tmp_path / "proc/driver/nvidia/gpus/0000:04:00.0/information", "garbled\n")
    assert str(unused_gpu(tmp_path)).startswith("this machine has an NVIDIA GPU,")
