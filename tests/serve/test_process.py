"""The server as a process of its own: signals, exit codes, and what it says on the way."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from serve_doubles import PATIENCE_S, decode_png, encode, labels_of, make_photo

from app.serve.__main__ import check_checkpoint
from app.serve.settings import SettingsError

REPOSITORY = Path(__file__).parents[2]
DOUBLE = Path(__file__).with_name("serve_doubles.py")
PHOTO = make_photo(6, 8)
PNG = encode(PHOTO)
NEVER_S = 3600
"""For a setting in seconds that must not be what ends a wait: longer than any test."""

needs_hangup = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGHUP")


class Process:
    """A server process, and what it has logged so far."""

    def __init__(self, command, **settings):
        environment = {name: value for name, value in os.environ.items() if name[:4] != "FCN_"}
        environment |= {f"FCN_{name.upper()}": str(value) for name, value in settings.items()}
        environment["PYTHONPATH"] = str(REPOSITORY)
        self.popen = subprocess.Popen(
            [sys.executable, *command],
            cwd=REPOSITORY,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        with self.popen.stderr as lines:
            for line in lines:
                self.log += line

    def until_logged(self, pattern):
        def logged():
            ended = not self._reader.is_alive()
            found = re.search(pattern, self.log)
            assert found or not ended, f"ended without logging {pattern}: {self.log}"
            return found

        return until(logged, f"{pattern} in the log")

    def wait(self):
        """Return the exit code; the whole log is in `log` then."""
        code = self.popen.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return code

    def get(self, path):
        return httpx.get(self.url + path, timeout=PATIENCE_S)

    def post(self, body, query=""):
        return httpx.post(f"{self.url}/segment{query}", content=body, timeout=PATIENCE_S)

    def until_taken(self, count):
        def taken():
            return self.get("/health").json()["queue"]["requests"] == count

        until(taken, f"{count} requests to be taken")

    @property
    def address(self):
        url = httpx.URL(self.url)
        return url.host, url.port

    @property
    def listens(self):
        try:
            socket.create_connection(self.address, PATIENCE_S).close()
        except ConnectionError:
            return False
        return True


@contextmanager
def running(command, **settings):
    process = Process(command, **settings)
    try:
        yield process
    finally:
        process.popen.kill()
        process.wait()


@contextmanager
def serving_double(*, held=False, **settings):
    """Serve the double; while `held`, a forward waits for `process.gate.touch()`."""
    settings = {"port": 0, "drain_s": NEVER_S, "request_timeout_s": NEVER_S} | settings
    with tempfile.TemporaryDirectory() as folder:
        gate, checkpoint = Path(folder, "gate"), Path(folder, "checkpoint")
        checkpoint.touch()
        if not held:
            gate.touch()
        with running([str(DOUBLE), str(gate)], checkpoint=checkpoint, **settings) as process:
            process.gate, process.checkpoint = gate, checkpoint
            process.url = process.until_logged(r"listening on (http://127.0.0.1:\d+)")[1]
            process.until_logged(r"ready: double@")
            yield process


def until(condition, what):
    """Wait until a condition holds; return its value."""
    give_up = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        if time.monotonic() > give_up:
            pytest.fail(f"waited {PATIENCE_S} s for {what}")
        time.sleep(0.01)
    return value


def assert_masks(answers):
    assert [answer.status_code for answer in answers] == [200] * len(answers)
    for answer in answers:
        assert np.array_equal(decode_png(answer.content), labels_of(PHOTO))


def test_after_sigterm_new_work_is_refused_and_what_was_taken_goes_on():
    with (
        ThreadPoolExecutor(8) as clients,
        serving_double(held=True, batch_images=2, drain_grace_s=NEVER_S) as process,
    ):
        taken = [clients.submit(process.post, PNG, "?format=grey") for _ in range(8)]
        process.until_taken(8)
        process.popen.send_signal(signal.SIGTERM)
        until(lambda: process.get("/health/ready").status_code == 503, "/health/ready to be 503")
        refused = process.post(b"x" * 8_000_000)
        assert refused.status_code == 503
        assert refused.headers["connection"] == "close"
        assert int(refused.headers["retry-after"]) >= 1
        process.gate.touch()
        assert_masks([answer.result() for answer in taken])
    assert "Traceback" not in process.log


def test_what_was_taken_is_answered_after_the_grace_and_the_exit_code_is_0():
    with (
        ThreadPoolExecutor(8) as clients,
        serving_double(held=True, batch_images=2, drain_grace_s=0.2) as process,
    ):
        taken = [clients.submit(process.post, PNG, "?format=grey") for _ in range(8)]
        process.until_taken(8)
        process.popen.send_signal(signal.SIGTERM)
        until(lambda: not process.listens, "the listener to close")
        process.gate.touch()
        assert_masks([answer.result() for answer in taken])
        assert process.wait() == 0
    assert "Traceback" not in process.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_exits_0_after_its_grace(number):
    with serving_double(drain_grace_s=0.2) as process:
        began = time.monotonic()
        process.popen.send_signal(number)
        assert process.wait() == 0
        assert time.monotonic() - began >= 0.2


def test_a_second_signal_stops_at_once():
    with serving_double(drain_grace_s=NEVER_S) as process:
        process.popen.send_signal(signal.SIGTERM)
        process.until_logged("draining")
        process.popen.send_signal(signal.SIGTERM)
        assert process.wait() == 128 + signal.SIGTERM


@needs_hangup
def test_a_hangup_reloads_and_loses_nothing():
    with ThreadPoolExecutor(8) as clients, serving_double(held=True, batch_images=2) as process:
        taken = [clients.submit(process.post, PNG, "?format=grey") for _ in range(8)]
        process.until_taken(8)
        process.popen.send_signal(signal.SIGHUP)
        process.until_logged(r"reloaded: double@\w{12} -> double@\w{12}")
        process.gate.touch()
        assert_masks([answer.result() for answer in taken])
        assert_masks([process.post(PNG, "?format=grey")])
    assert "Traceback" not in process.log


@needs_hangup
def test_sigterm_during_a_reload_ends_it_with_exit_code_0():
    with serving_double(drain_grace_s=0) as process:
        process.checkpoint.unlink()  # the load waits for it
        process.popen.send_signal(signal.SIGHUP)
        process.until_logged("reloading")
        process.popen.send_signal(signal.SIGTERM)
        assert process.wait() == 0
    assert "Traceback" not in process.log


def test_what_cannot_be_finished_in_time_is_told_so():
    with serving_double(held=True, drain_s=0.5, drain_grace_s=0) as process:
        with socket.create_connection(process.address) as connection:
            connection.sendall(request_head(len(PNG)) + PNG)
            process.until_taken(1)
            process.popen.send_signal(signal.SIGTERM)
            answer = read_all(connection)
        assert process.wait() == 1
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"application/problem+json" in answer
    assert "1 requests were not answered" in process.log


def test_a_slow_sender_does_not_hold_up_the_shutdown():
    def received():
        return process.get("/health").json()["queue"]["upload_bytes"]

    with serving_double(drain_grace_s=0.2) as process:
        with socket.create_connection(process.address) as connection:
            connection.sendall(request_head(len(PNG)) + PNG[:20])
            until(received, "the upload to begin")
            process.popen.send_signal(signal.SIGTERM)
            answer = read_all(connection)
        assert process.wait() == 0
    assert answer.startswith(b"HTTP/1.1 503")


def test_a_client_that_disconnects_never_costs_a_forward():
    def left():
        gone = 'fcn_requests_total{route="/segment",status="499"} 1.0'
        return gone in process.get("/metrics").text

    with serving_double(held=True) as process:
        with socket.create_connection(process.address) as first:
            first.sendall(request_head(len(PNG)) + PNG)
            process.until_logged("forward of 1")
            with socket.create_connection(process.address) as second:
                second.sendall(request_head(len(PNG)) + PNG)
                process.until_taken(2)
            until(left, "the second client's request to be dropped")
            process.gate.touch()
            assert read_some(first).startswith(b"HTTP/1.1 200")
        # It would run before this one, or with it.
        assert process.post(PNG).status_code == 200
        assert "fcn_batch_images_sum 2.0" in process.get("/metrics").text


def test_a_busy_port_is_one_line_and_exit_code_2(tmp_path):
    checkpoint = tmp_path / "some.safetensors"
    checkpoint.write_bytes(b"")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        arguments = ["--checkpoint", str(checkpoint), "--port", str(port)]
        with running(["-m", "app.serve", *arguments]) as process:
            assert process.wait() == 2
    assert process.log.count("\n") == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in process.log


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (["--checkpoint", "nowhere.safetensors"], {}, "no checkpoint at nowhere.safetensors"),
        (["--port", "http"], {}, "port=http"),
        (["--precision", "int8"], {}, "precision=int8: Input should be 'auto', 'fp32'"),
        ([], {"max_bytes": "lots"}, "FCN_MAX_BYTES=lots"),
    ],
)
def test_a_wrong_start_is_one_line_and_exit_code_2(arguments, settings, message):
    with running(["-m", "app.serve", *arguments], **settings) as process:
        assert process.wait() == 2
    assert process.log.count("\n") == 1
    assert message in process.log


def test_a_checkpoint_in_a_closed_folder_is_told(monkeypatch):
    def closed(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_file", closed)
    with pytest.raises(SettingsError, match="cannot read the checkpoint a/b: Permission denied"):
        check_checkpoint(Path("a/b"))


def test_a_damaged_checkpoint_ends_the_process(tmp_path):
    checkpoint = tmp_path / "damaged.safetensors"
    checkpoint.write_bytes(b"nonsense")
    arguments = ["--checkpoint", str(checkpoint), "--port", "0", "--device", "cpu"]
    with running(["-m", "app.serve", *arguments]) as process:
        assert process.wait() == 2
    assert process.log.count("cannot serve") == 1
    assert str(checkpoint) in process.log
    assert "Traceback" not in process.log


def test_help_shows_defaults_and_an_example():
    text = subprocess.run(
        [sys.executable, "-m", "app.serve", "--help"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    ).stdout
    for flag in ("--checkpoint", "--device", "--precision", "--host", "--port"):
        assert flag in text
    assert "8000" in text
    assert "curl -F image=@photo.jpg" in text


def test_uvicorn_refuses_an_impossible_setting_in_one_line():
    with running(["-m", "uvicorn", "app.main:app"], max_pixels=0) as process:
        assert process.wait() == 2
    assert process.log.count("\n") == 1
    assert "FCN_MAX_PIXELS=0" in process.log


def test_uvicorn_ends_when_the_checkpoint_cannot_be_loaded(tmp_path):
    missing = tmp_path / "missing.safetensors"
    command = ["-m", "uvicorn", "app.main:app", "--port", "0"]
    with running(command, checkpoint=missing, device="cpu") as process:
        assert process.wait() != 0
    assert "cannot serve" in process.log
    assert "missing.safetensors" in process.log


def request_head(length):
    lines = ["POST /segment HTTP/1.1", "Host: test", f"Content-Length: {length}", "", ""]
    return "\r\n".join(lines).encode()


def read_some(connection):
    connection.settimeout(PATIENCE_S)
    return connection.recv(65536)


def read_all(connection):
    connection.settimeout(PATIENCE_S)
    chunks = []
    while chunk := connection.recv(65536):
        chunks.append(chunk)
    return b"".join(chunks)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit on open files")
def test_the_limit_on_open_files_is_the_systems_not_the_shells():
    program = (
        "import resource as r; from app.serve.__main__ import raise_open_file_limit as up;"
        "hard = r.getrlimit(r.RLIMIT_NOFILE)[1];"
        "r.setrlimit(r.RLIMIT_NOFILE, (64, hard)); up();"
        "assert r.getrlimit(r.RLIMIT_NOFILE) == (hard, hard)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE_S)
