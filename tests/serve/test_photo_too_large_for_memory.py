import asyncio

import pytest
from serve_doubles import EngineDouble, encode, make_photo

from app.inference.room import PhotoDoesNotFitError

pytestmark = pytest.mark.anyio

DETAIL = "There is too little memory: ask for `scale=0.5`."


async def test_it_alone_gets_413_with_what_would_fit(serving):
    engine = EngineDouble()
    photos = [make_photo(20, 30, seed=seed) for seed in range(3)]
    photos[1][0, 0] = 255
    engine.fails[255] = PhotoDoesNotFitError(DETAIL)
    async with serving(engine) as served:
        answers = await asyncio.gather(*(served.post(encode(photo)) for photo in photos))
        assert [answer.status_code for answer in answers] == [200, 413, 200]
        problem = answers[1].json()
        assert problem["type"] == "urn:fcn:out-of-memory"
        assert problem["detail"] == DETAIL
        assert (await served.post(encode(photos[0]))).status_code == 200
