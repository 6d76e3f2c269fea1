"""The real server as a process, on a free port, as its users start it."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

START_S = 120
"""Longest time from start to ready; torch alone takes seconds to import."""

ROOT = Path(__file__).parents[2]


class Server:
    """A running server.

    Args:
        process: It.
        log: File that its output goes to.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path, url: str) -> None:
        self.process = process
        self.log = log
        self.url = url
        self.client = httpx.Client(base_url=url, timeout=120)

    def post(self, body: bytes, **query: object) -> httpx.Response:
        return self.client.post("/segment", params=query, files={"image": body})  # type: ignore[arg-type]

    def label_map(self, body: bytes, **query: object) -> NDArray[np.uint8]:
        response = self.post(body, format="grey", **query)
        assert response.status_code == 200, response.text
        return decode_png(response.content)

    def metric(self, name: str) -> float:
        lines = self.client.get("/metrics").text.splitlines()
        (value,) = (line.split()[-1] for line in lines if line.startswith(name + " "))
        return float(value)

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    def most_allocated_mib(self) -> float:
        """Return the peak of memory asked for, touched or not."""
        return self._memory_mib("VmPeak")

    def resident_mib(self) -> float:
        """Return the memory that is in use now."""
        return self._memory_mib("VmRSS")

    def most_resident_mib(self) -> float:
        """Return the peak of memory in use."""
        return self._memory_mib("VmHWM")

    def open_files(self) -> int:
        """Return how many file descriptors, connections among them, it holds."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def held(self) -> dict[str, float]:
        """Return what it holds for requests that are not yet answered: nothing, when idle."""
        names = ("fcn_upload_bytes", "fcn_admitted_requests", "fcn_admitted_pixels")
        return {name: self.metric(name) for name in (*names, "fcn_queue_depth")}

    def _memory_mib(self, entry: str) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith(entry + ":"))
        return int(line.split()[1]) / 1024


def until(condition: Callable[[], bool], what: str, patience_s: float = 120) -> None:
    """Wait for what must happen; only a failure takes long."""
    give_up = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < give_up, f"waited {patience_s:g} s for {what}"
        time.sleep(0.02)


def decode_png(body: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(body)) as image:
        return np.array(image)


def label_map_from_rle(document: dict) -> NDArray[np.uint8]:
    """Paint the decoded masks of an RLE answer into one label map."""
    size = (document["image"]["height"], document["image"]["width"])
    label_map = np.full(size, 255, np.uint8)
    for entry in document["masks"]:
        rle = entry["rle"]
        if isinstance(rle["counts"], list):
            rle = coco.frPyObjects(rle, *size)
        mask = coco.decode(rle).astype(bool)
        assert mask.sum() == entry["area"]
        assert (label_map[mask] == 255).all()
        label_map[mask] = entry["class_id"]
    return label_map


@contextmanager
def running_server(
    log: Path,
    *arguments: str,
    program: Sequence[str] = ("-m", "app.serve"),
    environment: Mapping[str, str] | None = None,
    **settings: object,
) -> Iterator[Server]:
    """Start `python -m app.serve` and wait until it is ready; kill it if the test leaves it.

    Args:
        log: File for its output.
        *arguments: Of the command.
        program: What Python runs in its place.
        environment: More variables.
        **settings: FCN_* variables, named without the prefix in lower case.
    """
    variables = {name: value for name, value in os.environ.items() if name[:4] != "FCN_"}
    variables |= {f"FCN_{name.upper()}": str(value) for name, value in settings.items()}
    variables |= {"PYTHONPATH": str(ROOT), **(environment or {})}
    command = [sys.executable, *program, "--port", "0", *arguments]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=variables, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        server = Server(process, log, _wait_for_url(process, log))
        _wait_until_ready(server)
        yield server
        server.client.close()
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait(10)


def _wait_for_url(process: subprocess.Popen[bytes], log: Path) -> str:
    """Read the port from the log: the server chose a free one."""
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        for word in log.read_text().split():
            if word.startswith("http://127.0.0.1:"):
                return word.strip(".,;")
        time.sleep(0.05)
    raise AssertionError(f"the server did not say where it listens:\n{log.read_text()}")


def _wait_until_ready(server: Server) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and server.process.poll() is None:
        with contextlib.suppress(httpx.TransportError):  # it may be ending
            if server.client.get("/health/ready").status_code == 200:
                return
        time.sleep(0.05)
    raise AssertionError(f"the server did not become ready:\n{server.log.read_text()}")
