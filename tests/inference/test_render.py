import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from app.inference.engine import Segmentation
from app.inference.render import (
    MaskFormat,
    Rendering,
    UnknownClassError,
    class_ids,
    mask_entries,
)
from model import Card, named_classes

CLASSES = named_classes(["sky", "road", "car", "tree"])
CARD = Card("street", None, CLASSES)
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
    body = Rendering(mask_format, (0,)).file(Segmentation(LABELS, None), None, CLASSES)
    assert np.array_equal(np.array(Image.open(io.BytesIO(body))), np.where(LABELS == 0, 0, 255))


def segmentation_for(mask_format, selected=None):
    """Return a segmentation with what a format needs, probabilities rising by class."""
    extras = Rendering(mask_format, selected, scores=True).extras(CLASSES)
    planes = np.array(extras.probabilities, np.float16)[:, None, None] / 8
    return Segmentation(
        LABELS,
        np.full(4, 0.5, np.float32) if extras.scores else None,
        np.array([[255, 200, 150], [100, 50, 0]], np.uint8) if extras.confidence else None,
        planes + np.zeros(LABELS.shape, np.float16) if extras.probabilities else None,
    )


@pytest.mark.parametrize("mask_format", MaskFormat)
def test_every_format_can_be_written_and_read(mask_format):
    segmentation = segmentation_for(mask_format)
    rendering = Rendering(mask_format, name="a.jpg")
    if mask_format.is_json:
        document = rendering.document(segmentation, CARD, "0" * 64, request_id="an-id")
        found = json.loads(json.dumps(document))
        origin = found["info"] if mask_format is MaskFormat.COCO else found
        assert origin["model"] == {"name": "street", "version": "0" * 64}
        assert origin["request_id"] == "an-id"
        return
    photo = np.zeros((*LABELS.shape, 3), np.uint8)
    body = rendering.file(segmentation, photo, CLASSES)
    if mask_format.suffix == ".png":
        assert Image.open(io.BytesIO(body)).size == (3, 2)
    else:
        assert zipfile.ZipFile(io.BytesIO(body)).testzip() is None


@pytest.mark.parametrize(("selected", "ids"), [(None, [0, 1, 2, 3]), ((1, 3), [1, 3])])
def test_numpy_reads_probabilities_without_pickle(selected, ids):
    segmentation = segmentation_for(MaskFormat.PROBABILITIES, selected)
    body = Rendering(MaskFormat.PROBABILITIES, selected).file(segmentation, None, CLASSES)
    with np.load(io.BytesIO(body)) as found:
        assert sorted(found) == ["class_ids", "class_names", "probabilities"]
        assert found["probabilities"].dtype == np.float16
        assert np.array_equal(found["probabilities"], segmentation.probabilities)
        assert found["class_ids"].tolist() == ids
        assert found["class_names"].tolist() == [CLASSES[index].name for index in ids]


@pytest.mark.parametrize(
    ("selected", "values"),
    [(None, [[255, 200, 150], [100, 50, 0]]), ((1, 2), [[0, 0, 0], [100, 50, 0]])],
)
def test_confidence_is_grey_and_black_where_other_classes_are(selected, values):
    segmentation = segmentation_for(MaskFormat.CONFIDENCE)
    body = Rendering(MaskFormat.CONFIDENCE, selected).file(segmentation, None, CLASSES)
    assert np.array(Image.open(io.BytesIO(body))).tolist() == values


def test_scores_are_computed_for_json_only():
    for mask_format in MaskFormat:
        assert Rendering(mask_format, scores=True).extras(CLASSES).scores == mask_format.is_json
        assert not Rendering(mask_format).extras(CLASSES).scores


@pytest.mark.parametrize(
    "mask_format",
    [MaskFormat.RLE, MaskFormat.OVERLAY, MaskFormat.PROBABILITIES, MaskFormat.CONFIDENCE],
)
def test_what_a_label_map_alone_cannot_give_is_refused(mask_format):
    with pytest.raises(ValueError, match=mask_format):
        Rendering(mask_format).file(Segmentation(LABELS, None), None, CLASSES)


def test_a_file_is_no_document():
    with pytest.raises(ValueError, match="png"):
        Rendering(MaskFormat.PNG).document(Segmentation(LABELS, None), CARD, "0" * 64)
