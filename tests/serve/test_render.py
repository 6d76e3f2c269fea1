"""The JSON answer is written without its schema's checks; here it is held to them."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from app.inference.engine import Segmentation
from app.inference.render import MaskFormat
from app.serve.render import Wanted, render
from app.serve.schemas import RleCounts, SegmentationDocument, TimingMs
from model import Card, named_classes

LABELS = np.array([[0, 0, 3], [1, 1, 255]], np.uint8)


def document(label_map, **wanted):
    card = Card("street \N{SNOWMAN}", None, named_classes(["sky", "road", "car", "tree"]))
    scores = np.array([0.5, 0.25, np.nan, 1.0], np.float32) if wanted.get("scores") else None
    stages = {name: 0.0125 for name in TimingMs.model_fields if name != "encode"}
    return render(
        Segmentation(label_map, scores),
        None,
        Wanted(MaskFormat.RLE, **wanted),
        SimpleNamespace(card=card, version="0" * 64),
        request_id="an-id",
        stages_s=stages,
    )


@pytest.mark.parametrize("scores", [False, True])
@pytest.mark.parametrize("counts", RleCounts)
@pytest.mark.parametrize("label_map", [LABELS, np.full((5, 4), 255, np.uint8)])
def test_the_answer_is_what_its_schema_says_and_no_more(label_map, counts, scores):
    rendered = document(label_map, counts=counts, scores=scores)

    assert rendered.media_type == "application/json"
    checked = SegmentationDocument.model_validate_json(rendered.body, strict=True)
    assert checked.model_dump_json(exclude_none=True).encode() == rendered.body
    found = json.loads(rendered.body)
    assert found["image"] == {"width": label_map.shape[1], "height": label_map.shape[0]}
    assert found["model"] == {"name": "street \N{SNOWMAN}", "version": "0" * 64}
    assert found["timing_ms"]["decode"] == 12.5
    assert all(("score" in mask) == scores for mask in found["masks"])
