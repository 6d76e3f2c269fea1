"""Skips what cannot run here, with the reason; the smallest checkpoint that commands can use."""

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # As many processes as processors run tests: two torches with two threads each would spend
    # most of their time waiting for one another. Read when torch is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from model import FCN, Architecture, Card, named_classes, save_checkpoint

WITH_PROCESSES = ("bench", "browser", "end_to_end")
"""Tests that start servers and put load on them: one after another, beside all the others."""


def pytest_configure() -> None:
    # Shells start what runs in the background deaf to Ctrl-C, and programs that the tests start
    # would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks for groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = {
        "cuda": None if torch.cuda.is_available() else "no CUDA device",
        "browser": _browser_missing(),
    }
    for item in items:
        if item.path.parent.name in WITH_PROCESSES:
            item.add_marker(pytest.mark.xdist_group("processes"))
        for marker, reason in missing.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


# Also where this Python's packages put their programs: nobody need have activated anything.
_PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def _browser_missing() -> str | None:
    """Return why there is no browser to test with; None if there is one."""
    programs = ("chromium", "chromedriver")  # Debian's packages chromium and chromium-driver
    missing = [name for name in programs if shutil.which(name, path=_PATH) is None]
    return f"{' and '.join(missing)} not installed" if missing else None


@pytest.fixture(scope="session")
def browser_path() -> str:
    """Where chromium and chromedriver are looked for."""
    return _PATH


@pytest.fixture(scope="module")
def random_network() -> tuple[FCN, Card]:
    """A network of random scores for three classes: its masks have several."""
    torch.manual_seed(0)
    architecture = Architecture(variant="fcn32s", backbone="alexnet", head_width=8)
    net = FCN(architecture, 3)
    for parameter in net.parameters():
        if parameter.dim() == 4:
            torch.nn.init.kaiming_normal_(parameter)
    return net, Card("random", architecture, named_classes(["sky", "road", "car"]))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that says class 1 everywhere."""
    architecture = Architecture(head_width=8, head_norm=True)
    net = FCN(architecture, 2)
    net.score_fc7.bias = torch.nn.Parameter(torch.tensor([0.0, 1.0]))
    path = tmp_path_factory.mktemp("checkpoint") / "ones.safetensors"
    save_checkpoint(path, net, Card("ones", architecture, named_classes(["leaf", "spot"])))
    return path
