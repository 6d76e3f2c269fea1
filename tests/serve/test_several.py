"""Several photos in one request: answers in order, and each photo's trouble its own."""

import io
import json
import zipfile

import anyio
import numpy as np
import pytest
from serve_doubles import EngineDouble, decode_png, encode, labels_of, make_photo

from app.inference.render import MaskFormat
from app.inference.rle import decode_runs, decompress
from app.serve.schemas import ProblemDocument

pytestmark = pytest.mark.anyio

PHOTOS = [make_photo(seed=seed) for seed in (1, 2)]
FORM = [
    ("image", ("a.png", encode(PHOTOS[0]))),
    ("image", ("notes.txt", b"hello")),
    ("image", ("b.png", encode(PHOTOS[1]))),
    ("image", ("empty.png", b"")),
]
FAILED = {1: "unknown-image-format", 3: "missing-image"}


def entries(response):
    assert response.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


async def test_json_tells_of_each_in_order(serving):
    async with serving() as served:
        response = await served.client.post("/segment?format=rle", files=FORM)
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/json"
        document = response.json()
        assert document["request_id"] == response.headers["x-request-id"]
        results = document["results"]
        assert [result["index"] for result in results] == [0, 1, 2, 3]
        assert [result["filename"] for result in results] == [name for _, (name, _) in FORM]
        for index, photo in ((0, PHOTOS[0]), (2, PHOTOS[1])):
            for mask in results[index]["document"]["masks"]:
                counts = decompress(mask["rle"]["counts"])
                found = decode_runs(counts, *mask["rle"]["size"])
                assert np.array_equal(found, labels_of(photo) == mask["class_id"])
        for index, slug in FAILED.items():
            problem = ProblemDocument.model_validate(results[index]["problem"])
            assert problem.type == f"urn:fcn:{slug}"
            assert problem.request_id == document["request_id"]
            assert "document" not in results[index]


@pytest.mark.parametrize("mask_format", ["polygons", "coco"])
async def test_each_document_is_that_of_the_photo_alone(serving, mask_format):
    async with serving() as served:
        query = f"/segment?format={mask_format}&scores=true"
        together = (await served.client.post(query, files=FORM)).json()["results"]
        for index in (0, 2):
            alone = (await served.client.post(query, files=[FORM[index]])).json()
            key = "features" if mask_format == "polygons" else "annotations"
            assert together[index]["document"][key] == alone[key]
            if mask_format == "coco":
                assert together[index]["document"]["images"] == alone["images"]
                assert alone["images"][0]["file_name"] == FORM[index][1][0]


@pytest.mark.parametrize(
    ("mask_format", "suffix"),
    [
        ("png", ".png"),
        ("grey", ".png"),
        ("overlay", ".png"),
        ("confidence", ".png"),
        ("probabilities", ".npz"),
        ("zip", ".zip"),
    ],
)
async def test_files_are_entries_of_a_zip_and_problems_too(serving, mask_format, suffix):
    async with serving() as served:
        found = entries(await served.client.post(f"/segment?format={mask_format}", files=FORM))
        alone = await served.client.post(f"/segment?format={mask_format}", files=[FORM[2]])
    assert list(found) == [
        f"000_a{suffix}",
        "001_notes.problem.json",
        f"002_b{suffix}",
        "003_empty.problem.json",
    ]
    assert found[f"002_b{suffix}"] == alone.content
    for name in ("001_notes.problem.json", "003_empty.problem.json"):
        ProblemDocument.model_validate_json(found[name])


async def test_cvat_gets_one_archive_for_all(serving):
    async with serving() as served:
        found = entries(await served.client.post("/segment?format=cvat", files=FORM))
    listed = found["ImageSets/Segmentation/default.txt"].decode().split()
    assert listed == ["a", "b"]
    for stem, photo in zip(listed, PHOTOS, strict=True):
        labels = decode_png(found[f"SegmentationClass/{stem}.png"])
        assert np.array_equal(labels, labels_of(photo))
    failed = json.loads(found["problems.json"])
    assert [problem["index"] for problem in failed] == [1, 3]


async def test_every_format_answers_photos_without_a_name(serving):
    form = [("image", (None, encode(photo))) for photo in PHOTOS]
    async with serving() as served:
        for mask_format in MaskFormat:
            response = await served.client.post(f"/segment?format={mask_format}", files=form)
            assert response.status_code == 200
        assert response.headers["content-type"] == "application/zip"
        found = await served.client.post("/segment?format=rle", files=form)
        assert [result["filename"] for result in found.json()["results"]] == [None, None]


async def test_names_are_made_safe_for_files(serving):
    form = [("image", (f"../a:b?{n}.png", encode(photo))) for n, photo in enumerate(PHOTOS)]
    async with serving() as served:
        found = entries(await served.client.post("/segment", files=form))
    assert list(found) == ["000_a_b_0.png", "001_a_b_1.png"]


