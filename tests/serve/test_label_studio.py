import base64
import os
import threading

import numpy as np
import pytest
from label_studio_sdk.converter.brush import decode_rle
from serve_doubles import VERSION, encode, labels_of, make_photo

from app.serve.protocols.label_studio import parse_label_config

pytestmark = pytest.mark.anyio

PHOTO = make_photo()
PREDICT = "/label-studio/predict"


def config(labels='<Label value="road"/><Label value="car"/>', image="", brush="BrushLabels"):
    return (
        f'<View><Image name="img" value="$image" {image}/><Header value="Paint"/>'
        f'<{brush} name="tag" toName="img"><View>{labels}</View></{brush}></View>'
    )


def data_uri(photo=PHOTO):
    return "data:image/png;base64," + base64.b64encode(encode(photo)).decode()


def tasks(*images, key="image"):
    return [{"id": number, "data": {key: image}} for number, image in enumerate(images)]


def document(*images, label_config=None, **more):
    return {"tasks": tasks(*images), "label_config": label_config or config(), **more}


def mask_of(region):
    shape = (region["original_height"], region["original_width"], 4)
    return decode_rle(region["value"]["rle"]).reshape(shape)[..., 3]


async def test_a_brush_mask_for_each_label_that_is_a_class(serving):
    async with serving() as served:
        response = await served.client.post(PREDICT, json=document(data_uri(), project="1.2"))
        assert response.json()["model_version"] == f"double@{VERSION[:12]}"
        (prediction,) = response.json()["results"]
        assert prediction["score"] == 0.75
        regions = prediction["result"]
        assert len({region["id"] for region in regions}) == 2
        for region, (class_id, label) in zip(regions, [(1, "road"), (2, "car")], strict=True):
            assert (region["from_name"], region["to_name"]) == ("tag", "img")
            assert region["type"] == "brushlabels"
            assert region["value"]["brushlabels"] == [label]
            assert region["score"] == 0.75
            assert np.array_equal(mask_of(region) == 255, labels_of(PHOTO) == class_id)


async def test_tasks_are_answered_in_order(serving):
    photos = [make_photo(3, 4, seed) for seed in range(20)]
    async with serving() as served:
        response = await served.client.post(PREDICT, json=document(*map(data_uri, photos)))
        for photo, prediction in zip(photos, response.json()["results"], strict=True):
            found = {region["value"]["brushlabels"][0]: region for region in prediction["result"]}
            assert np.array_equal(mask_of(found["road"]) == 255, labels_of(photo) == 1)


@pytest.mark.parametrize(
    ("labels", "shown"),
    [
        ('<Label value="ROAD"/>', {1: "ROAD"}),
        ('<Label value="Street" alias="road"/>', {1: "road"}),
        ('<Label value="Street" predicted_values="road, tree"/>', {1: "Street", 3: "Street"}),
        ('<!-- all --><Label value="sky"/><Label value="lava"/>', {0: "sky"}),
    ],
)
async def test_what_labels_stand_for(serving, labels, shown):
    async with serving() as served:
        body = document(data_uri(), label_config=config(labels))
        (prediction,) = (await served.client.post(PREDICT, json=body)).json()["results"]
        assert len(prediction["result"]) == len(shown)
        for region, (class_id, label) in zip(prediction["result"], shown.items(), strict=True):
            assert region["value"]["brushlabels"] == [label]
            assert np.array_equal(mask_of(region) == 255, labels_of(PHOTO) == class_id)


BILLION_LAUGHS = '<!DOCTYPE x [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]><View>&b;</View>'


@pytest.mark.parametrize(
    ("label_config", "says"),
    [
        ("<View>", "is no XML"),
        ("<View/>", "no BrushLabels for an Image"),
        (config(brush="PolygonLabels"), "no BrushLabels for an Image"),
        (config('<Label value="lava"/>'), "sky, road, car, tree"),
        (config().replace("$image", "http://localhost/"), "field of the tasks"),
        (BILLION_LAUGHS, "must not declare"),
        ('<!DOCTYPE x SYSTEM "file:///etc/passwd"><View/>', "must not declare"),
        ("x" * 300_000, "label_config"),
    ],
)
async def test_configurations_that_are_none_are_told_why(serving, label_config, says):
    async with serving() as served:
        body = document(data_uri(), label_config=label_config)
        response = await served.client.post(PREDICT, json=body)
        assert (response.status_code, list(response.json())) == (400, ["error"])
        assert says in response.json()["error"]
        assert served.engine.batches == []


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data/",
        "https://example.org/photo.jpg",
        "file:///etc/passwd",
        "/etc/passwd",
        "/data/upload/1/photo.jpg",
        "s3://bucket/photo.jpg",
        "http://[broken",
        "",
    ],
)
async def test_nothing_is_fetched(serving, tmp_path, url):
    async with serving(label_studio_files=tmp_path) as served:
        response = await served.client.post(PREDICT, json=document(url))
        assert response.status_code == 422
        assert "fetches nothing" in response.json()["error"]
        assert await served.metric('fcn_rejects_total{reason="unreachable-image"}') >= 1


