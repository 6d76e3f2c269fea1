"""New checkpoints under load: no request is lost, each mask is of the version it names."""

import io
import os
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from live_server import Server, decode_png, label_map_from_rle, running_server
from numpy.typing import NDArray
from PIL import Image

from app.inference.engine import Engine
from model import FCN, Architecture, Card, named_classes, save_checkpoint

PATIENCE_S = 300
"""How long the test waits for what must happen, in seconds: only a failure takes that long."""

REQUESTS = 1000
RELOADS = 10
CORRUPT = 5
"""Which reload finds a truncated file."""

CLIENTS = 8


@dataclass
class Version:
    """A checkpoint, and what it says of the photos.

    Attributes:
        path: The file.
        name: As in `X-Model`.
        version: SHA-256 of the file.
        class_names: In index order.
        masks: A label map for each photo.
    """

    path: Path
    name: str
    version: str
    class_names: list[str]
    masks: list[NDArray[np.uint8]]


def make_version(path: Path, class_names: list[str], photos: list[Image.Image]) -> Version:
    """Write a checkpoint with random weights that depend on its name."""
    torch.manual_seed(len(path.stem))
    architecture = Architecture(backbone="alexnet", head_width=8)
    net = FCN(architecture, len(class_names))
    for parameter in net.parameters():
        if parameter.dim() == 4:  # random scores, so that a mask has more than one class
            torch.nn.init.kaiming_normal_(parameter)
    save_checkpoint(path, net, Card(path.stem, architecture, named_classes(class_names)))
    engine = Engine.load(path, device="cpu", precision="fp32")
    masks = [engine.segment([np.asarray(photo)])[0].label_map for photo in photos]
    return Version(path, f"{path.stem}@{engine.version[:12]}", engine.version, class_names, masks)


def put(content: bytes, place: Path) -> None:
    """Replace a file as training does: a reader sees the old one or the new one."""
    beside = place.with_suffix(".new")
    beside.write_bytes(content)
    os.replace(beside, place)


def until(condition: Callable[[], bool], what: str) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up, f"waited {PATIENCE_S} s for {what}"
        time.sleep(0.01)


def assert_made_by(version: Version, photo: int, answer: httpx.Response) -> None:
    if answer.headers["content-type"] == "application/json":
        document = answer.json()
        assert document["model"]["version"] == version.version
        for mask in document["masks"]:
            assert mask["class_name"] == version.class_names[mask["class_id"]]
        label_map = label_map_from_rle(document)
    else:
        label_map = decode_png(answer.content)
    # Photos alone and in batches are rounded differently; see the design.
    assert np.mean(label_map == version.masks[photo]) >= 0.999


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGHUP")
def test_a_thousand_requests_across_ten_reloads(tmp_path: Path, photo: Image.Image) -> None:
    photos = [photo.crop((n, n, n + 300, n + 300)).resize((64 + 8 * n, 56)) for n in range(4)]
    bodies = []
    for crop in photos:
        buffer = io.BytesIO()
        crop.save(buffer, "PNG")
        bodies.append(buffer.getvalue())
    versions = [
        make_version(tmp_path / "first.safetensors", ["sky", "road", "car"], photos),
        make_version(tmp_path / "second.safetensors", ["road", "leaf", "stem", "soil"], photos),
    ]
    for one, other in zip(*(version.masks for version in versions), strict=True):
        assert np.mean(one == other) < 0.9
    served = tmp_path / "served.safetensors"
    shutil.copy(versions[0].path, served)

    answers: list[tuple[int, httpx.Response]] = []
    over = threading.Event()

    def ask(server: Server, client: int) -> None:
        number = client
        while not over.is_set():
            photo, form = number % len(bodies), ("grey", "rle")[number // len(bodies) % 2]
            answers.append((photo, server.post(bodies[photo], format=form)))
            number += 1

    words = ["--checkpoint", str(served), "--device", "cpu", "--precision", "fp32"]
    with (
        running_server(
            tmp_path / "log", *words, warm_up_sizes="64x56", request_timeout_s=PATIENCE_S
        ) as server,
        ThreadPoolExecutor(CLIENTS) as clients,
    ):

        def reloads(outcome: str) -> float:
            return server.metric(f'fcn_reloads_total{{outcome="{outcome}"}}')

        asking = [clients.submit(ask, server, client) for client in range(CLIENTS)]
        try:
            current, swaps = versions[0], 0
            for reload in range(1, RELOADS + 1):
                enough = reload * REQUESTS // (RELOADS + 1)
                until(lambda enough=enough: len(answers) >= enough, "answers")
                content = versions[reload % 2].path.read_bytes()
                if reload == CORRUPT:
                    put(content[: len(content) // 2], served)
                else:
                    put(content, served)
                    current, swaps = versions[reload % 2], swaps + 1
                server.process.send_signal(signal.SIGHUP)
                until(lambda n=reload: reloads("succeeded") + reloads("failed") == n, "a reload")
                assert reloads("succeeded") == swaps
                assert server.client.get("/health/ready").status_code == 200
                assert server.client.get("/model").json()["version"] == current.version
                assert server.post(bodies[0]).headers["x-model"] == current.name
            until(lambda: len(answers) >= REQUESTS, "answers")
        finally:
            over.set()
        for task in asking:
            task.result()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE_S) == 0

    assert {answer.status_code for _, answer in answers} == {200}
    made_by = {version.name: version for version in versions}
    for index, answer in answers:
        assert_made_by(made_by[answer.headers["x-model"]], index, answer)
    counts = Counter(answer.headers["x-model"] for _, answer in answers)
    assert min(counts[version.name] for version in versions) >= REQUESTS // 10
    log = (tmp_path / "log").read_text()
    assert f"reload failed, {versions[0].name} goes on serving: {served}" in log
    assert "Traceback" not in log
