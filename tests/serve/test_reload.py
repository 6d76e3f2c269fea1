"""A new checkpoint takes the place of the one that serves, and nobody notices but by its masks."""

import asyncio
import base64
import gc
import logging
import threading
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from serve_doubles import (
    CLASSES,
    PATIENCE_S,
    EngineDouble,
    decode_png,
    encode,
    labels_of,
    make_photo,
)

from app.inference.engine import DeviceLostError, Segmentation
from model import CheckpointError, ClassInfo

pytestmark = pytest.mark.anyio

PHOTO = make_photo(6, 8)
PNG = encode(PHOTO)
RED, BLUE = (255, 0, 0), (0, 0, 255)


class Version(EngineDouble):
    """A double with a version of its own, and a name and labels that tell of it."""

    def __init__(self, number, classes=CLASSES):
        super().__init__()
        self.number = number
        self.version = f"{number:x}" * 64
        self.card = SimpleNamespace(**{**vars(EngineDouble.card), "classes": classes})

    @property
    def label(self):
        return f"double@{self.version[:12]}"

    def labels_of(self, photo):
        return (labels_of(photo) + self.number) % len(CLASSES)

    def segment_batch(self, photos, **options):
        return [
            Segmentation((found.label_map + self.number) % len(CLASSES), found.scores)
            for found in super().segment_batch(photos, **options)
        ]


class Checkpoints:
    """Instead of `load_engine`: hands out what it was given, each to one load.

    While `gate` is clear a load waits for it; `begun` counts loads.
    """

    def __init__(self, *results):
        self.results = list(results)
        self.begun = 0
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, settings, serving):
        self.begun += 1
        result = self.results.pop(0)
        assert self.gate.wait(PATIENCE_S)
        if isinstance(result, Exception):
            raise result
        return result


async def reloads(served, outcome="succeeded"):
    return await served.metric(f'fcn_reloads_total{{outcome="{outcome}"}}')


async def until_reloads(served, count, outcome="succeeded"):
    async with asyncio.timeout(PATIENCE_S):
        while await reloads(served, outcome) != count:
            await asyncio.sleep(0.001)


def assert_made_by(engine, answer, photo=PHOTO):
    assert answer.status_code == 200
    assert answer.headers["x-model"] == engine.label
    assert np.array_equal(decode_png(answer.content), engine.labels_of(photo))


class Uploading:
    """A POST whose body is sent when the test says so."""

    def __init__(self, served, query=""):
        self._chunks = asyncio.Queue()
        self.begun = asyncio.Event()
        self.answer = asyncio.create_task(served.post(self._body(), query))

    async def _body(self):
        self.begun.set()
        while chunk := await self._chunks.get():
            yield chunk

    async def finish(self, body=PNG):
        await self._chunks.put(body)
        await self._chunks.put(b"")
        return await self.answer


async def test_the_new_checkpoint_serves_and_is_shown_everywhere(serving, caplog):
    caplog.set_level(logging.INFO)
    new = Version(2, classes=(ClassInfo("leaf", RED), ClassInfo("stem", BLUE), *CLASSES[2:]))
    load = Checkpoints(old := Version(1), new)
    async with serving(load=load, checkpoint="models/street.safetensors") as served:
        assert_made_by(old, await served.post(PNG, "?format=grey"))
        assert await reloads(served) == await reloads(served, "failed") == 0

        served.service.reload()
        await until_reloads(served, 1)
        assert_made_by(new, await served.post(PNG, "?format=grey"))
        document = (await served.post(PNG, "?format=rle&classes=leaf")).json()
        model = await served.client.get("/model")
        health = (await served.client.get("/health")).json()
        metrics = (await served.client.get("/metrics")).text
    assert document["model"]["version"] == model.json()["version"] == new.version
    assert health["model"]["version"] == new.version
    assert {mask["class_name"] for mask in document["masks"]} == {"leaf"}
    assert [entry["name"] for entry in model.json()["classes"]][:2] == ["leaf", "stem"]
    assert model.headers["x-model"] == new.label
    assert new.version in metrics
    assert old.version not in metrics
    lines = [record.getMessage() for record in caplog.records if "reload" in record.getMessage()]
    assert lines == [
        f"reloading models/street.safetensors; {old.label} serves meanwhile",
        f"reloaded: {old.label} -> {new.label}",
    ]
    posts = [record.fields for record in caplog.records if hasattr(record, "fields")]
    models = [post["model"] for post in posts if post["path"].startswith("/segment")]
    assert models == [old.label, new.label, new.label]


