"""What a server must survive: wrong input, too much input, and its own end."""

import io
import signal
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from live_server import Server, decode_png, running_server
from PIL import Image


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bomb(side: int) -> bytes:
    """A PNG of side x side pixels in a few kilobytes, valid as far as its data goes."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1 + side) * 100, 9)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", rows)
        + png_chunk(b"IEND", b"")
    )


def jpeg(photo: Image.Image) -> bytes:
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG")
    return buffer.getvalue()


def problem(response: httpx.Response) -> dict[str, str]:
    """Return the problem document of an error after checking its form."""
    assert response.headers["content-type"] == "application/problem+json"
    values = response.json()
    assert values["status"] == response.status_code
    assert values["request_id"] == response.headers["x-request-id"]
    assert {"type", "title", "detail"} <= values.keys()
    return values


def test_bad_input_is_answered_with_what_to_do_and_costs_nobody_else(
    server: Server, photo: Image.Image
) -> None:
    body = jpeg(photo)
    usual = server.label_map(body)
    cases = [
        (415, b"just some text", {}, "format"),
        (400, body[: len(body) // 2], {}, "JPEG"),
        (413, png_bomb(30_000), {}, "900,000,000"),
        (422, b"", {}, "empty"),
        (422, body, {"classes": "car,unicorn"}, "unicorn"),
        (422, body, {"classes": "car,unicorn"}, "bicyclist"),
        (422, body, {"format": "gif"}, "png"),
        (422, body, {"scale": 9}, "scale"),
    ]
    for status, data, query, word in cases:
        response = server.post(data, **query)
        assert response.status_code == status, (status, query, response.text)
        assert word in problem(response)["detail"]
    assert problem(server.client.post("/segment"))["status"] == 422
    assert problem(server.client.get("/segment"))["status"] == 405
    assert problem(server.client.get("/nowhere"))["status"] == 404
    refused = server.client.post(
        "/segment", content=body, headers={"Content-Type": "image/jpeg", "Accept": "text/html"}
    )
    assert problem(refused)["status"] == 406
    assert np.array_equal(server.label_map(body), usual)


def test_a_bomb_is_refused_from_its_header_with_memory_flat(server: Server) -> None:
    bomb = png_bomb(30_000)
    assert len(bomb) < 10_000
    server.post(bomb)
    before = server.most_allocated_mib()
    for _ in range(20):
        assert server.post(bomb).status_code == 413
    # Decoded, one would take 900 MB; a thread's own heap reserves 64 MiB.
    assert server.most_allocated_mib() - before < 300


def test_too_many_bytes_and_a_full_queue(
    tmp_path: Path, checkpoint: Path, photo: Image.Image
) -> None:
    body = jpeg(photo)
    with running_server(
        tmp_path / "log",
        "--checkpoint",
        str(checkpoint),
        queue_requests=2,
        max_bytes=200_000,
    ) as server:
        too_large = server.post(bytes(200_001))
        assert too_large.status_code == 413
        assert "200,000" in problem(too_large)["detail"]
        with ThreadPoolExecutor(12) as clients:
            answers = list(clients.map(lambda _: server.post(body, format="grey"), range(12)))
        accepted = [answer for answer in answers if answer.status_code == 200]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert accepted
        assert refused
        assert len(accepted) + len(refused) == 12
        for answer in refused:
            assert int(answer.headers["retry-after"]) >= 1
            assert problem(answer)["detail"]
        usual = server.label_map(body)
        assert all(np.mean(decode_png(answer.content) == usual) >= 0.999 for answer in accepted)


def test_sigterm_finishes_what_was_taken_and_exits_0(
    tmp_path: Path, checkpoint: Path, photo: Image.Image
) -> None:
    body = jpeg(photo.resize((480, 360)))
    with running_server(
        tmp_path / "log", "--checkpoint", str(checkpoint), drain_grace_s=1
    ) as server:
        usual = server.label_map(body)
        with ThreadPoolExecutor(8) as clients:
            answers = [clients.submit(server.post, body, format="grey") for _ in range(8)]
            admitted_by = time.monotonic() + 30
            while server.metric("fcn_admitted_requests") < 4 and time.monotonic() < admitted_by:
                time.sleep(0.01)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            late = server.post(body)
            ready = server.client.get("/health/ready")
        assert late.status_code == ready.status_code == 503
        assert "retry-after" in late.headers
        statuses = [answer.result().status_code for answer in answers]
        assert statuses.count(200) >= 4
        assert set(statuses) <= {200, 503}  # 503: not taken before the signal
        for answer in answers:
            if answer.result().status_code == 200:
                assert np.mean(decode_png(answer.result().content) == usual) >= 0.999
        assert server.process.wait(60) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "there is no checkpoint at"), (b"garbage", "not a safetensors file, or damaged")],
)
def test_a_bad_checkpoint_ends_the_start_with_one_clear_line(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "bad.safetensors"
    if content is not None:
        path.write_bytes(content)
    log = tmp_path / "log"
    with (
        pytest.raises(AssertionError, match=message),
        running_server(log, "--checkpoint", str(path)),
    ):
        pass
    assert "Traceback" not in log.read_text()
