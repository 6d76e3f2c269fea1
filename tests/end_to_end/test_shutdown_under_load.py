"""SIGTERM while clients send as fast as they can: what was taken is answered, exit code 0."""

import random
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hostile_files import save
from live_server import ROOT, Server, decode_png, running_server, until
from paced_server import LANES, PACE
from PIL import Image

CLIENTS = 12
PACES_S = (0.02, 0.15)
"""What the network takes for a photo, in seconds. With twelve clients eleven photos wait, so that
what was taken is answered within the grace in the one case, and after it in the other."""

GRACE_S = 1
NEVER_S = 600

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process at once")


class Request:
    """One request of a client.

    Attributes:
        sent: Whether its last byte was handed to the kernel.
        answer: None as long as there is none.
        lost: Why there will be none, other than that the connection was refused.
    """

    def __init__(self) -> None:
        self.sent = False
        self.answer: httpx.Response | None = None
        self.lost: str | None = None

    def trace(self, event: str, details: dict[str, Any]) -> None:
        if event == "http11.send_request_body.complete":
            self.sent = True


class Clients:
    """A closed loop of clients that end when the server turns them away."""

    def __init__(self, server: Server, body: bytes) -> None:
        self._server = server
        self._body = body
        self.requests: list[Request] = []

    def run(self) -> None:
        with httpx.Client(base_url=self._server.url, timeout=NEVER_S) as client:
            while True:
                request = Request()
                self.requests.append(request)
                try:
                    request.answer = client.post(
                        "/segment?format=grey",
                        content=self._body,
                        extensions={"trace": request.trace},
                    )
                except httpx.ConnectError:
                    return  # the listener is closed
                except httpx.TransportError as error:
                    request.lost = repr(error)
                    return
                if request.answer.status_code != 200:
                    return

    def answered(self) -> int:
        return sum(request.answer is not None for request in self.requests)

    def taken(self) -> list[Request]:
        """Return requests that the server must have received completely by now."""
        sent = [request for request in self.requests if request.sent and request.answer is None]
        # The bytes lie in the kernel. By the time that later requests have been answered on
        # another connection, the server has read them and begun to work on them.
        for _ in range(3):
            self._server.client.get("/health/live")
        return sent


def stop_under_load(log: Path, photo: Image.Image, seed: int) -> int:
    """Stop a server at a random moment; return how many requests it had taken."""
    chance = random.Random(seed)
    body = save(photo.resize((96, 64)), "PNG")
    settings = {
        "drain_grace_s": GRACE_S,
        "drain_s": NEVER_S,
        "request_timeout_s": NEVER_S,
    }
    program = (str(ROOT / "tests" / "end_to_end" / "paced_server.py"),)
    pace = {PACE: str(chance.choice(PACES_S)), LANES: str(1 + seed % 3)}
    with (
        running_server(log, program=program, environment=pace, **settings) as server,
        ThreadPoolExecutor(CLIENTS) as threads,
    ):
        usual = server.label_map(body)
        clients = Clients(server, body)
        runs = [threads.submit(clients.run) for _ in range(CLIENTS)]
        enough = chance.randint(1, 50)
        until(lambda: clients.answered() >= enough, "answers before the signal")
        taken = clients.taken()
        server.process.send_signal(signal.SIGTERM)
        for run in runs:
            run.result()
        assert server.process.wait(NEVER_S) == 0
    for request in taken:
        assert request.answer is not None, f"taken, and lost: {request.lost}"
        assert request.answer.status_code == 200, request.answer.text
    assert not [request.lost for request in clients.requests if request.lost]
    for answer in [request.answer for request in clients.requests if request.answer]:
        if answer.status_code == 200:
            assert np.array_equal(decode_png(answer.content), usual)
        else:
            assert answer.status_code == 503, answer.text
            assert answer.json()["type"] == "urn:fcn:not-ready"
            assert int(answer.headers["retry-after"]) >= 1
    assert "Traceback" not in log.read_text()
    return len(taken)


def test_nothing_is_lost_three_times(tmp_path: Path, photo: Image.Image) -> None:
    taken = [stop_under_load(tmp_path / f"{seed}.log", photo, seed) for seed in range(3)]
    assert sum(taken) >= CLIENTS  # otherwise the load was none


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_nothing_is_lost_fifty_times(tmp_path: Path, photo: Image.Image) -> None:
    taken = [stop_under_load(tmp_path / f"{seed}.log", photo, seed) for seed in range(50)]
    assert sum(taken) >= 50 * CLIENTS // 2