async def test_photos_of_one_shape_share_a_forward(serving):
    async with serving(EngineDouble()) as served:
        served.engine.gate.clear()
        async with anyio.create_task_group() as group:
            group.start_soon(served.post, encode(make_photo()))
            await served.device_busy()
            form = [FORM[0], FORM[2]]
            group.start_soon(lambda: served.client.post("/segment", files=form))
            await served.until(lambda: served.service.pipeline().depth == 2)
            served.engine.gate.set()
        assert sorted(map(len, served.engine.batches)) == [1, 2]


async def test_if_none_has_an_answer_the_gravest_problem_is_the_answer(serving):
    async with serving() as served:
        response = await served.client.post("/segment", files=[FORM[3], FORM[1], FORM[3]])
        assert response.status_code == 422
        problem = response.json()
        assert problem["type"] == "urn:fcn:missing-image"
        assert "None of the 3 images" in problem["detail"]
        assert "1 (notes.txt): The file is not an image" in problem["detail"]
        assert await served.metric('fcn_rejects_total{reason="missing-image"}') == 2
        assert await served.metric('fcn_rejects_total{reason="unknown-image-format"}') == 1


async def test_one_forward_that_fails_is_one_photos_problem(serving, caplog):
    engine = EngineDouble()
    engine.fails = {PHOTOS[0][0, 0, 0]: RuntimeError("a poisoned photo")}
    async with serving(engine) as served:
        response = await served.client.post("/segment?format=rle", files=[FORM[0], FORM[2]])
        failed, fine = response.json()["results"]
    assert failed["problem"]["type"] == "urn:fcn:internal-error"
    assert "poisoned" not in response.text
    assert fine["document"]["masks"]
    assert "poisoned" in caplog.text


async def test_each_photo_is_admitted_for_itself(serving):
    pixels = PHOTOS[0].shape[0] * PHOTOS[0].shape[1]
    async with serving(queue_pixels=pixels, max_pixels=pixels) as served:
        served.engine.gate.clear()
        form = [FORM[0], FORM[2]]
        async with anyio.create_task_group() as group:
            responses = []

            async def post():
                responses.append(await served.client.post("/segment?format=rle", files=form))

            group.start_soon(post)
            await served.device_busy()
            # Both took a place at once; the one whose pixels found no room left again.
            await served.until(lambda: served.service.pipeline().admission.requests == 1)
            served.engine.gate.set()
        (response,) = responses
        results = response.json()["results"]
        (refused,) = (result for result in results if "problem" in result)
        assert refused["problem"]["type"] == "urn:fcn:queue-full"

        served.engine.gate.clear()
        async with anyio.create_task_group() as group:
            group.start_soon(served.post, encode(PHOTOS[0]))
            await served.device_busy()
            full = await served.client.post("/segment?format=rle", files=form)
            served.engine.gate.set()
        assert full.status_code == 429
        assert int(full.headers["retry-after"]) >= 1


async def test_the_deadline_is_that_of_the_request(serving):
    async with serving() as served:
        served.engine.gate.clear()
        response = await served.client.post(
            "/segment", files=[FORM[0], FORM[2]], headers={"X-Request-Timeout": "0.2"}
        )
        served.engine.gate.set()
        assert response.status_code == 504
        assert response.json()["type"] == "urn:fcn:deadline-exceeded"
        await served.until(lambda: served.service.pipeline().admission.requests == 0)
        assert served.service.pipeline().uploads.held == 0


async def test_more_than_the_setting_allows_are_refused(serving):
    async with serving(request_images=2) as served:
        assert (await served.client.post("/segment", files=[FORM[0]] * 2)).status_code == 200
        response = await served.client.post("/segment", files=[FORM[0]] * 3)
        assert response.status_code == 422
        assert response.json()["type"] == "urn:fcn:too-many-images"


async def test_log_metrics_and_headers_tell_of_all(serving, caplog):
    caplog.set_level("INFO")
    async with serving() as served:
        response = await served.client.post("/segment?format=grey", files=FORM)
        assert "forward;dur=" in response.headers["server-timing"]
        assert await served.metric('fcn_stage_seconds_count{stage="forward"}') == 2
        assert await served.metric('fcn_rejects_total{reason="missing-image"}') == 1
        assert await served.metric('fcn_requests_total{route="/segment",status="200"}') == 1
        pipeline = served.service.pipeline()
        assert (pipeline.uploads.held, pipeline.admission.requests) == (0, 0)
    (fields,) = (
        record.fields
        for record in caplog.records
        if getattr(record, "fields", {}).get("path") == "/segment"
    )
    assert (fields["images"], fields["failed"], fields["format"]) == (4, 2, "grey")
    assert fields["forward_ms"] >= 0
