"""The servers that the service is compared with give its masks, of the same network."""

import asyncio
import io
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from app.bench.naive import create_app as create_naive_app
from app.bench.null import NullEngine
from app.bench.photos import drawn_photos, parse_sizes
from app.inference.engine import Engine
from app.inference.network import Extras
from app.serve.application import create_app
from app.serve.settings import Settings
from model import FCN, Card

PHOTOS = drawn_photos(parse_sizes("48x36,33x47"), file_format="jpeg", seed=0)


@pytest.fixture(scope="module")
def engine(random_network: tuple[FCN, Card]) -> Engine:
    return Engine(*random_network, "0" * 64, precision="fp32")


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image)


async def masks(app) -> list[np.ndarray]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        async with asyncio.timeout(120):
            while (await client.get("/health/ready")).status_code != 200:
                await asyncio.sleep(0.01)
        answers = [await client.post("/segment", files={"image": p.body}) for p in PHOTOS]
    assert [answer.status_code for answer in answers] == [200, 200]
    return [pixels(answer.content) for answer in answers]


async def service_masks(engine: Engine) -> list[np.ndarray]:
    app = create_app(Settings(), load=lambda settings, serving: engine)
    async with app.router.lifespan_context(app):
        return await masks(app)


@pytest.mark.parametrize("null", [False, True])
def test_the_naive_handlers_masks_are_the_services(engine: Engine, null: bool) -> None:
    engine = NullEngine() if null else engine
    ours = asyncio.run(service_masks(engine))
    naive = asyncio.run(masks(create_naive_app(engine)))
    for one, other, photo in zip(ours, naive, PHOTOS, strict=True):
        assert np.array_equal(one, other)
        assert one.shape == (photo.height, photo.width)
        assert len(np.unique(one)) > 1


def test_litserves_masks_are_the_services(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("litserve")
    from app.bench import litserve_server

    monkeypatch.setattr(litserve_server, "load_engine", lambda *arguments: engine)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    api = litserve_server.SegmentAPI(None, "fp32", 1, max_batch_size=8)
    api.setup("cpu")
    uploads = [PHOTOS[0], PHOTOS[1], PHOTOS[0]]
    photos = [
        api.decode_request({"image": SimpleNamespace(file=io.BytesIO(photo.body))})
        for photo in uploads
    ]
    label_maps = api.unbatch(api.predict(api.batch(photos)))
    ours = asyncio.run(service_masks(engine))
    for label_map, expected in zip(label_maps, [*ours, ours[0]], strict=True):
        assert np.array_equal(pixels(api.encode_response(label_map).body), expected)


def test_a_network_that_costs_nothing_answers_in_any_size_and_with_scores() -> None:
    engine = NullEngine()
    photos = [np.zeros((6, 8, 3), np.uint8)] * 3
    plain = engine.segment(photos)
    assert [one.label_map.shape for one in plain] == [(6, 8)] * 3
    assert plain[0].scores is None
    scored = engine.segment(photos[:1], size=(12, 16), extras=Extras(scores=True))[0]
    assert scored.label_map.shape == (12, 16)
    assert scored.scores is not None
    assert len(scored.scores) == len(engine.card.classes)


def test_no_setting_of_the_service_reaches_the_network_that_costs_nothing() -> None:
    assert "null" not in " ".join(Settings.model_fields)
