"""Photos of hundreds of sizes: memory settles, whatever caches by shape there are."""

import itertools
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from live_server import running_server

from app.bench.photos import Photo, drawn_photos, parse_sizes

SIZES = 500
REQUESTS = 2000
SETTLED = 200
"""Requests after which memory may grow by `MOST_GROWTH` only."""

EVERY = 100
REST_S = 1
"""What the last forwards freed goes back once nothing runs (`app.inference.heap`)."""

MOST_GROWTH = 1.05
CLIENTS = 4
PHOTOS = f"64x64-480x360/{SIZES}"


def shuffled(photos: list[Photo]) -> Iterator[Photo]:
    """Yield every photo once in a random order, then again in another, for ever."""
    chance = random.Random(0)
    while True:
        yield from chance.sample(photos, len(photos))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_is_flat_over_hundreds_of_sizes(tmp_path: Path, checkpoint: Path) -> None:
    photos = drawn_photos(parse_sizes(PHOTOS), file_format="jpeg", seed=0)
    assert len({photo.size for photo in photos}) == SIZES
    sent = itertools.islice(shuffled(photos), REQUESTS)
    resident = []
    with (
        running_server(
            tmp_path / "log", "--checkpoint", str(checkpoint), request_timeout_s=600
        ) as server,
        ThreadPoolExecutor(CLIENTS) as clients,
    ):
        while turn := list(itertools.islice(sent, EVERY)):
            answers = list(clients.map(lambda photo: server.post(photo.body), turn))
            assert {answer.status_code for answer in answers} == {200}
            time.sleep(REST_S)
            resident.append(server.resident_mib())
    print("resident MiB:", ", ".join(f"{mib:.0f}" for mib in resident))
    settled = resident[SETTLED // EVERY - 1]
    assert resident[-1] < MOST_GROWTH * settled, resident
