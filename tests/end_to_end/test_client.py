"""Both clients against the real server: its masks, and what they do while it restarts."""

import asyncio
import io
import signal
import socket
import threading
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from live_server import ROOT, Server, decode_png, running_server, until
from paced_server import PACE
from PIL import Image
from scripted_server import KINDS

from app.client import AsyncClient, Client, SegmentationError
from app.client.retries import Clock


@pytest.fixture
def body(photo: Image.Image) -> bytes:
    buffer = io.BytesIO()
    photo.resize((112, 96)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_result_is_what_the_server_answers(server: Server, body: bytes, kind: str) -> None:
    client = KINDS[kind](server.url)
    result = client.segment(body, scores=True)
    served = server.post(body)
    assert np.array_equal(result.label_map, decode_png(served.content))
    document = server.post(body, format="rle", scores=True).json()
    for entry in document["masks"]:
        name = entry["class_name"]
        assert int(result.mask(name).sum()) == entry["area"]
        assert result.fractions[name] == pytest.approx(entry["fraction"])
        assert result.scores[name] == pytest.approx(entry["score"], abs=1e-4)
    assert result.model_version == document["model"]["version"]
    assert result.size == (112, 96)
    assert result.timing["forward"] > 0
    assert len(result.classes) == len(server.client.get("/model").json()["classes"])

    some = [document["masks"][0]["class_name"], document["masks"][-1]["class_id"]]
    selected = client.segment(body, classes=some, scale=0.5)
    expected = server.label_map(body, classes=",".join(map(str, some)), scale=0.5)
    assert np.array_equal(selected.label_map, expected)
    client.close()


def test_an_overlay_is_the_servers(server: Server, photo: Image.Image) -> None:
    pixels = np.asarray(photo.resize((96, 80)))
    with Client(server.url) as client:
        result = client.segment(pixels)
        served = decode_png(client.download(pixels, "overlay"))
    assert np.array_equal(np.asarray(result.overlay()), served)


@pytest.mark.parametrize("kind", list(KINDS))
def test_outlines_probabilities_and_confidence(server: Server, body: bytes, kind: str) -> None:
    client = KINDS[kind](server.url)
    result = client.segment(body)
    # The server counts a tie of 16-bit numbers for the class that was ahead in 32.
    probabilities = client.probabilities(body)
    assert probabilities.class_names == tuple(info.name for info in result.classes)
    won = np.take_along_axis(probabilities.values, result.label_map[None].astype(int), axis=0)[0]
    assert (won == probabilities.values.max(axis=0)).all()
    assert client.confidence(body) == pytest.approx(won.astype(np.float32), abs=0.01)
    features = {
        feature["properties"]["class_name"]: feature["properties"]["fraction"]
        for feature in client.polygons(body)["features"]
    }
    assert features == pytest.approx({k: v for k, v in result.fractions.items() if v})
    some = client.probabilities(body, classes=[3])
    assert np.array_equal(some.of(3), probabilities.of(3))
    with pytest.raises(KeyError, match="no class 0"):
        some.of(0)
    client.close()


@pytest.mark.parametrize("kind", list(KINDS))
def test_health_model_and_typed_errors(server: Server, body: bytes, kind: str) -> None:
    client = KINDS[kind](server.url)
    client.wait_until_ready()
    assert client.health().status == "ready"
    assert client.model().version == server.client.get("/model").json()["version"]
    for photo, query, status in [
        (b"text", {}, 415),
        (body[:200], {}, 400),
        (body, {"classes": ["bug"]}, 422),
        (body, {"scale": 99}, 422),
    ]:
        with pytest.raises(SegmentationError) as raised:
            client.segment(photo, **query)
        assert raised.value.status == status
        assert raised.value.type.startswith("urn:fcn:")
        request_id = raised.value.request_id
        until(lambda: request_id in server.log.read_text(), "the line in the log")  # noqa: B023
    client.close()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Caller(threading.Thread):
    """Asks for one photo's mask over and over, and keeps what became of it."""

    def __init__(self, url: str, body: bytes, stop: threading.Event, **options: float) -> None:
        super().__init__()
        eager = Clock(chance=lambda: 0.05)  # of a wait of up to 10 s, this part
        self._client = Client(url, clock=eager, **options)  # type: ignore[arg-type]
        self._body = body
        self._stop_asking = stop
        self.outcomes: list[np.ndarray | SegmentationError] = []

    def run(self) -> None:
        with self._client:
            while not self._stop_asking.is_set():
                try:
                    self.outcomes.append(self._client.segment(self._body).label_map)
                except SegmentationError as error:
                    self.outcomes.append(error)
                self._stop_asking.wait(0.02)


def test_a_restart_costs_patience_or_a_typed_error_and_never_a_wrong_mask(
    tmp_path: Path, body: bytes
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    program = (str(ROOT / "tests" / "end_to_end" / "paced_server.py"),)

    def running(log: str) -> AbstractContextManager[Server]:
        return running_server(
            tmp_path / log,
            *("--port", str(port)),
            program=program,
            environment={PACE: "0.02"},
            drain_grace_s=0.2,
        )

    stop = threading.Event()
    patient = Caller(url, body, stop, timeout=400, retries=1000)
    hasty = Caller(url, body, stop, timeout=0.5, retries=2)

    with running("first.txt") as server:
        expected = server.label_map(body)
        for caller in (patient, hasty):
            caller.start()
        until(lambda: len(patient.outcomes) > 2, "the first masks")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
    until(lambda: isinstance(hasty.outcomes[-1], SegmentationError), "an error of the hasty one")
    before = len(patient.outcomes)

    with running("second.txt"):
        until(lambda: len(patient.outcomes) > before + 2, "masks after the restart")
        stop.set()
        for caller in (patient, hasty):
            caller.join(60)
            assert not caller.is_alive()

    assert all(np.array_equal(outcome, expected) for outcome in patient.outcomes)
    for outcome in hasty.outcomes:
        assert isinstance(outcome, SegmentationError) or np.array_equal(outcome, expected)


def test_cancelled_calls_leave_nothing_on_the_server(server: Server, photo: Image.Image) -> None:
    pixels = np.asarray(photo.resize((96, 80)))

    async def play() -> None:
        async with AsyncClient(server.url) as client:
            calls = [asyncio.create_task(client.segment(pixels)) for _ in range(6)]
            await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            result = await client.segment(pixels[:64, :64])
            assert result.size == (64, 64)

    asyncio.run(play())
    until(lambda: not any(server.held().values()), "the server to drop what nobody waits for")
