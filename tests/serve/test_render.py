"""The JSON answer is written without its schema's checks; here it is held to them."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from app.inference.engine import Segmentation
from app.inference.render import MaskFormat
from app.serve.documents import CocoDocument, FeatureCollection
from app.serve.render import Wanted, is_quick, render
from app.serve.schemas import SegmentationDocument, TimingMs
from model import Card, named_classes

LABELS = np.array([[0, 0, 3], [1, 1, 255]], np.uint8)
HOLE = np.array([[1, 1, 1], [1, 3, 1], [1, 1, 1]], np.uint8)


def answer(label_map, mask_format=MaskFormat.RLE, **wanted):
    card = Card("street \N{SNOWMAN}", None, named_classes(["sky", "road", "car", "tree"]))
    scores = np.array([0.5, 0.25, np.nan, 1.0], np.float32) if wanted.get("scores") else None
    stages = {name: 0.0125 for name in TimingMs.model_fields if name != "encode"}
    return render(
        Segmentation(label_map, scores),
        None,
        Wanted(mask_format, **wanted),
        SimpleNamespace(card=card, version="0" * 64),
        request_id="an-id",
        stages_s=stages,
    )


def checked(schema, rendered):
    """Return the document as JSON, after its schema has read it and written the very same."""
    document = schema.model_validate_json(rendered.body, strict=True)
    assert document.model_dump_json(exclude_none=True).encode() == rendered.body
    return json.loads(rendered.body)


@pytest.mark.parametrize("scores", [False, True])
@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("label_map", [LABELS, np.full((5, 4), 255, np.uint8)])
def test_the_answer_is_what_its_schema_says_and_no_more(label_map, compressed, scores):
    rendered = answer(label_map, compressed=compressed, scores=scores)

    assert rendered.media_type == "application/json"
    found = checked(SegmentationDocument, rendered)
    assert found["image"] == {"width": label_map.shape[1], "height": label_map.shape[0]}
    assert found["model"] == {"name": "street \N{SNOWMAN}", "version": "0" * 64}
    assert found["timing_ms"]["decode"] == 12.5
    assert all(("score" in mask) == scores for mask in found["masks"])


@pytest.mark.parametrize("scores", [False, True])
@pytest.mark.parametrize("label_map", [LABELS, HOLE, np.full((5, 4), 255, np.uint8)])
def test_geojson_is_what_its_schema_says_and_no_more(label_map, scores):
    rendered = answer(label_map, MaskFormat.POLYGONS, scores=scores)
    assert rendered.media_type == "application/geo+json"
    found = checked(FeatureCollection, rendered)
    assert found["image"] == {"width": label_map.shape[1], "height": label_map.shape[0]}
    assert found["timing_ms"]["decode"] == 12.5
    assert all(("score" in feature["properties"]) == scores for feature in found["features"])


@pytest.mark.parametrize("scores", [False, True])
@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("label_map", [LABELS, HOLE, np.full((5, 4), 255, np.uint8)])
def test_coco_is_what_its_schema_says_and_no_more(label_map, compressed, scores):
    rendered = answer(
        label_map, MaskFormat.COCO, compressed=compressed, scores=scores, name="a b.jpg"
    )
    assert rendered.media_type == "application/json"
    found = checked(CocoDocument, rendered)
    assert found["info"]["request_id"] == "an-id"
    assert found["images"][0]["file_name"] == "a b.jpg"
    assert all(("score" in annotation) == scores for annotation in found["annotations"])


def test_tolerance_simplifies_polygons():
    y, x = np.mgrid[:40, :40]
    disc = ((x - 20) ** 2 + (y - 20) ** 2 < 200).astype(np.uint8)
    for mask_format in (MaskFormat.POLYGONS, MaskFormat.COCO):
        exact, simple = (answer(disc, mask_format, tolerance=t).body for t in (0.0, 1.5))
        assert len(simple) < len(exact)


def test_only_probabilities_are_large():
    classes = named_classes(["sky", "road", "car"])
    assert Wanted(MaskFormat.PROBABILITIES).large_bytes(1000, classes) == 12_000
    assert Wanted(MaskFormat.PROBABILITIES, (0, 2)).large_bytes(1000, classes) == 8_000
    assert Wanted(MaskFormat.OVERLAY, scores=True).large_bytes(1000, classes) == 0


def test_small_pngs_alone_are_quick():
    small, large = (
        Segmentation(np.zeros(shape, np.uint8), None) for shape in ((512, 512), (513, 512))
    )
    for mask_format in MaskFormat:
        quick = mask_format in (MaskFormat.PNG, MaskFormat.GREY)
        assert is_quick(small, Wanted(mask_format)) == quick
        assert not is_quick(large, Wanted(mask_format))
