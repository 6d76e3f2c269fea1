"""What Docker is told, and that a server which cannot work any more is stopped."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from app.serve.healthcheck import check


@contextmanager
def answering(**statuses: int) -> Iterator[int]:
    """Answer `/health/live` and `/health/ready` with these statuses; yield the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(statuses[self.path.removeprefix("/health/")])
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """Stands for the server's process."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def test_ready(process: subprocess.Popen[bytes]) -> None:
    with answering(live=200, ready=200) as port:
        assert check(port, process.pid) == 0
    assert process.poll() is None


def test_starting_or_draining_is_left_alone(process: subprocess.Popen[bytes]) -> None:
    with answering(live=200, ready=503) as port:
        assert check(port, process.pid) == 1
    assert process.poll() is None


def test_nobody_listens(process: subprocess.Popen[bytes]) -> None:
    with answering() as port:
        pass
    assert check(port, process.pid) == 1
    assert process.poll() is None


def test_a_dead_server_is_stopped_so_that_docker_restarts_it(
    process: subprocess.Popen[bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    with answering(live=503, ready=503) as port:
        assert check(port, process.pid) == 1
    assert process.wait(60) == -signal.SIGTERM
    assert "must be restarted" in capfd.readouterr().err


def test_proxies_of_the_environment_are_not_asked(
    monkeypatch: pytest.MonkeyPatch, process: subprocess.Popen[bytes]
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with answering(live=200, ready=200) as port:
        assert check(port, process.pid) == 0
