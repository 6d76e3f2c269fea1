"""Photos of every kind through both clients, and what their results can do."""

import io
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from scripted_server import (
    CLASSES,
    VERSION,
    ScriptedServer,
    answer,
    as_json,
    label_map_of,
    model_document,
    photo_of,
    png,
    rle_document,
)

from app.client import BadImageError, Client, ProtocolError, Segmentation

LABELS = np.array([[0, 0, 1, 1, 3], [0, 1, 1, 3, 3], [0, 0, 0, 1, 3]], np.uint8)
PIXELS = photo_of(LABELS)


@pytest.fixture
def result(scripted: ScriptedServer) -> Segmentation:
    with Client(scripted.url) as client:
        return client.segment(PIXELS)


def as_path(folder: Path) -> Path:
    (folder / "a.png").write_bytes(png(PIXELS))
    return folder / "a.png"


@pytest.mark.parametrize(
    "kind",
    [
        as_path,
        lambda folder: str(as_path(folder)),
        lambda folder: png(PIXELS),
        lambda folder: bytearray(png(PIXELS)),
        lambda folder: memoryview(png(PIXELS)),
        lambda folder: io.BytesIO(png(PIXELS)),
        lambda folder: Image.open(as_path(folder)),
        lambda folder: Image.fromarray(PIXELS).convert("CMYK"),
        lambda folder: Image.fromarray(PIXELS).quantize(),
        lambda folder: PIXELS,
        lambda folder: np.asfortranarray(PIXELS),
    ],
    ids=[
        "path",
        "str",
        "bytes",
        "bytearray",
        "memoryview",
        "file",
        "pillow",
        "cmyk",
        "palette",
        "array",
        "fortran",
    ],
)
def test_every_kind_of_photo_gives_its_mask(
    scripted: ScriptedServer, connect, tmp_path: Path, kind
) -> None:
    result = connect(scripted.url).segment(kind(tmp_path))
    assert result.label_map.dtype == np.uint8
    assert np.array_equal(result.label_map, LABELS)
    assert result.size == (5, 3)


def test_an_array_is_sent_without_loss(scripted: ScriptedServer, connect) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    connect(scripted.url).segment(pixels)
    sent = Image.open(io.BytesIO(scripted.posts()[0].body))
    assert np.array_equal(np.asarray(sent), pixels)


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bits_are_sent_without_loss(scripted: ScriptedServer, connect, order: str) -> None:
    levels = np.array([[0, 255, 256], [300, 40000, 65535]], np.uint16)
    image = Image.fromarray(levels.astype(f"{order}u2"))
    assert image.mode == {"<": "I;16", ">": "I;16B"}[order]
    result = connect(scripted.url).segment(image)
    sent = Image.open(io.BytesIO(scripted.posts()[0].body))
    assert sent.mode == "I;16"
    assert np.array_equal(np.asarray(sent), levels)
    # The photo under an overlay is what the server sees: 16 bits scaled to 8, not clipped.
    assert np.array_equal(np.asarray(result.overlay(alpha=0))[..., 1], np.rint(levels / 257))


def test_a_pillow_image_is_taken_as_it_lies_in_memory(scripted: ScriptedServer) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees, if anybody looks
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG", exif=exif)
    image = Image.open(buffer)
    with Client(scripted.url) as client:
        assert np.array_equal(client.segment(image).label_map, LABELS)
        assert np.array_equal(client.segment(buffer.getvalue()).label_map, np.rot90(LABELS, -1))


@pytest.mark.parametrize(
    ("photo", "error", "words"),
    [
        (PIXELS.astype(float), ValueError, "HxWx3 uint8"),
        (PIXELS[..., 0], ValueError, "HxWx3 uint8"),
        (PIXELS[:0], ValueError, "HxWx3 uint8"),
        (Image.new("F", (2, 2)), ValueError, "mode F"),
        (io.StringIO("text"), TypeError, 'mode "rb"'),
        (b"", BadImageError, "The photo is empty"),
        (3, TypeError, "not int"),
        ("nowhere.png", FileNotFoundError, "nowhere.png"),
    ],
)
def test_what_is_no_photo_is_refused_here(
    scripted: ScriptedServer, connect, photo, error, words: str
) -> None:
    with pytest.raises(error, match=words):
        connect(scripted.url).segment(photo)
    assert scripted.requests == []


