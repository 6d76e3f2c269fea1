"""The bound on probabilities, from a photo's header until the answer is sent."""

import asyncio
import io

import numpy as np
import pytest
from serve_doubles import encode, labels_of, make_photo

from app.serve.answers import (
    AnswerBudget,
    AnswersFullError,
    AnswerShare,
    AnswerTooLargeError,
    SharedResponse,
)

PHOTO = make_photo()
BYTES = 4 * PHOTO.shape[0] * PHOTO.shape[1]  # of one class


def budget(most=100):
    return AnswerBudget(most, retry_after=lambda: 7)


def test_shares_count_together_until_released():
    bound = budget()
    one, other = AnswerShare(bound), AnswerShare(bound)
    one.take(60)
    with pytest.raises(AnswersFullError) as caught:
        other.take(41)
    assert caught.value.retry_after_s == 7
    other.take(40)
    one.release()
    assert bound.held == 40
    one.take(10)  # too late: its request is over
    assert bound.held == 40
    other.release()
    other.release()
    assert bound.held == 0


def test_what_is_made_counts_and_keeps_others_out_until_it_is_sent():
    bound = budget()
    share = AnswerShare(bound)
    share.keep(99)
    bound.check_room()
    share.keep(50)
    assert bound.held == 149
    with pytest.raises(AnswersFullError) as caught:
        bound.check_room()
    assert caught.value.retry_after_s == 7
    share.release()
    share.keep(10)  # too late: its request is over
    assert bound.held == 0
    bound.check_room()


def test_a_whole_answer_counts_beside_no_part_of_it():
    bound = budget()
    share = AnswerShare(bound)
    share.keep(30)
    share.cover(50)
    share.cover(20)
    assert bound.held == 50
    share.release()
    share.cover(10)
    assert bound.held == 0


def test_what_never_fits_is_another_error():
    with pytest.raises(AnswerTooLargeError, match="fewer `classes`"):
        AnswerShare(budget()).take(101)


@pytest.mark.parametrize("fails", [False, True])
def test_a_response_holds_its_share_until_its_last_piece(fails):
    bound = budget(10**9)
    share = AnswerShare(bound)
    share.take(10**7)
    response = SharedResponse(b"x" * 3_000_000, "application/x-npz", share)
    held, sent = [], []

    async def send(message):
        held.append(bound.held)
        sent.append(message.get("body", b""))
        if fails and len(sent) == 3:
            raise BrokenPipeError

    async def run():
        await response({"type": "http"}, None, send)

    if fails:
        with pytest.raises(BrokenPipeError):
            asyncio.run(run())
    else:
        asyncio.run(run())
        assert b"".join(sent) == b"x" * 3_000_000
        assert max(map(len, sent)) < 2_000_000
        assert {type(piece) for piece in sent} == {bytes}  # a view would keep the whole body
    assert set(held) == {10**7}
    assert bound.held == 0


@pytest.mark.anyio
async def test_probabilities_are_those_of_the_classes_asked_for(serving):
    async with serving() as served:
        response = await served.post(encode(PHOTO), "?format=probabilities&classes=car,sky")
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/x-npz"
        with np.load(io.BytesIO(response.content)) as found:
            assert found["class_names"].tolist() == ["sky", "car"]
            assert np.array_equal(found["probabilities"][1] > 0.5, labels_of(PHOTO) == 2)
        assert served.service.pipeline().answers.held == 0


@pytest.mark.anyio
async def test_a_photo_whose_probabilities_never_fit_is_told_so(serving):
    async with serving(answer_bytes=2 * BYTES) as served:
        response = await served.post(encode(PHOTO), "?format=probabilities")
        assert response.status_code == 413
        assert response.json()["type"] == "urn:fcn:answer-too-large"
        fewer = await served.post(encode(PHOTO), "?format=probabilities&classes=car,sky")
        assert fewer.status_code == 200
        assert (await served.post(encode(PHOTO), "?format=confidence")).status_code == 200


@pytest.mark.anyio
async def test_probabilities_wait_their_turn(serving):
    async with serving(answer_bytes=5 * BYTES) as served:
        served.engine.gate.clear()
        first = asyncio.create_task(served.post(encode(PHOTO), "?format=probabilities"))
        await served.device_busy()
        refused = await served.post(encode(PHOTO), "?format=probabilities&classes=0,1")
        assert refused.status_code == 429
        assert refused.json()["type"] == "urn:fcn:answers-full"
        late = await served.post(
            encode(PHOTO), "?format=probabilities&classes=0", x_request_timeout="0.1"
        )
        assert late.status_code == 504
        assert await served.metric("fcn_answer_bytes") == 4 * BYTES
        served.engine.gate.set()
        assert (await first).status_code == 200
        assert served.service.pipeline().answers.held == 0
