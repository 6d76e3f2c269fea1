"""The image, built once, and the server that all tests here share."""

import io
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest
from drawn_folder import draw_folder
from PIL import Image
from stack import Stack, say, step


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The server as `docker compose up` starts it, ready; removed afterwards."""
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no Docker engine answers: run `make docker-test`, which starts one")
    folder = tmp_path_factory.mktemp("project")
    stack = Stack(folder)
    draw_folder(stack.data, train=8, val=4)
    try:
        with step("docker compose build"):
            stack.compose("build")
        with step("docker compose up, until it is healthy"):
            stack.up()
        yield stack
        log = stack.log()
    finally:
        with step("docker compose down"):
            stack.remove()
    assert "Traceback" not in log


@pytest.fixture(autouse=True)
def _announced(request: pytest.FixtureRequest) -> Iterator[None]:
    name = request.node.name.removeprefix("test_").replace("_", " ")
    with step(name):
        yield


@pytest.fixture(scope="session")
def photo() -> bytes:
    """A photo that matplotlib ships (Grace Hopper, public domain), 512x600."""
    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    return path.read_bytes()


@pytest.fixture(scope="session")
def small_photo(photo: bytes) -> bytes:
    """The same at 96x64, for load that leaves the processor to others."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(photo)).resize((96, 64)).save(buffer, "PNG")
    return buffer.getvalue()


def pytest_sessionfinish(exitstatus: int) -> None:
    say(f"the tests ended with {int(exitstatus)}")