@pytest.fixture
def storage(tmp_path):
    """A directory of local files, with a secret beside it and links out of it."""
    root = tmp_path / "files"
    (root / "deep").mkdir(parents=True)
    (root / "deep" / "a b+c.png").write_bytes(encode(PHOTO))
    (tmp_path / "secret.png").write_bytes(encode(PHOTO))
    (tmp_path / "files-too").mkdir()
    (tmp_path / "files-too" / "secret.png").write_bytes(encode(PHOTO))
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "out").symlink_to(tmp_path)
    (root / "circle").symlink_to(root / "circle")
    (root / "inside.png").symlink_to(root / "deep" / "a b+c.png")
    os.mkfifo(root / "pipe")
    return root


@pytest.mark.parametrize(
    "url",
    [
        "/data/local-files/?d=deep/a%20b%2Bc.png",
        "/data/local-files?d=/deep/../deep/a%20b%2Bc.png",
        "http://label-studio:8080/data/local-files/?d=inside.png",
    ],
)
async def test_local_files_are_read_where_it_is_allowed(serving, storage, url):
    async with serving(label_studio_files=storage) as served:
        response = await served.client.post(PREDICT, json=document(url))
        assert len(response.json()["results"][0]["result"]) == 2
    async with serving() as served:
        response = await served.client.post(PREDICT, json=document(url))
        assert (response.status_code, "FCN_LABEL_STUDIO_FILES" in response.text) == (422, True)


@pytest.mark.parametrize(
    "path",
    [
        "../secret.png",
        "deep/../../secret.png",
        "..%2Fsecret.png",
        "../files-too/secret.png",
        "link.png",
        "out/secret.png",
        "circle",
        "pipe",
        "deep",
        "",
        "missing.png",
        "a%00b",
        "x" * 5000,
        "inside.png&d=../secret.png",
    ],
)
async def test_no_path_leads_out_of_the_directory(serving, storage, path):
    async with serving(label_studio_files=storage) as served:
        body = document(f"/data/local-files/?d={path}")
        response = await served.client.post(PREDICT, json=body)
        assert response.status_code == 422
        assert "no such file" in response.json()["error"]
        assert str(storage) not in response.text


async def test_a_local_file_may_be_as_large_as_an_upload(serving, storage):
    async with serving(label_studio_files=storage, max_bytes=400) as served:
        (storage / "large.png").write_bytes(bytes(401))
        body = document("/data/local-files/?d=large.png")
        response = await served.client.post(PREDICT, json=body)
        assert (response.status_code, "400 bytes" in response.text) == (413, True)
        assert await served.metric("fcn_upload_bytes") == 0


async def test_one_bad_task_does_not_spoil_the_others(serving):
    broken = "data:image/png;base64," + base64.b64encode(encode(PHOTO)[:60]).decode()
    async with serving() as served:
        body = document(broken, data_uri(), "http://localhost/x.png", 7)
        response = await served.client.post(PREDICT, json=body)
        assert response.status_code == 200
        results = response.json()["results"]
        assert [len(result["result"]) for result in results] == [0, 2, 0, 0]
        assert ["error" in result for result in results] == [True, False, True, True]
        assert "damaged" in results[0]["error"]
        assert "fetches nothing" in results[2]["error"]
        assert "no image in its field 'image'" in results[3]["error"]
        response = await served.client.post(PREDICT, json=document(broken, broken))
        assert (response.status_code, "damaged" in response.json()["error"]) == (400, True)
        assert await served.metric("fcn_upload_bytes") == 0


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "`tasks`"),
        ({"tasks": [], "label_config": config()}, "at least 1"),
        (document(*["x"] * 101), "at most 100"),
        ({"tasks": [{"id": 1}], "label_config": config()}, "tasks.0.data"),
        ({"tasks": tasks(data_uri(), key="other"), "label_config": config()}, "'image'"),
    ],
)
async def test_requests_that_are_none_are_told_why(serving, body, says):
    async with serving() as served:
        response = await served.client.post(PREDICT, json=body)
        assert response.status_code == 400
        assert says in response.json()["error"]


async def test_a_configuration_is_parsed_beside_the_loop(serving, monkeypatch):
    threads = []

    def parse(*args):
        threads.append(threading.current_thread())
        return parse_label_config(*args)

    monkeypatch.setattr("app.serve.protocols.label_studio.parse_label_config", parse)
    async with serving() as served:
        response = await served.client.post(PREDICT, json=document(data_uri()))
        assert response.status_code == 200
    assert threads[0] is not threading.main_thread()


async def test_connecting(serving):
    async with serving() as served:
        health = (await served.client.get("/label-studio/health")).json()
        assert health == {"status": "UP", "model_class": "double"}
        body = {"project": "1.2", "schema": config(), "hostname": "x", "access_token": "secret"}
        setup = await served.client.post("/label-studio/setup", json=body)
        assert setup.json() == {"model_version": f"double@{VERSION[:12]}"}
