"""The default checkpoint, served once for all tests that only read, and a real photo."""

import io
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest
from live_server import ROOT, Server, running_server
from PIL import Image

from app.paths import DEFAULT_CHECKPOINT


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    return ROOT / DEFAULT_CHECKPOINT


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with running_server(log, "--checkpoint", str(checkpoint)) as server:
        yield server


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    """A photo that matplotlib ships (Grace Hopper, public domain), 512x600."""
    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    return Image.open(io.BytesIO(path.read_bytes())).convert("RGB")
