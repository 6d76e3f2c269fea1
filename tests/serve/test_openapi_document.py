"""The OpenAPI document as people and generators read it; requests are made from it elsewhere."""

from collections import Counter

import pytest
from pycocotools import mask as coco

from app.serve.application import create_app
from app.serve.documents import CocoDocument, FeatureCollection, SeveralDocument
from app.serve.errors import PROBLEMS
from app.serve.schemas import ProblemDocument, SegmentationDocument
from app.serve.settings import Settings

DOCUMENT = create_app(Settings()).openapi()
OPERATIONS = {
    f"{method.upper()} {path}": operation
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
SEGMENT = OPERATIONS["POST /segment"]
SCHEMAS = {
    model.__name__: model
    for model in (SegmentationDocument, CocoDocument, SeveralDocument, FeatureCollection)
}


def test_operation_ids_are_unique():
    ids = Counter(operation.get("operationId") for operation in OPERATIONS.values())
    assert None not in ids
    assert set(ids.values()) == {1}


@pytest.mark.parametrize("name", OPERATIONS)
def test_everything_is_described(name):
    operation = OPERATIONS[name]
    assert operation["summary"]
    assert operation["description"]
    for parameter in operation.get("parameters", ()):
        assert parameter.get("description"), parameter["name"]
    for status, response in operation["responses"].items():
        assert response["description"], status
        for media_type, content in response.get("content", {}).items():
            assert content["schema"], (status, media_type)


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_problem_has_an_example(name):
    for status, response in OPERATIONS[name]["responses"].items():
        problems = response.get("content", {}).get("application/problem+json")
        if problems is None:
            continue
        for slug, example in problems["examples"].items():
            problem = ProblemDocument.model_validate(example["value"])
            assert (problem.status, problem.type) == (int(status), f"urn:fcn:{slug}")
            assert len(problem.detail) > 20


def test_every_kind_of_problem_is_in_the_table():
    slugs = {problem.slug for problem in PROBLEMS.values()} - {"client-gone"}
    for slug in (*slugs, "bad-request", "head-too-large", "internal-error", "not-found"):
        assert DOCUMENT["info"]["description"].count(f"| `urn:fcn:{slug}` |") == 1


@pytest.mark.parametrize(
    ("media_type", "name", "schema"),
    [
        ("application/json", "rle", "SegmentationDocument"),
        ("application/json", "coco", "CocoDocument"),
        ("application/json", "several", "SeveralDocument"),
        ("application/geo+json", "polygons", "FeatureCollection"),
    ],
)
def test_examples_are_what_their_schemas_say(media_type, name, schema):
    content = SEGMENT["responses"]["200"]["content"][media_type]
    assert f"#/components/schemas/{schema}" in str(content["schema"])
    assert schema in DOCUMENT["components"]["schemas"]
    value = content["examples"][name]["value"]
    document = SCHEMAS[schema].model_validate(value)
    assert document.model_dump(mode="json", exclude_none=True) == value


def test_the_run_lengths_of_the_example_are_its_mask():
    content = SEGMENT["responses"]["200"]["content"]["application/json"]
    (mask,) = content["examples"]["rle"]["value"]["masks"]
    assert coco.area(mask["rle"]) == mask["area"]
    assert coco.toBbox(mask["rle"]).tolist() == mask["bbox"]
