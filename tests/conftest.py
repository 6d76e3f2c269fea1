"""Skips what cannot run here, with the reason."""

import shutil

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = {
        "cuda": None if torch.cuda.is_available() else "no CUDA device",
        "browser": None if shutil.which("chromium") else "chromium is not installed",
    }
    for item in items:
        for marker, reason in missing.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
