"""Ten times as many photos as the service can segment: 200 or 429, in time, and soon well again."""

import asyncio
import random
import statistics
import time
from collections import Counter
from pathlib import Path

import httpx
import numpy as np
import pytest
from hostile_files import save
from live_server import ROOT, Server, running_server
from paced_server import LANES, PACE
from PIL import Image

from app.bench.connection import build_request
from app.bench.load import Load, Sample, Target, run_load
from app.bench.photos import Photo, drawn_photos, parse_sizes

TIMES = 10
"""The flood's rate over the capacity."""

SHORT_S, SHORT_DEADLINE_S, PACE_S = 5.0, 3.0, 0.05

SIZE = "480x360"
CAPACITY_S, LONG_S, LONG_DEADLINE_S = 20.0, 120.0, 10.0


@pytest.mark.parametrize("lanes", [1, 3])
def test_a_short_flood(tmp_path: Path, photo: Image.Image, lanes: int) -> None:
    """The network takes 50 ms a photo, so 20 a second are what the service can do.

    Batches of four, as are measured to pay: three side by side take 0.6 s each. Whatever is
    accepted, a batch that takes as long as the deadline comes too late.
    """
    body = save(photo.resize((96, 64)), "PNG")
    program = (str(ROOT / "tests" / "end_to_end" / "paced_server.py"),)
    pace = {PACE: str(PACE_S), LANES: str(lanes)}
    settings = {"batch_images": "4"}
    log = tmp_path / "log"
    with running_server(log, program=program, environment=pace, **settings) as server:
        usual = server.post(body).content
        answers = asyncio.run(flood(server.url, body, TIMES / PACE_S, SHORT_S, SHORT_DEADLINE_S))
        statuses = Counter(answer.status_code for answer in answers)
        assert set(statuses) == {200, 429}, statuses
        # As many as it could do, or more than half of that: the machine may be busy.
        assert statuses[200] >= SHORT_S / PACE_S / 2
        for answer in answers:
            if answer.status_code == 429:
                assert int(answer.headers["retry-after"]) >= 1
                assert answer.json()["type"] in {"urn:fcn:queue-full", "urn:fcn:queue-too-long"}
            else:
                assert answer.content == usual
        assert server.post(body).content == usual
        assert not any(server.held().values())
        assert "Traceback" not in log.read_text()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_minutes_of_flood(tmp_path: Path, checkpoint: Path) -> None:
    """The real network, on a quiet machine: figures are asserted."""
    (photo,) = drawn_photos(parse_sizes(SIZE), file_format="jpeg", seed=0)
    with running_server(tmp_path / "log", "--checkpoint", str(checkpoint)) as server:
        alone_s = median_s(server, photo.body)
        flooded = send(server, photo, Load(concurrency=16, duration_s=CAPACITY_S))
        capacity = len([one for one in flooded if one.measured]) / CAPACITY_S
        rate = TIMES * capacity
        samples = send(server, photo, Load(rate=rate, duration_s=LONG_S, seed=1))
        after_s = median_s(server, photo.body)
        held = server.held()

    statuses = Counter(sample.answer.status or sample.answer.error for sample in samples)
    print(f"{capacity:.2f} images/s, flooded with {rate:.1f}/s: {dict(statuses)}")
    assert set(statuses) <= {200, 429, 504}, statuses
    assert statuses[504] < 0.001 * len(samples), statuses
    assert statuses[429] > statuses[200], "that was no flood"
    # The device had work all the time, and the work was not wasted.
    assert statuses[200] >= 0.8 * capacity * LONG_S, statuses
    times = [sample.answer.finished - sample.sent for sample in samples]
    # What the server promises ends when it begins to answer; the rest is the way back.
    assert max(times) < LONG_DEADLINE_S + 1
    masks = [time for time, one in zip(times, samples, strict=True) if one.answer.status == 200]
    p50, p99 = np.percentile(masks, (50, 99))
    print(
        f"200 after p50 {p50:.2f} s, p99 {p99:.2f} s; {alone_s:.3f} s before, {after_s:.3f} after"
    )
    assert p99 < LONG_DEADLINE_S
    assert after_s < 4 * alone_s + 0.1
    assert not any(held.values())


def send(server: Server, photo: Photo, load: Load) -> list[Sample]:
    host, port = server.address
    headers = [("X-Request-Timeout", str(LONG_DEADLINE_S))] if load.rate else []
    request = build_request(
        f"{host}:{port}", "/segment", photo.body, media_type=photo.media_type, headers=headers
    )
    return run_load(Target(host, port, [request], [1.0]), load).samples


def median_s(server: Server, body: bytes) -> float:
    """Return what a photo takes that comes alone, in seconds, each of the first ones included."""
    times = []
    for _ in range(3):
        began = time.monotonic()
        assert server.post(body).status_code == 200
        times.append(time.monotonic() - began)
    return statistics.median(times)


async def flood(
    url: str, body: bytes, rate: float, duration_s: float, deadline_s: float
) -> list[httpx.Response]:
    """Post photos at random moments, whether or not earlier ones are answered."""
    chance = random.Random(0)
    headers = {"X-Request-Timeout": str(deadline_s)}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        posts = []
        due = time.monotonic()
        end = due + duration_s
        while due < end:
            due += chance.expovariate(rate)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            posts.append(
                asyncio.create_task(client.post("/segment", content=body, headers=headers))
            )
        return await asyncio.gather(*posts)
