import base64
import gzip
import json
import threading
import tracemalloc
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from serve_doubles import CLASSES, VERSION, encode, labels_of, make_photo

pytestmark = pytest.mark.anyio

PHOTO = make_photo(5, 7)
INFER = "/v2/models/double/infer"


def pixels(photos=PHOTO, **more):
    return {"name": "image", "shape": list(photos.shape), "datatype": "UINT8", **more}


def request(tensor, **more):
    return {"inputs": [tensor], **more}


def with_tail(document, *tails):
    """Return body and headers of a request whose tensors stand behind the JSON."""
    tail = b"".join(tails)
    document["inputs"][0]["parameters"] = {"binary_data_size": len(tail)}
    text = json.dumps(document).encode()
    return text + tail, {"Inference-Header-Content-Length": str(len(text))}


def as_bytes_tensor(*files):
    tensor = {"name": "file", "shape": [len(files)], "datatype": "BYTES"}
    return tensor, b"".join(len(file).to_bytes(4, "little") + file for file in files)


def label_maps(response):
    assert response.status_code == 200, response.text
    (output,) = (out for out in response.json()["outputs"] if out["name"] == "label_map")
    assert output["datatype"] == "UINT8"
    return np.array(output["data"], np.uint8).reshape(output["shape"])


@pytest.mark.parametrize("data", [PHOTO.tolist(), PHOTO.ravel().tolist()], ids=["nested", "flat"])
async def test_json_in_and_out(serving, data):
    async with serving() as served:
        response = await served.client.post(INFER, json=request(pixels(data=data), id="7"))
        assert np.array_equal(label_maps(response), labels_of(PHOTO)[None])
        answer = response.json()
        assert (answer["model_name"], answer["model_version"]) == ("double", VERSION[:12])
        assert answer["id"] == "7"
        scores = next(out for out in answer["outputs"] if out["name"] == "scores")
        assert (scores["shape"], scores["datatype"]) == ([1, len(CLASSES)], "FP32")
        assert scores["data"] == [0.75] * 4


async def test_classes_that_are_not_there_score_zero(serving):
    sky = np.zeros((2, 2, 3), np.uint8)
    async with serving() as served:
        outputs = [{"name": "scores"}]
        document = request(pixels(sky, data=sky.tolist()), outputs=outputs)
        (scores,) = (await served.client.post(INFER, json=document)).json()["outputs"]
        assert scores["data"] == [0.75, 0, 0, 0]


async def test_photos_of_a_request_are_answered_in_order(serving):
    photos = np.stack([make_photo(4, 5, seed) for seed in range(5)])
    async with serving() as served:
        document = request(pixels(photos), parameters={"binary_data_output": True})
        body, headers = with_tail(document, photos.tobytes())
        response = await served.client.post(INFER, content=body, headers=headers)
        length = int(response.headers["inference-header-content-length"])
        outputs = json.loads(response.content[:length])["outputs"]
        sizes = [output["parameters"]["binary_data_size"] for output in outputs]
        assert len(response.content) == length + sum(sizes)
        tail = response.content[length : length + sizes[0]]
        found = np.frombuffer(tail, np.uint8).reshape(outputs[0]["shape"])
        assert np.array_equal(found, labels_of(photos))
        assert "decode" in response.headers["server-timing"]


async def test_files_in_base64_where_there_is_json_only(serving):
    async with serving() as served:
        tensor, _ = as_bytes_tensor(encode(PHOTO))
        tensor["data"] = [base64.b64encode(encode(PHOTO)).decode()]
        response = await served.client.post(INFER, json=request(tensor))
        assert np.array_equal(label_maps(response)[0], labels_of(PHOTO))


async def test_files_of_several_sizes_only_where_no_tensor_must_hold_them(serving):
    tensor, tail = as_bytes_tensor(encode(PHOTO), encode(make_photo(6, 7)))
    async with serving() as served:
        body, headers = with_tail(request(dict(tensor)), tail)
        response = await served.client.post(INFER, content=body, headers=headers)
        assert response.status_code == 400
        assert "one size" in response.json()["error"]
        assert served.engine.batches == []
        body, headers = with_tail(request(dict(tensor), outputs=[{"name": "scores"}]), tail)
        response = await served.client.post(INFER, content=body, headers=headers)
        assert response.json()["outputs"][0]["shape"] == [2, 4]


async def test_classes_and_scale_are_parameters(serving):
    async with serving() as served:
        parameters = {"classes": "road,2", "scale": 2}
        document = request(pixels(data=PHOTO.tolist()), parameters=parameters)
        found = label_maps(await served.client.post(INFER, json=document))
        assert set(np.unique(found)) <= {1, 2, 255}
        assert served.engine.batches == [[(10, 14, 3)]]


