"""Skips what cannot run here, with the reason; the smallest checkpoint that commands can use."""

import shutil
from pathlib import Path

import pytest
import torch

from model import FCN, Architecture, Card, named_classes, save_checkpoint


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = {
        "cuda": None if torch.cuda.is_available() else "no CUDA device",
        "browser": None if shutil.which("chromium") else "chromium is not installed",
    }
    for item in items:
        for marker, reason in missing.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that says class 1 everywhere."""
    architecture = Architecture(head_width=8, head_norm=True)
    net = FCN(architecture, 2)
    net.score_fc7.bias = torch.nn.Parameter(torch.tensor([0.0, 1.0]))
    path = tmp_path_factory.mktemp("checkpoint") / "ones.safetensors"
    save_checkpoint(path, net, Card("ones", architecture, named_classes(["leaf", "spot"])))
    return path
