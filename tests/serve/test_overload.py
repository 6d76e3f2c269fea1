"""Full queues, passed deadlines, clients that leave: each request by itself, the server goes on."""

import asyncio
import functools
import threading

import httpx
import pytest
from serve_doubles import PATIENCE_S, EngineDouble, encode, make_photo

from app.inference.decode import OpenedPhoto
from app.serve import pipeline
from app.serve.batcher import Batcher
from app.serve.settings import Settings

pytestmark = pytest.mark.anyio

PNG = encode(make_photo(6, 8))


def post_later(served, body=PNG, **headers):
    return asyncio.create_task(served.post(body, **headers))


async def test_a_full_queue_is_429_with_retry_after_and_empties_again(serving):
    async with serving(queue_requests=3) as served:
        served.engine.gate.clear()
        taken = [post_later(served) for _ in range(3)]
        await served.until(lambda: served.service.running_pipeline.admission.requests == 3)
        # What is decoded no longer counts as an upload.
        await served.until(lambda: served.service.running_pipeline.uploads.held == 0)
        refused = await served.post(PNG)
        assert refused.status_code == 429
        assert refused.json()["type"] == "urn:fcn:queue-full"
        assert int(refused.headers["retry-after"]) >= 1
        assert await served.metric('fcn_rejects_total{reason="queue-full"}') == 1
        assert await served.metric("fcn_admitted_requests") == 3
        assert (await served.client.get("/health")).json()["queue"]["requests"] == 3
        served.engine.gate.set()
        assert [answer.status_code for answer in await asyncio.gather(*taken)] == [200] * 3
        assert (await served.post(PNG)).status_code == 200


async def test_pixels_are_bounded_too_and_before_decoding(serving, monkeypatch):
    decoded = []
    real = OpenedPhoto.decode
    monkeypatch.setattr(OpenedPhoto, "decode", lambda self: decoded.append(self) or real(self))
    async with serving(queue_pixels=100, max_pixels=100) as served:
        served.engine.gate.clear()
        taken = [post_later(served) for _ in range(2)]
        await served.until(lambda: served.service.running_pipeline.admission.pixels == 96)
        refused = await served.post(PNG)
        assert refused.status_code == 429
        assert "megapixels" in refused.json()["detail"]
        assert len(decoded) == 2
        served.engine.gate.set()
        await asyncio.gather(*taken)


async def test_a_photo_counts_at_the_size_the_network_sees(serving):
    async with serving(max_pixels=200, queue_pixels=200) as served:
        served.engine.gate.clear()
        taken = asyncio.create_task(served.post(PNG, "?scale=2"))
        await served.device_busy()
        assert served.service.running_pipeline.admission.pixels == 192
        served.engine.gate.set()
        assert (await taken).status_code == 200


async def test_a_full_queue_refuses_before_reading_the_body(serving):
    async with serving(queue_requests=1) as served:
        served.engine.gate.clear()
        taken = post_later(served)
        await served.device_busy()
        messages = await call(served.app, [])  # any receive would wait for ever
        assert messages[0]["status"] == 429
        served.engine.gate.set()
        await taken


async def test_uploads_are_bounded_together(serving):
    async with serving(max_bytes=70_000, upload_bytes=150_000) as served:
        held = asyncio.create_task(call(served.app, [b"x" * 60_000]))
        await served.until(lambda: served.service.running_pipeline.uploads.held > 120_000)
        refused = await served.post(PNG)
        assert refused.status_code == 429
        assert refused.json()["type"] == "urn:fcn:uploads-full"
        assert int(refused.headers["retry-after"]) >= 1
        held.cancel()
        await served.until(lambda: served.service.running_pipeline.uploads.held == 0)
        assert (await served.post(PNG)).status_code == 200