def test_the_parameters_are_sent(scripted: ScriptedServer, connect) -> None:
    client = connect(scripted.url)
    client.segment(PIXELS, classes=["sky", 3], scale=0.5, scores=True)
    query = {"classes": "sky,3", "scale": "0.5", "scores": "true"}
    assert scripted.posts()[0].query == {"format": "rle", "rle": "uncompressed", **query}
    client.download(PIXELS, "grey", classes="road")
    assert scripted.posts()[1].query == {"format": "grey", "classes": "road"}


def test_what_is_known_of_an_answer(scripted: ScriptedServer, connect) -> None:
    result = connect(scripted.url).segment(PIXELS, scores=True)
    assert [(info.index, info.name, info.color) for info in result.classes] == [
        (index, info.name, info.color) for index, info in enumerate(CLASSES)
    ]
    assert result.fractions == {"sky": 6 / 15, "road": 5 / 15, "car": 0, "tree": 4 / 15}
    assert result.scores == {"sky": 0.5, "road": 0.75, "tree": 1.0}
    assert (result.model, result.model_version) == ("double", VERSION)
    assert result.request_id == scripted.posts()[0].headers["x-request-id"]
    assert result.timing["forward"] == 2.0


def test_scores_are_none_unless_asked_for(result: Segmentation) -> None:
    assert result.scores is None


def test_masks_by_name_and_index(result: Segmentation) -> None:
    assert np.array_equal(result.mask("road"), LABELS == 1)
    assert np.array_equal(result.mask(3), LABELS == 3)
    nowhere = result.mask("car")
    assert nowhere.dtype == np.bool_
    assert nowhere.shape == (3, 5)
    assert not nowhere.any()


@pytest.mark.parametrize("name", ["bug", 4, 255])
def test_an_unknown_class_is_a_key_error_that_names_the_known(result: Segmentation, name) -> None:
    with pytest.raises(KeyError, match=r"sky \(0\), road \(1\), car \(2\), tree \(3\)"):
        result.mask(name)


def test_classes_that_were_not_asked_for_are_void(scripted: ScriptedServer, connect) -> None:
    result = connect(scripted.url).segment(PIXELS, classes=["road", 2])
    assert np.array_equal(result.label_map, np.where(LABELS == 1, 1, 255))
    assert result.fractions == {"road": 5 / 15, "car": 0}
    assert not result.mask("car").any()
    with pytest.raises(KeyError, match="not among those asked for"):
        result.mask("sky")


def test_a_photo_without_any_class_asked_for_is_all_void(scripted: ScriptedServer, connect) -> None:
    result = connect(scripted.url).segment(PIXELS, classes=["car"])
    assert (result.label_map == 255).all()


def test_save_writes_the_servers_pixels_and_colours(
    result: Segmentation, scripted: ScriptedServer, tmp_path: Path
) -> None:
    result.save(tmp_path / "mask.png")
    saved = Image.open(tmp_path / "mask.png")
    with Client(scripted.url) as client:
        served = Image.open(io.BytesIO(client.download(PIXELS)))
    assert saved.mode == "P"
    assert np.array_equal(np.asarray(saved), np.asarray(served))
    assert np.array_equal(np.asarray(saved.convert("RGBA")), np.asarray(served.convert("RGBA")))
    assert [path.name for path in tmp_path.iterdir()] == ["mask.png"]


def test_what_was_not_asked_for_is_saved_as_transparent(
    scripted: ScriptedServer, tmp_path: Path
) -> None:
    with Client(scripted.url) as client:
        client.segment(PIXELS, classes=["road"]).save(tmp_path / "mask.png")
    alpha = np.asarray(Image.open(tmp_path / "mask.png").convert("RGBA"))[..., 3]
    assert np.array_equal(alpha, np.where(LABELS == 1, 255, 0))


def test_a_label_map_is_not_saved_in_a_format_that_changes_it(
    result: Segmentation, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"\.png"):
        result.save(tmp_path / "mask.jpg")


def with_alpha() -> Image.Image:
    image = Image.fromarray(PIXELS).convert("RGBA")
    image.putalpha(Image.fromarray(np.arange(0, 255, 17, np.uint8).reshape(3, 5)))
    return image


