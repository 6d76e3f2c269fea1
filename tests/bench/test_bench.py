"""The command as its users run it: real servers as processes, a few requests each."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import app.bench.__main__ as bench_command
from app import __main__ as fcn
from app.bench import arguments
from app.bench.__main__ import main
from app.bench.servers import Command, started

ROOT = Path(__file__).parents[2]
PATIENCE_S = 300
"""How long tests wait for what must happen, in seconds: only a failure takes that long."""


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("FCN_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(ROOT)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def run(path: Path, *words: object) -> dict:
    assert main([*map(str, words), "--json", str(path)]) == 0
    return json.loads(path.read_text())


def test_service_engine_and_naive_handler_side_by_side(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = children(os.getpid())
    words = ["--checkpoint", checkpoint, "--precision", "fp32", "--device", "cpu"]
    words += ["--sizes", "64x48,40x40", "--concurrency", 2, "--requests", 6, "--warmup", 0]
    words += ["--rounds", 2, "--engine", "--compare", "naive"]
    document = run(tmp_path / "figures.json", *words)
    assert children(os.getpid()) == before
    service, naive = document["servers"]["service"], document["servers"]["naive"]
    for server in (service, naive):
        assert [one["answers"]["200"]["count"] for one in server["rounds"]] == [6, 6]
        assert server["median"]["images_per_s"] > 0
    assert list(service["median"]["stages"])[:2] == ["total", "decode"]
    assert {"queue", "forward", "encode", "rest"} <= service["median"]["stages"].keys()
    assert service["rounds"][0]["images_per_batch"] >= 1
    assert service["rounds"][0]["resident_mib"] > 0
    assert document["agreement"] == {"naive": 1.0}
    assert document["engine"]["median"]["by_size"].keys() == {"64x48", "40x40"}
    assert document["of_engine"] > 0
    assert document["ratios"]["naive"]["p99"] > 0
    assert document["model"]["precision"] == "fp32"
    printed = capsys.readouterr().out
    assert "round 2 of 2: naive" in printed
    assert "engine alone: " in printed


def test_two_settings_side_by_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = children(os.getpid())
    words = ["--null", "--sizes", "32x24", "--concurrency", 1, "--requests", 3, "--warmup", 0]
    words += ["--rounds", 1, "--format", "rle", "--against", "FCN_MAX_BYTES=1000000 FCN_LANES=1"]
    document = run(tmp_path / "figures.json", *words)
    assert children(os.getpid()) == before
    other = "FCN_MAX_BYTES=1000000 FCN_LANES=1"
    assert document["servers"].keys() == {"service", other}
    assert document["servers"][other]["median"]["answers"]["200"]["count"] == 3
    assert document["ratios"][other]["images_per_s"] > 0
    assert f"service over {other}: " in capsys.readouterr().out


def test_settings_to_compare_with_reach_the_server(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--null", "--sizes", "32x24", "--requests", "1", "--against", "FCN_LANES=none"]
    assert main(words) == 2
    assert "FCN_LANES=none" in capsys.readouterr().err


def test_an_open_loop_on_a_server_that_runs_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {"FCN_DRAIN_GRACE_S": "0"}
    with started(Command("null", "app.bench.null", (), "/health/ready", environment)) as server:
        words = ["--url", f"http://{server.address}/", "--rate", 50, "--requests", 10]
        words += ["--sizes", "32x24,16x8-20x10/5", "--warmup", 0, "--format", "rle"]
        document = run(tmp_path / "a.json", *words, "--deadline", 30, "--upload", "raw")
        assert server.client.get("/health/ready").status_code == 200  # it is not ours to stop
    service = document["servers"]["service"]["median"]
    assert service["answers"].keys() == {"200"}
    assert service["answers"]["200"]["count"] == 10
    assert document["model"]["name"] == "null"


def bench_at(port: int, *words: object) -> int:
    """Bench a server that runs already with two tiny photos."""
    words = ("--url", f"http://127.0.0.1:{port}", "--requests", 2, "--warmup", 0, *words)
    return main([*map(str, words), "--sizes", "8x6"])


@pytest.mark.parametrize(
    ("status", "page"),
    [(404, "{}"), (200, "<!doctype html>"), (200, '{"name": "x"}'), (200, "[]"), (200, "null")],
)
def test_a_url_that_is_no_server_of_this_project_is_one_line(
    fake_server, reply, capsys: pytest.CaptureFixture[str], status: int, page: str
) -> None:
    with fake_server() as server:
        server.pages["/model"] = reply(status, body=page.encode())
        assert bench_at(server.port) == 2
    error = capsys.readouterr().err
    assert "is no server of this project" in error
    assert error.count("\n") == 1


def test_figures_are_written_though_nobody_can_be_told(
    fake_server, reply, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def show(*_: object) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    model = dict.fromkeys(("name", "version", "device", "precision", "architecture"), "x")
    monkeypatch.setattr(bench_command, "show", show)
    with fake_server() as server:
        server.pages["/model"] = reply(body=json.dumps(model).encode())
        assert bench_at(server.port, "--json", tmp_path / "figures.json") == 2
    document = json.loads((tmp_path / "figures.json").read_text())
    assert document["servers"]["service"]["median"]["answers"]["200"]["count"] == 2


def test_litserve_beside_the_service(tmp_path: Path) -> None:
    pytest.importorskip("litserve")
    words = ["--null", "--compare", "litserve", "--litserve", "--batch 4 --workers 1"]
    words += ["--sizes", "64x48,40x40", "--requests", 6, "--warmup", 0, "--rounds", 1]
    document = run(tmp_path / "figures.json", *words)
    litserve = document["servers"]["litserve"]["median"]
    assert litserve["answers"]["200"]["count"] == 6
    assert document["agreement"] == {"litserve": 1.0}


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (signal.SIGINT, b"starting service"),
        (signal.SIGINT, b"round 1"),
        (signal.SIGTERM, b"round 1"),
    ],
)
def test_interrupted_it_leaves_no_process(number: signal.Signals, line: bytes) -> None:
    words = ["--null", "--requests", "1", "--rounds", "1000000", "--warmup", "0"]
    with subprocess.Popen(
        [sys.executable, "-m", "app.bench", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as bench:
        try:
            assert bench.stdout is not None
            assert any(printed.startswith(line) for printed in bench.stdout)
            give_up = time.monotonic() + PATIENCE_S
            while not (started_here := children(bench.pid)):
                assert time.monotonic() < give_up
            bench.send_signal(number)
            _, errors = bench.communicate(timeout=PATIENCE_S)
        finally:
            bench.terminate()
    assert bench.returncode == 130
    assert errors.decode().splitlines()[-1] == "interrupted"
    assert not any(Path(f"/proc/{pid}").exists() for pid in started_here)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--json", "nowhere/figures.json"], "nowhere: no such folder"),
        (["--null", "--engine"], "leave out --engine"),
        (["--compare", "--format", "rle"], "answer with png"),
        (["--compare", "naive", "--upload", "raw"], "multipart"),
        (["--checkpoint", "nowhere.safetensors"], "nowhere.safetensors: No such file"),
        (["--images", "nowhere", "--null"], "nowhere: No such file"),
        (["--url", "https://localhost"], "looks like http://localhost:8000"),
        (["--url", "http://localhost", "--against", "FCN_LANES=1"], "leave out --url"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    checkpoint: Path, words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--checkpoint", str(checkpoint), *words]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


def test_without_litserve_the_extra_is_named(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(arguments.importlib.util, "find_spec", lambda name: None)
    assert main(["--checkpoint", str(checkpoint), "--compare"]) == 2
    error = capsys.readouterr().err
    assert "pip install -e" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["--rate", "5", "--concurrency", "2"],
        ["--duration", "5", "--requests", "2"],
        ["--null", "--url", "http://localhost"],
        ["--sizes", "96x96", "--images", "."],
        ["--sizes", "large"],
        ["--compare", "triton"],
        ["--against", "LANES=1"],
        ["--against", ""],
        ["--compare", "litserve", "--litserve", "--workers '2"],
    ],
)
def test_options_that_contradict_one_another_are_one_line(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help_shows_defaults_and_an_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["fcn", "bench", "--help"])
    with pytest.raises(SystemExit) as stop:
        fcn.main()
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert "example:\n  python -m app.bench" in printed
    assert "(default: 16)" in printed