async def test_while_it_loads_the_old_one_serves_and_the_server_stays_ready(serving):
    load = Checkpoints(old := Version(1), new := Version(2))
    async with serving(load=load) as served:
        load.gate.clear()
        served.service.reload()
        await served.until(lambda: load.begun == 2)
        assert_made_by(old, await served.post(PNG, "?format=grey"))
        assert (await served.client.get("/health/ready")).status_code == 200
        assert await reloads(served) == 0
        load.gate.set()
        await until_reloads(served, 1)
        assert_made_by(new, await served.post(PNG, "?format=grey"))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (CheckpointError("c.safetensors: not a safetensors file, or damaged"), "or damaged"),
        (FileNotFoundError(2, "No such file or directory", "c.safetensors"), "No such file"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory"),
        (MemoryError(), "MemoryError"),
        (RuntimeError("a bug"), "a bug"),
    ],
)
async def test_after_a_bad_one_the_old_one_serves_on(serving, caplog, error, reason):
    load = Checkpoints(old := Version(1), error, new := Version(2))
    async with serving(load=load) as served:
        served.service.reload()
        await until_reloads(served, 1, "failed")
        assert_made_by(old, await served.post(PNG, "?format=grey"))
        assert (await served.client.get("/health/ready")).status_code == 200
        assert old.version in (await served.client.get("/metrics")).text
        (line,) = (record for record in caplog.records if "reload" in record.getMessage())
        assert line.levelname == "ERROR"
        assert line.getMessage().startswith(f"reload failed, {old.label} goes on serving: ")
        assert reason in line.getMessage()
        assert bool(line.exc_info) == (reason == "a bug")

        served.service.reload()
        await until_reloads(served, 1)
        assert_made_by(new, await served.post(PNG, "?format=grey"))
        assert served.failures == []


async def test_what_a_failed_load_held_is_freed_without_the_garbage_collector(serving):
    held = []

    def load(settings, serving):
        engine = Version(len(held))
        held.append(weakref.ref(engine))
        if len(held) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return engine

    async with serving(load=load) as served:
        gc.disable()
        try:
            served.service.reload()
            await until_reloads(served, 1, "failed")
            await served.until(lambda: held[1]() is None)
        finally:
            gc.enable()


async def test_requests_in_progress_keep_their_version_and_share_no_batch_with_the_new(serving):
    load = Checkpoints(old := Version(1), new := Version(2))
    async with serving(load=load) as served:
        old.gate.clear()
        taken = [asyncio.create_task(served.post(PNG, "?format=grey"))]
        await asyncio.to_thread(old.began.acquire, timeout=PATIENCE_S)
        taken += [asyncio.create_task(served.post(PNG, "?format=grey")) for _ in range(3)]
        await served.until(lambda: served.service.running_pipeline.depth == 3)
        served.service.reload()
        await until_reloads(served, 1)
        later = [asyncio.create_task(served.post(PNG, "?format=grey")) for _ in range(3)]
        await served.until(lambda: served.service.running_pipeline.depth == 6)
        old.gate.set()
        for answer in await asyncio.gather(*taken):
            assert_made_by(old, answer)
        for answer in await asyncio.gather(*later):
            assert_made_by(new, answer)
    assert [len(batch) for batch in old.batches] == [1, 3]
    assert [len(batch) for batch in new.batches] == [3]


async def test_the_classes_that_were_checked_are_those_of_the_answer(serving):
    renamed = (CLASSES[1], CLASSES[0], ClassInfo("lorry", RED), CLASSES[3])
    load = Checkpoints(old := Version(1), new := Version(2, classes=renamed))
    async with serving(load=load) as served:
        query = "?format=rle&classes=sky,car"
        slow = Uploading(served, query)
        await slow.begun.wait()
        served.service.reload()
        await until_reloads(served, 1)
        answer = await slow.finish()
        refused = await served.post(PNG, query)
    assert answer.status_code == 200
    assert answer.headers["x-model"] == old.label
    assert answer.json()["model"]["version"] == old.version
    labels = old.labels_of(PHOTO)
    found = {mask["class_name"]: mask["area"] for mask in answer.json()["masks"]}
    assert found == {"sky": np.sum(labels == 0), "car": np.sum(labels == 2)}
    assert refused.status_code == 422
    assert refused.headers["x-model"] == new.label
    assert "lorry (2)" in refused.json()["detail"]


BROKEN = base64.b64encode(PNG[:30]).decode()
TASK = {"data": {"image": f"data:;base64,{BROKEN}"}}
CONFIG = (
    '<View><Image name="i" value="$image"/>'
    '<BrushLabels name="b" toName="i"><Label value="car"/></BrushLabels></View>'
)
FILES = {"name": "file", "shape": [2], "datatype": "BYTES", "data": [BROKEN, BROKEN]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/segment", {"files": [("image", PNG[:30]), ("image", PNG[:30])]}),
        ("/hf", {"content": PNG[:30]}),
        ("/label-studio/predict", {"json": {"tasks": [TASK, TASK], "label_config": CONFIG}}),
        ("/v2/models/double/infer", {"json": {"inputs": [FILES], "outputs": [{"name": "scores"}]}}),
    ],
)
async def test_a_request_that_failed_does_not_keep_its_version(serving, path, body):
    async with serving(load=Checkpoints(Version(1), Version(2))) as served:
        old = weakref.ref(served.service.engine)
        gc.disable()  # what holds a whole network must not wait for it
        try:
            response = await served.client.post(path, **body)
            assert response.status_code in (400, 415), response.text
            served.service.reload()
            await until_reloads(served, 1)
            await served.until(lambda: old() is None)
        finally:
            gc.enable()