@pytest.mark.parametrize("classes", [None, ["road"]])
def test_the_overlay_is_the_servers(scripted: ScriptedServer, connect, classes) -> None:
    client = connect(scripted.url)
    result = client.segment(PIXELS, classes=classes)
    served = Image.open(io.BytesIO(client.download(PIXELS, "overlay", classes=classes)))
    assert np.array_equal(np.asarray(result.overlay()), np.asarray(served))
    assert np.array_equal(np.asarray(result.overlay(PIXELS)), np.asarray(served))
    assert np.array_equal(np.asarray(result.overlay(alpha=0)), PIXELS)


def test_an_overlay_lies_on_the_photo_as_it_is_shown(result: Segmentation) -> None:
    white = np.asarray(result.overlay(with_alpha(), alpha=0))
    assert (white[0, 0] == 255).all()
    deep = Image.fromarray(np.full((3, 5), 0x8080, np.uint16))
    assert (np.asarray(result.overlay(deep, alpha=0)) == 0x80).all()


def test_an_overlay_needs_a_photo_of_its_size(result: Segmentation) -> None:
    with pytest.raises(ValueError, match="pixels large"):
        result.overlay(np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="alpha"):
        result.overlay(alpha=1.5)


@pytest.mark.parametrize("format", ["png", "grey", "overlay", "zip"])
def test_download_returns_the_bytes_of_every_format(
    scripted: ScriptedServer, connect, format: str
) -> None:
    body = connect(scripted.url).download(PIXELS, format)
    if format == "zip":
        names = zipfile.ZipFile(io.BytesIO(body)).namelist()
        assert names == ["00_sky.png", "01_road.png", "03_tree.png"]
    else:
        assert Image.open(io.BytesIO(body)).size == (5, 3)


def test_download_takes_formats_that_it_has_not_heard_of(scripted: ScriptedServer, connect) -> None:
    scripted.script = [answer(200, b"!", content_type="application/x-new")]
    assert connect(scripted.url).download(PIXELS, "new") == b"!"
    assert scripted.posts()[0].query["format"] == "new"


def test_model_and_health(scripted: ScriptedServer, connect) -> None:
    client = connect(scripted.url)
    model = client.model()
    assert [info.name for info in model.classes] == ["sky", "road", "car", "tree"]
    assert (model.name, model.version, model.temperature) == ("double", VERSION, 1.25)
    health = client.health()
    assert (health.status, health.model, health.waiting) == ("ready", "double", 3)


def test_connections_and_the_model_are_used_again(scripted: ScriptedServer, connect) -> None:
    client = connect(scripted.url)
    for _ in range(3):
        client.segment(PIXELS)
    assert [request.path for request in scripted.requests] == ["/segment", "/model"] + [
        "/segment"
    ] * 2
    assert len({request.connection for request in scripted.requests}) == 1


def test_another_model_is_noticed(scripted: ScriptedServer, connect) -> None:
    client = connect(scripted.url)
    client.segment(PIXELS)
    new = {**rle_document(LABELS), "model": {"name": "new", "version": "f" * 64}}
    classes = [{"index": i, "name": f"new{i}", "color": "#010203"} for i in range(4)]
    named = {**model_document(), "name": "new", "version": "f" * 64, "classes": classes}
    for entry in new["masks"]:
        entry["class_name"] = f"new{entry['class_id']}"
    scripted.script = [
        answer(200, as_json(new), content_type="application/json"),
        answer(200, as_json(named), content_type="application/json"),
    ]
    result = client.segment(PIXELS)
    assert result.model == "new"
    assert np.array_equal(result.mask("new2"), LABELS == 2)


def test_while_servers_of_two_models_answer_each_answer_speaks_for_itself(
    scripted: ScriptedServer, connect
) -> None:
    other = {**rle_document(LABELS), "model": {"name": "other", "version": "f" * 64}}
    scripted.script = [answer(200, as_json(other), content_type="application/json")]
    result = connect(scripted.url).segment(PIXELS)
    assert [info.name for info in result.classes] == ["sky", "road", "tree"]
    assert np.array_equal(result.label_map, LABELS)


def test_label_maps_of_any_shape(scripted: ScriptedServer) -> None:
    random = np.random.default_rng(1)
    with Client(scripted.url) as client:
        for shape in [(1, 1), (1, 9), (9, 1), (13, 7), (64, 48)]:
            labels = random.integers(0, 4, shape).astype(np.uint8)
            assert np.array_equal(client.segment(photo_of(labels)).label_map, labels)


