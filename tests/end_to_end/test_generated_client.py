"""A client generated from the OpenAPI document, by openapi-python-client, and what it can do.

The generator turns schemas into classes and operations into functions, so a document that is wrong
about a parameter, a body or an answer gives a client that does not work.
"""

import importlib
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from live_server import Server, label_map_from_rle, running_server
from PIL import Image
from pycocotools.coco import COCO

GENERATE = (sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The service around a network that costs nothing."""
    log = tmp_path_factory.mktemp("null") / "log"
    with running_server(log, program=("-m", "app.bench.null")) as server:
        yield server


@pytest.fixture(scope="module")
def package(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Generate the client from the document that the server gives; return its import name."""
    folder = tmp_path_factory.mktemp("generated")
    document, settings = folder / "openapi.json", folder / "config.yml"
    document.write_bytes(server.client.get("/openapi.json").content)
    settings.write_text("post_hooks: []\n")  # it would format its code
    name = "generated_fcn_client"
    run = subprocess.run(
        [*GENERATE, "--path", document, "--config", settings, "--output-path", folder / name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    sys.path.insert(0, str(folder))
    yield name
    sys.path.remove(str(folder))


def part(package: str, name: str) -> ModuleType:
    return importlib.import_module(f"{package}.{name}")


def photo(package: str, name: str, body: bytes | None = None) -> object:
    """Return a file as the client takes it; a small photo by default."""
    if body is None:
        file = io.BytesIO()
        Image.new("RGB", (48, 36), (90, 120, 150)).save(file, "PNG")
        body = file.getvalue()
    return part(package, "types").File(io.BytesIO(body), name, "image/png")


def form(package: str, *files: object) -> object:
    return part(package, "models").SegmentFilesBody(image=list(files))


def segment(package: str, server: Server, body: object, **parameters: object):
    client = part(package, "client").Client(base_url=server.url)
    operation = part(package, "api.segmentation.segment")
    return operation.sync_detailed(client=client, body=body, **parameters)


@pytest.fixture
def expected(package: str, server: Server) -> np.ndarray:
    return server.label_map(photo(package, "a.png").payload.getvalue())


@pytest.mark.parametrize("in_form", [True, False])
def test_a_photo_becomes_typed_masks(
    package: str, server: Server, expected: np.ndarray, in_form: bool
) -> None:
    models = part(package, "models")
    file = photo(package, "a.png")
    answer = segment(
        package,
        server,
        form(package, file) if in_form else file,
        format_=models.MaskFormat.RLE,
        scores=True,
        x_request_id="from-the-generated-client",
    )
    assert answer.status_code == 200
    document = answer.parsed
    assert isinstance(document, models.SegmentationDocument)
    assert document.request_id == "from-the-generated-client"
    assert all(mask.score == 0.5 for mask in document.masks)
    assert np.array_equal(label_map_from_rle(document.to_dict()), expected)


def test_coco_is_typed_too(
    package: str, server: Server, expected: np.ndarray, tmp_path: Path
) -> None:
    models = part(package, "models")
    body = form(package, photo(package, "a.png"))
    answer = segment(package, server, body, format_=models.MaskFormat.COCO, classes="class 1,2")
    document = answer.parsed
    assert isinstance(document, models.CocoDocument)
    assert [category.name for category in document.categories] == ["class 1", "class 2"]
    assert document.images[0].file_name == "a.png"
    (tmp_path / "coco.json").write_bytes(answer.content)
    coco = COCO(tmp_path / "coco.json")
    for index in (1, 2):
        masks = [coco.annToMask(a) for a in coco.loadAnns(coco.getAnnIds(catIds=[index + 1]))]
        assert np.array_equal(np.sum(masks, axis=0), expected == index)


def test_several_photos_have_results_in_order(
    package: str, server: Server, expected: np.ndarray
) -> None:
    models = part(package, "models")
    body = form(package, photo(package, "a.png"), photo(package, "b.txt", b"hello"))
    answer = segment(package, server, body, format_=models.MaskFormat.RLE)
    document = answer.parsed
    assert isinstance(document, models.SeveralDocument)
    fine, failed = document.results
    assert (fine.filename, failed.filename) == ("a.png", "b.txt")
    assert np.array_equal(label_map_from_rle(fine.document.to_dict()), expected)
    assert failed.problem.type_ == "urn:fcn:unknown-image-format"


def test_errors_are_typed_problems(package: str, server: Server) -> None:
    models = part(package, "models")
    body = form(package, photo(package, "a.png"))
    for parameters, problem in (
        ({"classes": "cat"}, "urn:fcn:invalid-parameter"),
        ({"scale": 9.0}, "urn:fcn:invalid-parameter"),
    ):
        answer = segment(package, server, body, **parameters)
        assert isinstance(answer.parsed, models.ProblemDocument)
        assert (answer.parsed.status, answer.parsed.type_) == (answer.status_code, problem)


def test_model_and_health_are_typed(package: str, server: Server) -> None:
    client = part(package, "client").Client(base_url=server.url)
    model = part(package, "api.model.model").sync(client=client)
    assert [info.name for info in model.classes[:2]] == ["class 0", "class 1"]
    assert model.temperature == 1.0
    health = part(package, "api.health.health").sync(client=client)
    assert (health.status, health.model.name) == ("ready", "null")
    assert part(package, "api.health.live").sync(client=client).status == "alive"
    assert part(package, "api.health.ready").sync(client=client).status == "ready"
    metrics = part(package, "api.health.metrics").sync_detailed(client=client)
    assert b"fcn_requests_total" in metrics.content
