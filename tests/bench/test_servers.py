"""Servers as processes: nothing is left of them, whatever happens."""

import os
import time
from pathlib import Path

import pytest

from app.bench import servers
from app.bench.servers import Command, Server, started
from app.errors import UsageError

SCRIPT = """
import argparse, http.server, os, signal, subprocess, sys
parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int)
parser.add_argument("--how")
options = parser.parse_args()
if options.how == "dies":
    print("first line")
    sys.exit("no checkpoint at nowhere")
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
if options.how == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        words = {"/pids": f"{os.getpid()} {child.pid}", "/metrics": os.environ["FIGURES"]}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(words.get(self.path, "").encode())

http.server.ThreadingHTTPServer(("127.0.0.1", options.port), Handler).serve_forever()
"""

FIGURES = """\
# TYPE fcn_batch_images histogram
fcn_batch_images_bucket{le="1.0"} 3.0
fcn_batch_images_bucket{le="+Inf"} 5.0
fcn_batch_images_count 5.0
fcn_batch_images_sum 9.0
# TYPE process_resident_memory_bytes gauge
process_resident_memory_bytes 1048576.0
"""


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "fake_server_script.py").write_text(SCRIPT)
    environment = {"PYTHONPATH": str(tmp_path), "FIGURES": FIGURES}

    def make(how: str = "") -> Command:
        return Command("fake", "fake_server_script", ("--how", how), "/ready", environment)

    return make


def pids(server: Server) -> list[int]:
    return [int(word) for word in server.client.get("/pids").text.split()]


def state(pid: int) -> str:
    """Return the state as /proc has it, `T` for stopped; empty for a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


def becomes(pid: int, *states: str) -> bool:
    """Wait for a state: signals, and the end of an orphan, take a moment."""
    for _ in range(1000):
        if state(pid) in states:
            return True
        time.sleep(0.01)
    return False


def gone(pid: int) -> bool:
    return becomes(pid, "", "Z")


def test_a_server_is_ready_in_the_block_and_gone_with_its_children_after_it(command) -> None:
    with started(command()) as server:
        leader, child = pids(server)
        assert os.getpgid(leader) == leader  # out of reach of this terminal's Ctrl-C
    assert state(leader) == ""
    assert gone(child)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_it_is_gone_after_an_error_and_after_ctrl_c(command, error: type[BaseException]) -> None:
    seen = []

    def use() -> None:
        with started(command()) as server:
            seen.extend(pids(server))
            raise error

    with pytest.raises(error):
        use()
    leader, child = seen
    assert state(leader) == ""
    assert gone(child)


def test_one_that_ignores_sigterm_is_killed(command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "STOP_S", 0.2)
    with started(command("stubborn")) as server:
        leader, child = pids(server)
    assert state(leader) == ""
    assert gone(child)


def test_one_that_ends_before_it_is_ready_is_quoted(command) -> None:
    with (
        pytest.raises(UsageError, match=r"fake ended with exit code 1: no checkpoint at nowhere$"),
        started(command("dies")),
    ):
        pass


def test_a_frozen_server_does_not_run_and_a_thawed_one_does(command) -> None:
    with started(command()) as server:
        leader, child = pids(server)
        server.freeze()
        assert becomes(leader, "T")
        assert becomes(child, "T")
        with server.thawed():
            assert pids(server) == [leader, child]
        assert becomes(leader, "T")
    assert state(leader) == ""  # a frozen one can be stopped
    assert gone(child)


def test_metrics_without_labels_are_read(command) -> None:
    with started(command()) as server:
        assert server.metrics() == {
            "fcn_batch_images_count": 5,
            "fcn_batch_images_sum": 9,
            "process_resident_memory_bytes": 1048576,
        }


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "https://host",
        "http://",
        "http://host/segment",
        "http://localhost:80000",
        "http://localhost:abc",
        "http://[::1",
        "http://a\x01b",
    ],
)
def test_what_is_no_url_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="looks like http://localhost:8000"):
        Server("service", url)
