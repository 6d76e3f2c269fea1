"""What `POST /segment` answers, through the whole application."""

import asyncio
import io
import struct
import zipfile
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from serve_doubles import (
    BAND,
    CLASSES,
    VERSION,
    EngineDouble,
    decode_png,
    encode,
    labels_of,
    make_photo,
)

from app.inference.decode import OpenedPhoto
from app.serve import intake, pipeline

pytestmark = pytest.mark.anyio

PHOTO = make_photo(6, 8)
PNG = encode(PHOTO)
STAGES = ["decode", "queue", "transfer", "forward", "encode"]


async def test_the_default_is_a_palette_png_of_the_photos_size(serving):
    async with serving() as served:
        answer = await served.client.post("/segment", files={"image": ("photo.png", PNG)})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    image = Image.open(io.BytesIO(answer.content))
    assert image.mode == "P"
    assert image.getpalette()[3:6] == list(CLASSES[1].color)
    assert np.array_equal(np.asarray(image), labels_of(PHOTO))


@pytest.mark.parametrize(
    "content_type", ["image/png", "image/jpeg", "application/octet-stream", "text/plain", None]
)
async def test_a_raw_body_is_taken_whatever_its_type(serving, content_type):
    headers = {"content_type": content_type} if content_type else {}
    async with serving() as served:
        answer = await served.post(PNG, **headers)
    assert np.array_equal(decode_png(answer.content), labels_of(PHOTO))


@pytest.mark.parametrize("size", [(1, 1), (211, 37), (1, 50)])
async def test_masks_have_the_photos_size(serving, size):
    photo = make_photo(*size)
    async with serving() as served:
        answer = await served.post(encode(photo), "?format=grey")
    assert np.array_equal(decode_png(answer.content), labels_of(photo))


async def test_exif_orientation_is_applied(serving):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise
    async with serving() as served:
        answer = await served.post(encode(PHOTO, exif=exif), "?format=grey")
    assert np.array_equal(decode_png(answer.content), np.rot90(labels_of(PHOTO), -1))


async def test_grey(serving):
    async with serving() as served:
        answer = await served.post(PNG, "?format=grey")
    assert Image.open(io.BytesIO(answer.content)).mode == "L"
    assert np.array_equal(decode_png(answer.content), labels_of(PHOTO))


@pytest.mark.parametrize("rle", ["compressed", "uncompressed"])
async def test_rle_says_the_same_as_the_png(serving, rle):
    async with serving() as served:
        answer = await served.post(PNG, f"?format=rle&rle={rle}", x_request_id="abc")
    assert answer.headers["content-type"] == "application/json"
    document = answer.json()
    assert document["request_id"] == "abc"
    assert document["model"] == {"name": "double", "version": VERSION}
    assert document["image"] == {"width": 8, "height": 6}
    assert list(document["timing_ms"]) == STAGES
    label_map = np.full((6, 8), 255, np.uint8)
    for mask in document["masks"]:
        encoded = mask["rle"]
        assert encoded["size"] == [6, 8]
        if rle == "uncompressed":
            encoded = coco.frPyObjects(encoded, 6, 8)
        found = coco.decode(encoded).astype(bool)
        label_map[found] = mask["class_id"]
        assert mask["class_name"] == CLASSES[mask["class_id"]].name
        assert mask["color"] == CLASSES[mask["class_id"]].hex_color
        assert mask["area"] == found.sum()
        assert mask["fraction"] == pytest.approx(found.mean())
        assert mask["bbox"] == coco.toBbox(coco.encode(np.asfortranarray(found))).tolist()
        assert "score" not in mask
    assert np.array_equal(label_map, labels_of(PHOTO))
    assert [mask["class_id"] for mask in document["masks"]] == sorted(np.unique(label_map))


async def test_scores_are_given_for_classes_that_are_present(serving):
    photo = np.zeros((2, 2, 3), np.uint8)
    async with serving() as served:
        document = (await served.post(encode(photo), "?format=rle&scores=true")).json()
    assert [(mask["class_id"], mask["score"]) for mask in document["masks"]] == [(0, 0.75)]