async def test_without_a_scale_it_is_that_of_the_checkpoint(serving):
    async with serving() as served:
        served.engine.card = SimpleNamespace(**{**vars(served.engine.card), "scale": 2})
        found = label_maps(
            await served.client.post(INFER, json=request(pixels(data=PHOTO.tolist())))
        )
        assert served.engine.batches == [[(10, 14, 3)]]
        assert found[0].shape == PHOTO.shape[:2]


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress], ids=["gzip", "deflate"])
async def test_compressed_bodies(serving, pack):
    body = pack(json.dumps(request(pixels(data=PHOTO.tolist()))).encode())
    encoding = {"Content-Encoding": "gzip" if pack is gzip.compress else "deflate"}
    async with serving(max_bytes=10_000) as served:
        response = await served.client.post(INFER, content=body, headers=encoding)
        assert np.array_equal(label_maps(response)[0], labels_of(PHOTO))
        for broken, status in (
            (body[:-9], 400),
            (body + b"x", 400),
            (b"no " + body, 400),
            (pack(bytes(10_001)), 413),
        ):
            response = await served.client.post(INFER, content=broken, headers=encoding)
            assert response.status_code == status, response.text
        response = await served.client.post(INFER, content=body, headers={"Content-Encoding": "br"})
        assert "gzip and deflate" in response.json()["error"]
        assert await served.metric("fcn_upload_bytes") == 0


FLAT = PHOTO.ravel().tolist()
FILE, TAIL = as_bytes_tensor(encode(PHOTO))


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({}, "`inputs`"),
        ([], "an object"),
        ({"inputs": []}, "at least 1"),
        (request({"name": "photo", "shape": [1], "datatype": "UINT8"}), "'image' or 'file'"),
        (request(pixels()), "values once"),
        (request(pixels(data=FLAT) | {"datatype": "FP32"}), "UINT8, not FP32"),
        (request(pixels(data=FLAT) | {"shape": [7, 5]}), "[height, width, 3]"),
        (request(pixels(data=FLAT) | {"shape": [5, 7, 4]}), "[height, width, 3]"),
        (request(pixels(data=[]) | {"shape": [0, 7, 3]}), "[height, width, 3]"),
        (request(pixels(data=FLAT) | {"shape": [-5, -7, 3]}), "[height, width, 3]"),
        (request(pixels(data=FLAT) | {"shape": [2**63 - 1, 7, 3]}), "asks for"),
        (request(pixels(data=FLAT) | {"shape": [10**4000] * 2 + [3]}), "less than or equal"),
        (request(pixels(data=FLAT[1:])), "104 values"),
        (request(pixels(data=[256, *FLAT[1:]])), "0 to 255"),
        (request(pixels(data=[-1, *FLAT[1:]])), "0 to 255"),
        (request(pixels(data=[1.5, *FLAT[1:]])), "0 to 255"),
        (request(pixels(data=["1", *FLAT[1:]])), "0 to 255"),
        (request(pixels(data=[10**30, *FLAT[1:]])), "0 to 255"),
        (request(pixels(data=[[1], *FLAT[1:]])), "rows of one length"),
        (request(pixels(data=[[FLAT[:1]], FLAT[1:]])), "rows of one length"),
        (request(FILE | {"data": ["http://localhost/photo.jpg"]}), "nothing is fetched"),
        (request(FILE | {"data": [7]}), "base64"),
        (request(FILE | {"data": ["", ""]}), "2 elements"),
        (request(FILE | {"shape": [2, 2], "data": []}), "[photos]"),
        (request(pixels(data=FLAT, parameters={"shared_memory_region": "r"})), "shared memory"),
        (
            request(
                pixels(data=FLAT),
                outputs=[{"name": "label_map", "parameters": {"classification": 3}}],
            ),
            "classification",
        ),
        (request(pixels(data=FLAT), outputs=[{"name": "logits"}]), "'label_map' or 'scores'"),
        (request(pixels(data=FLAT), parameters={"scale": 9}), "scale"),
        (request(pixels(parameters={"binary_data_size": 3})), "behind the JSON"),
    ],
)
async def test_requests_that_are_none_are_told_why(serving, document, says):
    async with serving() as served:
        response = await served.client.post(INFER, json=document)
        assert (response.status_code, list(response.json())) == (400, ["error"])
        assert says in response.json()["error"]
        assert await served.metric('fcn_rejects_total{reason="invalid-request"}') == 1


@pytest.mark.parametrize(("depth", "status"), [(40, 200), (150, 400)])
async def test_numbers_may_be_nested_deeply(serving, depth, status):
    data = FLAT
    for _ in range(depth):
        data = [data]
    async with serving() as served:
        response = await served.client.post(INFER, json=request(pixels(data=data)))
        assert response.status_code == status, response.text