@pytest.mark.parametrize("client_wants", ["0.05", None])
async def test_a_passed_deadline_is_504(serving, client_wants):
    own = 60.0 if client_wants else 0.05
    headers = {"x_request_timeout": client_wants} if client_wants else {}
    async with serving() as served:
        served.engine.gate.clear()
        first = post_later(served)
        await served.device_busy()
        served.service.settings = Settings(request_timeout_s=own)  # not for the first
        late = await served.post(PNG, **headers)
        assert late.status_code == 504
        assert late.json()["type"] == "urn:fcn:deadline-exceeded"
        assert "0.05 seconds" in late.json()["detail"]
        # It left the queue: the network never sees it.
        assert served.service.running_pipeline.depth == 0
        served.engine.gate.set()
        await first
        assert len(served.engine.batches) == 1


async def test_the_deadline_covers_the_upload(serving):
    async with serving(request_timeout_s=0.05) as served:
        messages = await call(served.app, [b"\x89PNG"])
        assert messages[0]["status"] == 504
        assert served.service.running_pipeline.uploads.held == 0


async def test_a_client_that_leaves_is_dropped_from_the_queue(serving):
    async with serving() as served:
        served.engine.gate.clear()
        first = post_later(served)
        await served.device_busy()
        leave = asyncio.Event()
        gone = asyncio.create_task(call(served.app, [PNG], leave=leave))
        await served.until(lambda: served.service.running_pipeline.depth == 1)
        leave.set()
        await gone
        assert served.service.running_pipeline.depth == 0
        assert served.service.running_pipeline.admission.requests == 1
        served.engine.gate.set()
        await first
        assert len(served.engine.batches) == 1
        assert await served.metric('fcn_requests_total{route="/segment",status="499"}') == 1


async def test_a_client_that_leaves_during_its_upload_leaves_nothing(serving):
    async with serving() as served:
        leave = asyncio.Event()
        gone = asyncio.create_task(call(served.app, [PNG[:10]], leave=leave, more=True))
        await served.until(lambda: served.service.running_pipeline.uploads.held > 0)
        leave.set()
        await gone
        assert served.service.running_pipeline.uploads.held == 0


@pytest.fixture
def slow_device(monkeypatch):
    """Let every run look as if it had taken so many seconds."""

    def make(seconds):
        engine = EngineDouble()
        slow = functools.partial(Batcher, clock=lambda: seconds * len(engine.batches))
        monkeypatch.setattr(pipeline, "Batcher", slow)
        return engine

    return make


async def test_retry_after_grows_with_what_is_queued(serving, slow_device):
    async with serving(slow_device(0.5)) as served:
        running = served.service.running_pipeline
        assert running.retry_after_s() == 1
        await served.post(PNG)  # 48 pixels in half a second
        served.engine.gate.clear()
        taken = [post_later(served)]
        await served.until(lambda: len(served.engine.batches) == 2)
        taken += [post_later(served) for _ in range(5)]
        await served.until(lambda: running.depth == 5)
        assert running.retry_after_s() == 3
        served.engine.gate.set()
        await asyncio.gather(*taken)


async def test_a_wait_that_would_be_too_long_is_429_before_the_body_is_read(serving, slow_device):
    async with serving(slow_device(15.0), batch_images=1) as served:
        await served.post(PNG)  # 48 pixels in 15 seconds
        served.engine.gate.clear()
        taken = [post_later(served)]
        await served.until(lambda: len(served.engine.batches) == 2)
        taken += [post_later(served) for _ in range(2)]
        await served.until(lambda: served.service.running_pipeline.depth == 2)
        messages = await call(served.app, [])  # any receive would wait for ever
        assert messages[0]["status"] == 429
        refused = await served.post(PNG)
        assert refused.status_code == 429
        assert refused.json()["type"] == "urn:fcn:queue-too-long"
        assert "would wait about 30.0 seconds" in refused.json()["detail"]
        assert int(refused.headers["retry-after"]) in (30, 31)
        assert await served.metric("fcn_expected_wait_seconds") == pytest.approx(30)
        assert await served.metric('fcn_rejects_total{reason="queue-too-long"}') == 2
        served.engine.gate.set()
        assert [answer.status_code for answer in await asyncio.gather(*taken)] == [200] * 3
        # A device that waits refuses nobody, whatever was learnt of it.
        assert (await served.post(PNG, x_request_timeout="10")).status_code == 200