async def test_only_selected_classes(serving):
    labels = labels_of(PHOTO)
    kept = np.where(np.isin(labels, [1, 3]), labels, 255)
    async with serving() as served:
        for query in ("classes=road,3", "classes=3,1"):
            grey = await served.post(PNG, f"?format=grey&{query}")
            assert np.array_equal(decode_png(grey.content), kept)
            document = (await served.post(PNG, f"?format=rle&{query}")).json()
            assert [mask["class_name"] for mask in document["masks"]] == ["road", "tree"]


async def test_zip(serving):
    async with serving() as served:
        answer = await served.post(PNG, "?format=zip&classes=sky,road")
    assert answer.headers["content-type"] == "application/zip"
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    assert archive.namelist() == ["00_sky.png", "01_road.png"]
    for index, name in enumerate(archive.namelist()):
        mask = decode_png(archive.read(name))
        assert np.array_equal(mask, np.where(labels_of(PHOTO) == index, 255, 0))


async def test_overlay_shows_the_photo_through(serving):
    async with serving() as served:
        answer = await served.post(PNG, "?format=overlay&classes=car")
    overlay = decode_png(answer.content)
    outside = labels_of(PHOTO) != 2
    assert np.array_equal(overlay[outside], PHOTO[outside])
    assert not np.array_equal(overlay, PHOTO)


@pytest.mark.parametrize(
    ("scale", "seen"), [(0.5, (30, 40, 3)), (1, (60, 80, 3)), (2, (120, 160, 3))]
)
async def test_scale_is_what_the_network_sees_and_not_the_masks_size(serving, scale, seen):
    photo = np.full((60, 80, 3), BAND, np.uint8)
    async with serving() as served:
        answer = await served.post(encode(photo), f"?format=grey&scale={scale}")
        assert served.engine.batches == [[seen]]
    assert np.array_equal(decode_png(answer.content), np.ones((60, 80)))


@pytest.mark.parametrize(("query", "seen"), [("", (15, 20, 3)), ("&scale=1", (60, 80, 3))])
async def test_without_a_scale_it_is_that_of_the_checkpoint(serving, query, seen):
    photo = np.full((60, 80, 3), BAND, np.uint8)
    async with serving() as served:
        served.engine.card = SimpleNamespace(**{**vars(served.engine.card), "scale": 0.25})
        answer = await served.post(encode(photo), f"?format=grey{query}")
        assert served.engine.batches == [[seen]]
        assert (await served.client.get("/model")).json()["scale"] == 0.25
    assert np.array_equal(decode_png(answer.content), np.ones((60, 80)))


async def test_every_answer_tells_its_id_model_and_timing(serving):
    async with serving() as served:
        answer = await served.post(PNG, x_request_id="trace-1:2.3_4")
        other = await served.post(PNG, x_request_id="no spaces allowed")
        third = await served.post(PNG, x_request_id="x" * 129)
    assert answer.headers["x-request-id"] == "trace-1:2.3_4"
    assert answer.headers["x-model"] == f"double@{VERSION[:12]}"
    stages = [entry.split(";dur=") for entry in answer.headers["server-timing"].split(", ")]
    assert [name for name, _ in stages] == STAGES
    assert all(float(duration) >= 0 for _, duration in stages)
    ids = {other.headers["x-request-id"], third.headers["x-request-id"]}
    assert len(ids) == 2
    assert all(len(request_id) == 32 for request_id in ids)


@pytest.mark.parametrize(
    ("query", "accept", "media_type"),
    [
        ("", "application/json", "application/json"),
        ("", "image/*", "image/png"),
        ("?format=rle", "image/png", "application/json"),
        ("?format=png", "text/html", "image/png"),
    ],
)
async def test_content_negotiation(serving, query, accept, media_type):
    async with serving() as served:
        answer = await served.post(PNG, query, accept=accept)
    assert answer.headers["content-type"] == media_type