def test_a_caller_may_bring_the_http_client(scripted: ScriptedServer) -> None:
    with httpx.Client(headers={"Authorization": "Bearer x"}) as http:
        with Client(scripted.url, http=http) as client:
            client.segment(PIXELS)
        assert scripted.posts()[0].headers["authorization"] == "Bearer x"
        assert not http.is_closed


def test_a_path_in_front_of_the_service_is_kept(scripted: ScriptedServer, connect) -> None:
    scripted.script = [answer(200, as_json(model_document()), content_type="application/json")]
    connect(scripted.url + "/fcn/").model()
    assert scripted.requests[0].path == "/fcn/model"


@pytest.mark.parametrize(
    "options",
    [
        {"url": "localhost:8000"},
        {"url": "ftp://x"},
        {"url": ""},
        {"url": "http://x/?a=1"},
        {"url": "http://localhost:80000"},
        {"url": "http://a..b"},
        {"timeout": 0},
        {"timeout": 1e7},
        {"timeout": float("inf")},
        {"timeout": float("nan")},
        {"retries": -1},
    ],
    ids=str,
)
def test_impossible_options_are_refused(connect, options) -> None:
    with pytest.raises(ValueError, match=r".+"):
        connect(**{"url": "http://localhost", **options})


def test_the_red_value_is_the_label() -> None:
    assert np.array_equal(label_map_of(Image.fromarray(PIXELS)), LABELS)


def npz(**arrays: object) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


VALUES = np.linspace(0, 1, 12, dtype=np.float16).reshape(2, 2, 3)


def test_probabilities(scripted: ScriptedServer, connect) -> None:
    body = npz(probabilities=VALUES, class_ids=np.uint8([1, 3]), class_names=["road", "tree"])
    scripted.script = [answer(200, body, content_type="application/x-npz")]
    result = connect(scripted.url).probabilities(PIXELS, classes=["road", "tree"], scale=2)
    assert scripted.posts()[0].query == {
        "format": "probabilities",
        "classes": "road,tree",
        "scale": "2.0",
    }
    assert (result.class_ids, result.class_names) == ((1, 3), ("road", "tree"))
    assert np.array_equal(result.of("tree"), VALUES[1])
    assert np.array_equal(result.of(1), VALUES[0])
    with pytest.raises(KeyError, match="road, tree"):
        result.of("sky")


def test_confidence(scripted: ScriptedServer, connect) -> None:
    levels = np.array([[0, 51, 255]], np.uint8)
    scripted.script = [answer(200, png(levels), content_type="image/png")]
    result = connect(scripted.url).confidence(PIXELS)
    assert result.dtype == np.float32
    assert result.tolist() == [[0, np.float32(0.2), 1]]


def test_polygons(scripted: ScriptedServer, connect) -> None:
    document = {"type": "FeatureCollection", "features": []}
    scripted.script = [answer(200, as_json(document), content_type="application/geo+json")]
    assert connect(scripted.url).polygons(PIXELS, tolerance=1.5, scores=True) == document
    query = {"format": "polygons", "scores": "true", "tolerance": "1.5"}
    assert scripted.posts()[0].query == query


@pytest.mark.parametrize(
    ("call", "media_type", "body"),
    [
        ("probabilities", "application/x-npz", b"no npz"),
        ("probabilities", "application/x-npz", b"PK\x03\x04"),
        ("probabilities", "application/x-npz", npz(probabilities=VALUES)),
        (
            "probabilities",
            "application/x-npz",
            npz(probabilities=VALUES, class_ids=[1], class_names=["a"]),
        ),
        (
            "probabilities",
            "application/x-npz",
            npz(probabilities=np.array([print]), class_ids=[1], class_names=["a"]),
        ),
        ("confidence", "image/png", b"no PNG"),
        ("confidence", "image/png", png(PIXELS)),
        ("polygons", "application/geo+json", b"{"),
        ("polygons", "application/geo+json", b"[" * 100_000),
        ("polygons", "application/geo+json", b"[]"),
        ("polygons", "application/json", b"{}"),
    ],
)
def test_rich_answers_that_are_none_are_protocol_errors(
    scripted: ScriptedServer, connect, call: str, media_type: str, body: bytes
) -> None:
    scripted.script = [answer(200, body, content_type=media_type)]
    with pytest.raises(ProtocolError):
        getattr(connect(scripted.url), call)(PIXELS)
