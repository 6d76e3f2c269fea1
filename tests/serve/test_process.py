"""The server as a process of its own: signals, exit codes, and what it says on the way."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from serve_doubles import decode_png, encode, labels_of, make_photo

REPOSITORY = Path(__file__).parents[2]
DOUBLE = Path(__file__).with_name("serve_doubles.py")
PHOTO = make_photo(6, 8)
PNG = encode(PHOTO)


class Process:
    """A server process, and what it has logged."""

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

    def until_logged(self, pattern):
        while not (found := re.search(pattern, self.log)):
            line = self.popen.stderr.readline()
            assert line, f"ended without logging {pattern}: {self.log}"
            self.log += line
        return found

    def wait(self):
        """Return the exit code; the rest of the log is in `log` then."""
        self.log += self.popen.communicate(timeout=60)[1]
        return self.popen.returncode


@contextmanager
def running(command, **settings):
    process = Process(command, **settings)
    try:
        yield process
    finally:
        process.popen.kill()
        process.popen.communicate()


@contextmanager
def serving_double(seconds, **settings):
    settings = {"port": 0, "drain_grace_s": 0.3} | settings
    with running([str(DOUBLE), str(seconds)], **settings) as process:
        process.url = process.until_logged(r"listening on (http://127.0.0.1:\d+)")[1]
        process.until_logged(r"ready: double@")
        yield process


def test_sigterm_answers_what_was_taken_refuses_the_rest_and_exits_0():
    async def scenario(process):
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(base_url=process.url, timeout=30, limits=limits) as client:

            async def post():
                return await client.post("/segment?format=grey", content=PNG)

            taken = [asyncio.create_task(post()) for _ in range(8)]
            while (await client.get("/health")).json()["queue"]["requests"] < 8:
                await asyncio.sleep(0.01)
            process.popen.send_signal(signal.SIGTERM)
            while (ready := await client.get("/health/ready")).status_code == 200:
                await asyncio.sleep(0.01)
            assert ready.status_code == 503
            refused = await client.post("/segment", content=b"x" * 8_000_000)
            assert refused.status_code == 503
            assert refused.headers["connection"] == "close"
            assert int(refused.headers["retry-after"]) >= 1
            return await asyncio.gather(*taken)

    with serving_double(0.3, batch_images=2, drain_grace_s=1) as process:
        answers = asyncio.run(scenario(process))
        assert process.wait() == 0
    assert [answer.status_code for answer in answers] == [200] * 8
    for answer in answers:
        assert np.array_equal(decode_png(answer.content), labels_of(PHOTO))
    assert "Traceback" not in process.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_exits_0_after_its_grace(number):
    with serving_double(0, drain_grace_s=0.2) as process:
        began = time.monotonic()
        process.popen.send_signal(number)
        assert process.wait() == 0
        assert 0.2 <= time.monotonic() - began < 5


def test_a_second_signal_stops_at_once():
    with serving_double(30, drain_grace_s=20) as process:
        process.popen.send_signal(signal.SIGTERM)
        process.until_logged("draining")
        process.popen.send_signal(signal.SIGTERM)
        assert process.wait() == 128 + signal.SIGTERM


def test_what_cannot_be_finished_in_time_is_told_so():
    with serving_double(60, drain_s=0.5, drain_grace_s=0) as process:
        with socket.create_connection(address(process)) as connection:
            connection.sendall(request_head(len(PNG)) + PNG)
            until_taken(process)
            process.popen.send_signal(signal.SIGTERM)
            answer = read_all(connection)
        assert process.wait() == 1
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"application/problem+json" in answer
    assert "1 requests were not answered" in process.log


def test_a_slow_sender_does_not_hold_up_the_shutdown():
    with serving_double(0, drain_s=20, drain_grace_s=0.2) as process:
        with socket.create_connection(address(process)) as connection:
            connection.sendall(request_head(len(PNG)) + PNG[:20])
            while httpx.get(f"{process.url}/health").json()["queue"]["upload_bytes"] == 0:
                time.sleep(0.01)
            began = time.monotonic()
            process.popen.send_signal(signal.SIGTERM)
            answer = read_all(connection)
        assert process.wait() == 0
        assert time.monotonic() - began < 10
    assert answer.startswith(b"HTTP/1.1 503")


def test_a_client_that_disconnects_never_costs_a_forward():
    with serving_double(0.5) as process:
        with socket.create_connection(address(process)) as first:
            first.sendall(request_head(len(PNG)) + PNG)
            until_taken(process)
            with socket.create_connection(address(process)) as second:
                second.sendall(request_head(len(PNG)) + PNG)
                until_taken(process, 2)
            assert read_some(first).startswith(b"HTTP/1.1 200")
        metrics = httpx.get(f"{process.url}/metrics").text
        assert "fcn_batch_images_sum 1.0" in metrics
        assert 'fcn_requests_total{route="/segment",status="499"} 1.0' in metrics


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
        timeout=60,
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


def address(process):
    url = httpx.URL(process.url)
    return url.host, url.port


def request_head(length):
    lines = ["POST /segment HTTP/1.1", "Host: test", f"Content-Length: {length}", "", ""]
    return "\r\n".join(lines).encode()


def until_taken(process, count=1):
    while httpx.get(f"{process.url}/health").json()["queue"]["requests"] < count:
        time.sleep(0.01)


def read_some(connection):
    connection.settimeout(30)
    return connection.recv(65536)


def read_all(connection):
    connection.settimeout(30)
    chunks = []
    while chunk := connection.recv(65536):
        chunks.append(chunk)
    return b"".join(chunks)