@pytest.mark.parametrize(
    ("body", "query", "headers", "status", "slug", "detail"),
    [
        (b"", "", {}, 422, "missing-image", "no body"),
        (b"not an image", "", {}, 415, "unknown-image-format", ""),
        (PNG[: len(PNG) // 2], "", {}, 400, "broken-image", ""),
        (PNG, "", {"accept": "text/html"}, 406, "not-acceptable", "`format`"),
        (PNG, "?format=gif", {}, 422, "invalid-parameter", "'png', 'grey', 'rle'"),
        (PNG, "?classes=cat", {}, 422, "invalid-parameter", "'cat'; the classes"),
        (PNG, "?classes=", {}, 422, "invalid-parameter", "sky (0)"),
        (PNG, "?scale=3", {}, 422, "invalid-parameter", "less than or equal to 2"),
        (PNG, "?scale=nan", {}, 422, "invalid-parameter", "`scale`"),
        (PNG, "?scores=perhaps", {}, 422, "invalid-parameter", "`scores`"),
        (PNG, "?rle=zip", {}, 422, "invalid-parameter", "'compressed' or 'uncompressed'"),
        (PNG, "?fromat=rle", {}, 422, "invalid-parameter", "`fromat` is not known"),
        (PNG, "", {"x_request_timeout": "soon"}, 422, "invalid-parameter", "'soon'"),
        (b"x" * 3000, "", {}, 413, "too-many-bytes", "2,000 bytes"),
        (encode(np.zeros((1, 1001, 3), np.uint8)), "", {}, 413, "too-many-pixels", "1001 x 1"),
        (
            encode(np.zeros((20, 30, 3), np.uint8)),
            "?scale=2",
            {},
            413,
            "scaled-too-large",
            "60 x 40",
        ),
    ],
)
async def test_each_error_is_a_problem_that_says_what_to_do(
    serving, body, query, headers, status, slug, detail
):
    async with serving(max_bytes=2000, max_pixels=1000) as served:
        answer = await served.post(body, query, x_request_id="abc", **headers)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        document = answer.json()
        assert list(document) == ["type", "title", "status", "detail", "request_id"]
        assert document["type"] == f"urn:fcn:{slug}"
        assert document["status"] == status
        assert document["request_id"] == answer.headers["x-request-id"] == "abc"
        assert detail in document["detail"]
        assert document["detail"][0].isupper()
        assert document["detail"][-1] in ".)"
        assert served.engine.batches == []
        assert await served.metric(f'fcn_rejects_total{{reason="{slug}"}}') == 1
        # The server goes on serving, and holds nothing of the failed request.
        assert (await served.post(PNG)).status_code == 200
        assert served.service.running_pipeline.uploads.held == 0
        assert served.service.running_pipeline.admission.requests == 0


async def test_a_bomb_is_refused_from_its_header(serving):
    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    bomb = PNG[:12] + header + struct.pack(">I", zlib.crc32(header)) + PNG[33:]
    async with serving() as served:
        answer = await served.post(bomb)
    assert answer.status_code == 413
    assert "30000 x 30000" in answer.json()["detail"]


async def test_a_streamed_body_without_a_length_is_counted(serving):
    sent = 0

    async def endless():
        nonlocal sent
        for _ in range(1000):
            sent += 1000
            yield b"x" * 1000

    async with serving(max_bytes=5000) as served:
        answer = await served.post(endless())
    assert answer.status_code == 413
    assert sent <= 7000


async def test_a_form_with_nonsense_is_refused(serving):
    async with serving() as served:
        answer = await served.post(b"nonsense", content_type="multipart/form-data; boundary=x")
    assert answer.status_code == 422
    assert "multipart" in answer.json()["detail"]


async def test_a_fault_in_the_network_fails_its_own_request_only(serving, caplog):
    poisoned = make_photo(6, 8, seed=1)
    poisoned[0, 0, 0] = 255
    healthy = [make_photo(6, 8, seed=seed) for seed in range(2, 6)]
    for photo in healthy:
        photo[0, 0, 0] = 0
    async with serving() as served:
        served.engine.fails = {255: RuntimeError("poison")}
        served.engine.gate.clear()
        first = asyncio.create_task(served.post(encode(healthy[0])))
        await served.device_busy()
        rest = [
            asyncio.create_task(served.post(encode(photo), "?format=grey", x_request_id=f"n{n}"))
            for n, photo in enumerate([poisoned, *healthy[1:]])
        ]
        await served.until(lambda: served.service.running_pipeline.depth == 4)
        served.engine.gate.set()
        assert (await first).status_code == 200
        failed, *good = await asyncio.gather(*rest)
    assert [answer.status_code for answer in good] == [200] * 3
    for answer, photo in zip(good, healthy[1:], strict=True):
        assert np.array_equal(decode_png(answer.content), labels_of(photo))
    assert failed.status_code == 500
    assert failed.headers["content-type"] == "application/problem+json"
    assert failed.json()["request_id"] == failed.headers["x-request-id"] == "n0"
    assert "poison" not in failed.text
    logged = [record for record in caplog.records if record.message == "request n0 failed"]
    assert "poison" in str(logged[0].exc_info[1])


@pytest.mark.parametrize("stage", ["decode", "encode", "quick encode"])
async def test_a_fault_in_another_stage_fails_its_own_request_only(
    serving, caplog, monkeypatch, stage
):
    victim = make_photo(6, 8, seed=1)
    victim[0, 0] = (1, 2, 3)
    if stage == "decode":
        decode = OpenedPhoto.decode

        def fail_to_decode(opened):
            if tuple((photo := decode(opened))[0, 0]) == (1, 2, 3):
                raise RuntimeError("poison")
            return photo

        monkeypatch.setattr(OpenedPhoto, "decode", fail_to_decode)
    else:
        render = intake.render

        def fail_to_render(*args, request_id, **options):
            if request_id == "n0":
                raise RuntimeError("poison")
            return render(*args, request_id=request_id, **options)

        monkeypatch.setattr(intake, "render", fail_to_render)
        if stage == "quick encode":  # which knows the function
            monkeypatch.setattr(pipeline, "render", fail_to_render)
    photos = [victim, *(make_photo(6, 8, seed=seed) for seed in range(2, 6))]
    async with serving() as served:
        failed, *good = await asyncio.gather(
            *(
                served.post(encode(photo), "?format=grey", x_request_id=f"n{n}")
                for n, photo in enumerate(photos)
            )
        )
        assert served.service.running_pipeline.admission.requests == 0
        assert served.service.running_pipeline.uploads.held == 0
        assert await served.metric('fcn_rejects_total{reason="internal-error"}') == 1
    for answer, photo in zip(good, photos[1:], strict=True):
        assert answer.status_code == 200
        assert np.array_equal(decode_png(answer.content), labels_of(photo))
    assert failed.status_code == 500
    assert failed.json()["type"] == "urn:fcn:internal-error"
    assert failed.json()["request_id"] == failed.headers["x-request-id"] == "n0"
    assert "poison" not in failed.text
    logged = [record for record in caplog.records if record.message == "request n0 failed"]
    assert "poison" in str(logged[0].exc_info[1])


async def test_a_batch_is_no_larger_than_what_was_measured(serving):
    async with serving(EngineDouble(most_images=2)) as served:
        served.engine.gate.clear()
        first = asyncio.create_task(served.post(PNG))
        await served.device_busy()
        rest = [asyncio.create_task(served.post(PNG)) for _ in range(5)]
        await served.until(lambda: served.service.running_pipeline.depth == 5)
        served.engine.gate.set()
        answers = await asyncio.gather(first, *rest)
        assert [answer.status_code for answer in answers] == [200] * 6
        assert [len(batch) for batch in served.engine.batches] == [1, 2, 2, 1]
        assert await served.metric('fcn_batches_total{reason="full"}') == 2
        assert await served.metric('fcn_batches_total{reason="idle"}') == 2


async def test_concurrent_photos_of_mixed_sizes_each_get_their_own_mask(serving):
    photos = [make_photo(8 + n % 3, 8 + n % 5, seed=n) for n in range(32)]
    async with serving() as served:
        served.engine.gate.clear()
        posts = [
            asyncio.create_task(served.post(encode(photo), "?format=grey")) for photo in photos
        ]
        await served.until(lambda: served.service.running_pipeline.admission.requests == 32)
        await served.device_busy()
        await served.until(lambda: served.service.running_pipeline.depth >= 16)
        served.engine.gate.set()
        answers = await asyncio.gather(*posts)
        batches = await served.metric("fcn_batch_images_count")
        assert await served.metric("fcn_batch_images_sum") == 32
        assert batches < 32
    for answer, photo in zip(answers, photos, strict=True):
        assert np.array_equal(decode_png(answer.content), labels_of(photo))
