import io
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from app.inference.engine import Segmentation
from app.inference.render import (
    MaskFormat,
    UnknownClassError,
    class_ids,
    mask_entries,
    render_file,
)
from model import named_classes

CLASSES = named_classes(["sky", "road", "car", "tree"])
LABELS = np.array([[0, 0, 3], [1, 1, 255]], np.uint8)


@pytest.mark.parametrize(
    ("spec", "ids"),
    [
        (None, None),
        ("car", (2,)),
        ("2", (2,)),
        ("car,0", (0, 2)),
        (" tree , 3 ,tree", (3,)),
    ],
)
def test_classes_by_name_and_index(spec, ids):
    assert class_ids(spec, CLASSES) == ids


@pytest.mark.parametrize("spec", ["", "cat", "4", "-1", "car,,road", "Car", "9" * 5000])
def test_unknown_classes_are_refused_with_the_known_ones(spec):
    with pytest.raises(UnknownClassError, match=r"sky \(0\), road \(1\), car \(2\)") as caught:
        class_ids(spec, CLASSES)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("compressed", [True, False])
def test_entries_describe_the_classes_present(compressed):
    scores = np.array([0.5, 0.25, np.nan, 1.0], np.float32)
    entries = mask_entries(Segmentation(LABELS, scores), CLASSES, compressed=compressed)
    assert json.loads(json.dumps(entries)) == [
        {**e, "bbox": [*e["bbox"]], "rle": {**e["rle"], "size": [2, 3]}} for e in entries
    ]
    assert [(e["class_id"], e["class_name"], e["area"], e["score"]) for e in entries] == [
        (0, "sky", 2, 0.5),
        (1, "road", 2, 0.25),
        (3, "tree", 1, 1.0),
    ]
    assert entries[0]["fraction"] == pytest.approx(2 / 6)
    assert entries[1]["bbox"] == (0, 1, 2, 1)
    for entry in entries:
        counts = entry["rle"] if compressed else coco.frPyObjects(entry["rle"], 2, 3)
        assert np.array_equal(coco.decode(counts), entry["class_id"] == LABELS)


def test_entries_without_scores_have_none_and_selection_drops_the_rest():
    entries = mask_entries(Segmentation(LABELS, None), CLASSES, (1, 2))
    assert [entry["class_name"] for entry in entries] == ["road"]
    assert "score" not in entries[0]


@pytest.mark.parametrize("mask_format", [MaskFormat.PNG, MaskFormat.GREY])
def test_files_hold_the_selected_labels_and_void(mask_format):
    body = render_file(LABELS, None, mask_format, CLASSES, (0,))
    assert np.array_equal(np.array(Image.open(io.BytesIO(body))), np.where(LABELS == 0, 0, 255))


@pytest.mark.parametrize("mask_format", [MaskFormat.RLE, MaskFormat.OVERLAY])
def test_what_a_label_map_alone_cannot_give_is_refused(mask_format):
    with pytest.raises(ValueError, match=mask_format):
        render_file(LABELS, None, mask_format, CLASSES)