@pytest.mark.parametrize("end", ["answered", "given up in its upload", "given up in the queue"])
async def test_the_next_load_waits_for_the_last_request_and_then_the_old_one_is_freed(serving, end):
    load = Checkpoints(Version(1), Version(2), new := Version(3))
    async with serving(load=load) as served:
        old = weakref.ref(served.service.engine)
        gate = old().gate
        gc.disable()  # what holds a whole network must not wait for it
        try:
            if end == "given up in the queue":
                gate.clear()
                taken = [asyncio.create_task(served.post(PNG)) for _ in range(3)]
                await served.until(lambda: served.service.running_pipeline.admission.requests == 3)
                await asyncio.to_thread(old().began.acquire, timeout=PATIENCE_S)
            else:
                slow = Uploading(served)
                await slow.begun.wait()
                taken = [slow.answer]
            served.service.reload()
            await until_reloads(served, 1)
            served.service.reload()
            assert load.begun == 2

            if end == "answered":
                await slow.finish()
            else:
                assert served.service.give_up() == len(taken)
            statuses = {answer.status_code for answer in await asyncio.gather(*taken)}
            assert statuses == {200 if end == "answered" else 503}
            gate.set()
            await until_reloads(served, 2)
            await served.until(lambda: old() is None)
        finally:
            gc.enable()
        assert_made_by(new, await served.post(PNG, "?format=grey"))


async def test_reloads_asked_for_during_a_load_are_one_more(serving):
    load = Checkpoints(Version(1), Version(2), new := Version(3))
    async with serving(load=load) as served:
        load.gate.clear()
        served.service.reload()
        await served.until(lambda: load.begun == 2)
        for _ in range(5):
            served.service.reload()
        load.gate.set()
        await until_reloads(served, 2)
        assert_made_by(new, await served.post(PNG, "?format=grey"))
    assert load.begun == 3


async def test_a_reload_asked_for_while_starting_follows_the_start(serving):
    load = Checkpoints(Version(1), new := Version(2))
    load.gate.clear()
    async with serving(load=load, ready=False) as served:
        await served.until(lambda: load.begun == 1)
        served.service.reload()
        load.gate.set()
        await until_reloads(served, 1)
        assert_made_by(new, await served.post(PNG, "?format=grey"))


async def test_a_start_that_fails_is_not_tried_again(serving):
    load = Checkpoints(CheckpointError("damaged"), Version(2))
    load.gate.clear()
    async with serving(load=load, ready=False) as served:
        await served.until(lambda: load.begun == 1)
        served.service.reload()
        load.gate.set()
        await served.until(lambda: served.failures)
        served.service.reload()
        assert (await served.client.get("/health/live")).status_code == 503
    assert load.begun == 1


async def test_a_draining_server_loads_nothing_and_does_not_swap(serving, caplog):
    load = Checkpoints(old := Version(1), Version(2), Version(3))
    async with serving(load=load) as served:
        slow = Uploading(served, "?format=grey")
        await slow.begun.wait()
        load.gate.clear()
        served.service.reload()
        await served.until(lambda: load.begun == 2)
        served.service.drain()
        served.service.reload()
        load.gate.set()
        assert_made_by(old, await slow.finish())
        await served.until(lambda: not served.service.versions.busy)
        assert served.service.engine is old
    assert load.begun == 2
    assert "not reloading: the server is draining" in caplog.text


async def test_a_load_that_is_running_does_not_hold_up_the_end(serving):
    load = Checkpoints(Version(1), Version(2))
    async with serving(load=load) as served:
        load.gate.clear()
        served.service.reload()
        await served.until(lambda: load.begun == 2)
    # The process must leave without waiting for that thread.
    assert served.service.stuck
    load.gate.set()


async def test_a_device_lost_in_a_reload_is_lost_for_all(serving, caplog):
    lost = DeviceLostError("the CUDA device can no longer be used: illegal memory access")
    load = Checkpoints(Version(1), lost)
    async with serving(load=load) as served:
        served.service.reload()
        await until_reloads(served, 1, "failed")
        await served.until(lambda: not served.service.alive)
        assert (await served.client.get("/health/live")).status_code == 503
        assert (await served.post(PNG)).json()["type"] == "urn:fcn:model-dead"
        served.service.reload()
    assert load.begun == 2
    assert "not reloading: the server is dead" in caplog.text


async def test_without_a_thread_to_load_in_the_old_one_serves_on(serving, monkeypatch):
    def fail(thread):
        raise RuntimeError("can't start new thread")

    load = Checkpoints(old := Version(1), new := Version(2))
    async with serving(load=load) as served:
        assert_made_by(old, await served.post(PNG, "?format=grey"))
        with monkeypatch.context() as patched:
            patched.setattr("app.serve.versions.threading.Thread.start", fail)
            served.service.reload()
        assert await reloads(served, "failed") == 1
        assert_made_by(old, await served.post(PNG, "?format=grey"))
        served.service.reload()
        await until_reloads(served, 1)
        assert_made_by(new, await served.post(PNG, "?format=grey"))
