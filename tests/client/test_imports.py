"""The client is light: it does not bring the service along."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("module", ["app.client", "app.segment"])
def test_importing_it_brings_neither_torch_nor_the_service(module: str) -> None:
    code = f"import {module}, sys; print(*sys.modules)"
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(process.stdout.split())
    assert module in loaded
    assert not loaded & {"torch", "torchvision", "fastapi", "pydantic", "model", "matplotlib"}
    assert not {name for name in loaded if name.startswith(("app.serve", "app.inference"))}
