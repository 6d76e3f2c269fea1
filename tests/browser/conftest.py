"""The default checkpoint, served; Chromium; a photo that nobody else has."""

import io
import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from live_server import ROOT, Server, running_server
from numpy.typing import NDArray
from page import Page
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from street import draw_street

from app.paths import DEFAULT_CHECKPOINT

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with running_server(log, "--checkpoint", str(ROOT / DEFAULT_CHECKPOINT)) as server:
        yield server


@pytest.fixture(scope="session")
def driver(browser_path: str) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium", path=browser_path) or ""
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # Named, so that Selenium does not look for one on the network.
    service = Service(shutil.which("chromedriver", path=browser_path))
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture
def page(driver: webdriver.Chrome, server: Server, tmp_path: Path) -> Iterator[Page]:
    """The page in a window of a desktop, freshly opened; afterwards nothing was blocked."""
    page = Page(driver, server.url, tmp_path / "downloads")
    page.open()
    yield page
    complaints = [
        entry["message"]
        for entry in driver.get_log("browser")
        if entry["level"] == "SEVERE" and entry["source"] != "network"
    ]
    assert not complaints


@pytest.fixture(scope="session")
def photo() -> bytes:
    """240x180, as PNG: lossless, so that pixels can be compared."""
    return encode(0, size=(240, 180))


@pytest.fixture(scope="session")
def labels(server: Server, photo: bytes) -> NDArray[np.uint8]:
    """The photo's label map, as the API gives it."""
    return server.label_map(photo)


@pytest.fixture(scope="session")
def other_photos() -> list[bytes]:
    """Smaller ones, 96x72."""
    return [encode(seed, size=(96, 72)) for seed in (1, 2)]


@pytest.fixture(scope="session")
def small(other_photos: list[bytes]) -> bytes:
    """A photo for tests that are about something else."""
    return other_photos[0]


def encode(seed: int, **options: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    draw_street(seed, **options).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core."""
    return resources.files("axe_core_python").joinpath("axe.min.js").read_text()