async def test_a_string_among_numbers_takes_no_more_than_itself(serving):
    mixed = request(pixels(data=["x" * 2_000, *[1] * 2_000]))  # 16 MB as an array of strings
    async with serving() as served:
        await served.client.post(INFER, json=mixed)
        tracemalloc.start()
        try:
            response = await served.client.post(INFER, json=mixed)
            assert (response.status_code, "0 to 255" in response.text) == (400, True)
            assert tracemalloc.get_traced_memory()[1] < 2_000_000
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize(
    ("tensor", "tail", "says"),
    [
        (pixels(), PHOTO.tobytes()[1:], "104 bytes"),
        (pixels(data=FLAT), PHOTO.tobytes(), "values once"),
        (FILE, TAIL[:-1], "middle of an element"),
        (FILE, TAIL[:2], "middle of an element"),
        (FILE, TAIL + TAIL, "more elements"),
    ],
)
async def test_tensors_behind_the_json_must_fit(serving, tensor, tail, says):
    async with serving() as served:
        body, headers = with_tail(request(dict(tensor)), tail)
        response = await served.client.post(INFER, content=body, headers=headers)
        assert response.status_code == 400
        assert says in response.json()["error"]


@pytest.mark.parametrize("length", ["0", "-1", "x", "10000", "9" * 5000])
async def test_a_wrong_length_of_the_json_is_refused(serving, length):
    body, headers = with_tail(request(pixels()), PHOTO.tobytes())
    headers["Inference-Header-Content-Length"] = length
    async with serving() as served:
        response = await served.client.post(INFER, content=body, headers=headers)
        assert response.status_code == 400
        assert "no length" in response.json()["error"]


async def test_bounds(serving):
    async with serving(request_images=2, max_pixels=100) as served:
        photos = np.zeros((3, 2, 2, 3), np.uint8)
        response = await served.client.post(INFER, json=request(pixels(photos, data=[])))
        assert (response.status_code, "at most 2" in response.text) == (422, True)
        tensor, tail = as_bytes_tensor(*[encode(make_photo(8, 8))] * 2)
        body, headers = with_tail(request(tensor), tail)
        response = await served.client.post(INFER, content=body, headers=headers)
        assert (response.status_code, "128 pixels together" in response.text) == (413, True)
        large = make_photo(11, 10)
        response = await served.client.post(INFER, json=request(pixels(large, data=large.tolist())))
        assert (response.status_code, "at most 100" in response.text) == (413, True)
        assert served.engine.batches == []


async def test_what_is_held_is_given_back(serving):
    tensor, tail = as_bytes_tensor(encode(PHOTO), b"no image")
    async with serving() as served:
        body, headers = with_tail(request(tensor, outputs=[{"name": "scores"}]), tail)
        response = await served.client.post(INFER, content=body, headers=headers)
        assert (response.status_code, "not an image" in response.text) == (415, True)
        assert await served.metric("fcn_upload_bytes") == 0
        assert await served.metric("fcn_admitted_requests") == 0


@pytest.mark.parametrize(
    "path", ["another", "double/versions/0", f"double/versions/{VERSION}", "another/versions/0"]
)
async def test_other_models_are_not_found(serving, path):
    async with serving() as served:
        for end in ("", "/ready", "/config"):
            response = await served.client.get(f"/v2/models/{path}{end}")
            assert response.status_code == 404
            assert "double version 0123456789ab is" in response.json()["error"]
        assert (await served.client.post(f"/v2/models/{path}/infer")).status_code == 404


async def test_paths_with_the_version(serving):
    async with serving() as served:
        base = f"/v2/models/double/versions/{VERSION[:12]}"
        assert (await served.client.get(base)).json()["versions"] == [VERSION[:12]]
        assert (await served.client.get(f"{base}/ready")).json() == {
            "name": "double",
            "ready": True,
        }
        assert (await served.client.get(f"{base}/config")).json()["max_batch_size"] == 0
        response = await served.client.post(f"{base}/infer", json=request(pixels(data=FLAT)))
        assert np.array_equal(label_maps(response)[0], labels_of(PHOTO))


async def test_before_the_model_is_there(serving):
    held = threading.Event()

    def load(settings, serving):
        held.wait(60)
        raise ValueError("no model")

    async with serving(load=load, ready=False) as served:
        assert (await served.client.get("/v2/health/live")).json() == {"live": True}
        for path in ("/v2/health/ready", "/v2/models/double", "/v2/models/double/ready"):
            response = await served.client.get(path)
            assert (response.status_code, list(response.json())) == (503, ["error"])
            assert "retry-after" in response.headers
        assert (await served.client.post(INFER, json={})).status_code == 503
        assert (await served.client.post("/v2/repository/index")).status_code == 503
        held.set()
