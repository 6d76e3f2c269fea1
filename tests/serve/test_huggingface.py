import asyncio
import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from serve_doubles import CLASSES, encode, labels_of, make_photo

pytestmark = pytest.mark.anyio

PHOTO = make_photo()


def as_json(photo=PHOTO, **parameters):
    inputs = base64.b64encode(encode(photo)).decode()
    return json.dumps({"inputs": inputs, **({"parameters": parameters} if parameters else {})})


def label_map_of(elements, shape):
    labels = np.full(shape, 255, np.uint8)
    for element in elements:
        image = Image.open(io.BytesIO(base64.b64decode(element["mask"])))
        assert image.mode == "L"
        mask = np.asarray(image)
        assert set(np.unique(mask)) <= {0, 255}
        (class_id,) = (i for i, info in enumerate(CLASSES) if info.name == element["label"])
        labels[mask == 255] = class_id
    return labels


@pytest.mark.parametrize(
    "body", [encode(PHOTO), as_json(), "\n " + as_json(subtask="semantic", mask_threshold=0.5)]
)
async def test_masks_are_those_of_the_photo_however_it_is_sent(serving, body):
    async with serving() as served:
        response = await served.client.post("/hf", content=body)
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/json"
        assert {element["score"] for element in response.json()} == {0.75}
        assert np.array_equal(label_map_of(response.json(), (6, 8)), labels_of(PHOTO))


async def test_only_classes_that_are_there_and_sure_enough(serving):
    sky = np.zeros((3, 3, 3), np.uint8)
    async with serving() as served:
        elements = (await served.client.post("/hf", content=as_json(sky, threshold=0.75))).json()
        assert [element["label"] for element in elements] == ["sky"]
        elements = (await served.client.post("/hf", content=as_json(sky, threshold=0.76))).json()
        assert elements == []


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"no image", 415, "not an image"),
        (encode(PHOTO)[:60], 400, "PNG file"),
        (b"", 422, "no body"),
        (b"{", 400, "JSON"),
        (b'{"parameters": {}}', 400, "`inputs`"),
        (b'{"inputs": "http://169.254.169.254/secret"}', 400, "nothing is fetched"),
        (b'{"inputs": "aGVsbG8="}', 415, "not an image"),
        (as_json(subtask="panoptic"), 400, "semantic"),
        (as_json(threshold=2), 400, "threshold"),
        (as_json(mask_threshold=False), 400, "mask_threshold"),
        (b'{"inputs": "", "other": ' + b"[" * 2000, 400, "recursion"),
    ],
)
async def test_errors_are_in_the_member_that_the_client_reads(serving, body, status, says):
    async with serving() as served:
        response = await served.client.post("/hf", content=body, headers={"X-Request-ID": "me"})
        assert (response.status_code, list(response.json())) == (status, ["error"])
        assert says in response.json()["error"]
        assert response.headers["x-request-id"] == "me"
        counted = f'fcn_requests_total{{route="/hf",status="{status}"}}'
        assert await served.metric(counted) == 1


async def test_json_that_would_fill_the_memory_is_refused_unparsed(serving):
    async with serving(max_bytes=200_000, upload_bytes=1_000_000) as served:
        body = b'{"inputs": [' + b"[]," * 60_000 + b"[]]}"
        response = await served.client.post("/hf", content=body)
        assert response.status_code == 413
        assert "more values" in response.json()["error"]
        assert await served.metric("fcn_upload_bytes") == 0


async def test_overload_says_when_to_come_back(serving):
    async with serving(queue_requests=1) as served:
        served.engine.gate.clear()
        first = asyncio.create_task(served.client.post("/hf", content=encode(PHOTO)))
        await served.device_busy()
        response = await served.client.post("/hf", content=encode(PHOTO))
        assert response.status_code == 429
        assert int(response.headers["retry-after"]) >= 1
        assert await served.metric('fcn_rejects_total{reason="queue-full"}') == 1
        served.engine.gate.set()
        assert (await first).status_code == 200


async def test_a_failure_of_the_server_is_told_in_the_same_shape(serving):
    async with serving() as served:
        served.engine.fails[PHOTO[0, 0, 0]] = RuntimeError("secret")
        response = await served.client.post("/hf", content=encode(PHOTO))
        assert response.status_code == 500
        assert "secret" not in response.json()["error"]
        assert await served.metric('fcn_rejects_total{reason="internal-error"}') == 1
