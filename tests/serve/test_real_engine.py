"""The application as it is served: a checkpoint file and the real engine, held up only once."""

import asyncio
import io
import threading

import httpx
import numpy as np
import pytest
import torch
from pycocotools import mask as coco
from serve_doubles import PATIENCE_S, decode_png, encode, make_photo

from app.inference.engine import Engine
from app.serve.application import create_app
from app.serve.service import load_engine
from app.serve.settings import Settings
from model import FCN, Architecture, Card, named_classes, save_checkpoint

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    architecture = Architecture(head_width=8)
    classes = named_classes(["sky", "road", "car"])
    net = FCN(architecture, len(classes))
    for parameter in net.parameters():
        if parameter.dim() == 4:  # random scores, so that a mask has more than one class
            torch.nn.init.kaiming_normal_(parameter)
    path = tmp_path_factory.mktemp("checkpoint") / "random.safetensors"
    save_checkpoint(path, net, Card("random", architecture, classes), dtype=torch.bfloat16)
    return path


async def test_masks_equal_those_of_the_photo_alone(checkpoint):
    settings = Settings(checkpoint=checkpoint, device="cpu", precision="fp32", warm_up_sizes=())
    failures = []
    busy, gate = threading.Event(), threading.Event()

    def load(settings, serving):
        engine = load_engine(settings)
        segment_batch = engine.segment_batch

        def held(batch, **options):
            busy.set()
            assert gate.wait(PATIENCE_S)
            return segment_batch(batch, **options)

        engine.segment_batch = held
        return engine

    app = create_app(settings, load=load, on_failure=failures.append)
    transport = httpx.ASGITransport(app)
    photos = [make_photo(32 + 8 * (n % 2), 40, seed=n) for n in range(8)]
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):

        async def until(condition):
            async with asyncio.timeout(PATIENCE_S):
                while not condition():
                    await asyncio.sleep(0.01)

        await until(lambda: app.state.service.phase != "starting")
        assert not failures

        async def post(photo, query):
            return await client.post(f"/segment?{query}", content=encode(photo))

        first = asyncio.create_task(post(make_photo(16, 16), "format=grey"))
        await until(busy.is_set)
        posts = [asyncio.create_task(post(photo, "format=grey")) for photo in photos]
        await until(lambda: app.state.service.running_pipeline.depth == len(photos))
        gate.set()
        assert (await first).status_code == 200
        greys = await asyncio.gather(*posts)
        metrics = (await client.get("/metrics")).text.splitlines()
        document = (await post(photos[0], "format=rle&scores=true")).json()
        arrays = (await post(photos[0], "format=probabilities")).content
        sure = decode_png((await post(photos[0], "format=confidence")).content)
        halved = decode_png((await post(photos[0], "format=grey&scale=0.5")).content)
    alone = Engine.load(checkpoint, device="cpu", precision="fp32")
    for photo, grey in zip(photos, greys, strict=True):
        expected = alone.segment([photo])[0].label_map
        assert np.mean(decode_png(grey.content) == expected) >= 0.99999
    # The first photo, and one batch for each of the two sizes.
    assert "fcn_batch_images_count 3.0" in metrics
    assert "fcn_batch_images_sum 9.0" in metrics

    label_map = decode_png(greys[0].content)
    assert len(document["masks"]) == len(np.unique(label_map)) > 1
    for mask in document["masks"]:
        assert np.array_equal(coco.decode(mask["rle"]), label_map == mask["class_id"])
        assert 0 < mask["score"] <= 1
    with np.load(io.BytesIO(arrays)) as found:
        assert np.array_equal(found["probabilities"].argmax(0), label_map)
        assert np.allclose(found["probabilities"].max(0), sure / 255, atol=0.003)
    assert document["model"] == {"name": "random", "version": alone.version}
    assert halved.shape == label_map.shape
