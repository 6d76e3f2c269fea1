"""A CUDA context that is broken stays broken: the process must say so and be restarted."""

import asyncio

import pytest
from serve_doubles import EngineDouble, encode, make_photo

from app.inference.engine import DeviceLostError

pytestmark = pytest.mark.anyio


class LostEngine(EngineDouble):
    def segment_batch(self, photos, **options):
        super().segment_batch(photos, **options)
        raise DeviceLostError("the CUDA device can no longer be used: illegal memory access")


async def test_everyone_is_answered_and_liveness_fails_for_good(serving):
    body = encode(make_photo(6, 8))
    other = encode(make_photo(8, 6))
    async with serving(LostEngine()) as served:
        assert (await served.client.get("/health/live")).status_code == 200
        answers = await asyncio.gather(*(served.post(image) for image in (body, other, body)))
        assert {answer.status_code for answer in answers} == {503}
        assert answers[0].json()["type"] in ("urn:fcn:model-dead", "urn:fcn:stopping")
        await served.until(lambda: not served.service.alive)
        assert (await served.client.get("/health/live")).status_code == 503
        assert (await served.client.get("/health/ready")).status_code == 503
        assert (await served.post(body)).json()["type"] == "urn:fcn:model-dead"