async def test_a_photo_too_large_for_its_deadline_is_429_before_it_is_decoded(
    serving, slow_device, monkeypatch
):
    decoded = []
    real = OpenedPhoto.decode
    monkeypatch.setattr(OpenedPhoto, "decode", lambda self: decoded.append(self) or real(self))
    async with serving(slow_device(10.0)) as served:
        await served.post(PNG)  # 48 pixels in 10 seconds
        served.engine.gate.clear()
        taken = [post_later(served)]
        await served.until(lambda: len(served.engine.batches) == 2)
        taken.append(post_later(served))
        await served.until(lambda: served.service.running_pipeline.depth == 1)
        # Behind 10 seconds: as large a photo would do, one of 6 times its pixels would not.
        taken.append(post_later(served))
        await served.until(lambda: served.service.running_pipeline.depth == 2)
        refused = await served.post(encode(make_photo(12, 24)))
        assert refused.status_code == 429
        assert refused.json()["type"] == "urn:fcn:queue-too-long"
        assert len(decoded) == 4
        served.engine.gate.set()
        assert [answer.status_code for answer in await asyncio.gather(*taken)] == [200] * 3


async def test_a_client_in_a_hurry_is_refused_sooner(serving, slow_device):
    async with serving(slow_device(2.0)) as served:
        await served.post(PNG)
        served.engine.gate.clear()
        taken = [post_later(served)]
        await served.until(lambda: len(served.engine.batches) == 2)
        taken.append(post_later(served))
        await served.until(lambda: served.service.running_pipeline.depth == 1)
        hurried = await served.post(PNG, x_request_timeout="3.5")
        assert hurried.json()["type"] == "urn:fcn:queue-too-long"
        taken.append(post_later(served, x_request_timeout="30"))
        await served.until(lambda: served.service.running_pipeline.depth == 2)
        served.engine.gate.set()
        assert [answer.status_code for answer in await asyncio.gather(*taken)] == [200] * 3


async def test_requests_count_from_the_end_of_their_upload(serving, monkeypatch):
    """Also those that wait for a thread to read their header: else there is no end of them."""
    gate = threading.Event()
    real = pipeline.open_photo

    def held(data, **options):
        assert gate.wait(PATIENCE_S)
        return real(data, **options)

    monkeypatch.setattr(pipeline, "open_photo", held)
    async with serving(queue_requests=5, decode_threads=1) as served:
        admission = served.service.running_pipeline.admission
        taken = [post_later(served) for _ in range(5)]
        await served.until(lambda: admission.requests == 5)
        assert (await served.post(PNG)).json()["type"] == "urn:fcn:queue-full"
        taken.pop().cancel()
        await served.until(lambda: admission.requests == 4)
        gate.set()
        assert [answer.status_code for answer in await asyncio.gather(*taken)] == [200] * 4
        assert admission.requests == 0


async def call(app, chunks, *, leave=None, more=None):
    """Send a raw ASGI request that stalls after its chunks, or leaves; return what was sent."""
    more = leave is None if more is None else more
    pending = [
        {"type": "http.request", "body": chunk, "more_body": more or n < len(chunks)}
        for n, chunk in enumerate(chunks, start=1)
    ]
    sent = []

    async def receive():
        if pending:
            return pending.pop(0)
        await (leave or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    request = httpx.Request("POST", "http://test/segment")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "scheme": "http",
        "path": "/segment",
        "raw_path": b"/segment",
        "query_string": b"",
        "server": ("test", 80),
        "client": ("127.0.0.1", 1),
        "root_path": "",
    }
    async with asyncio.timeout(PATIENCE_S):
        await app(scope, receive, send)
    return sent
