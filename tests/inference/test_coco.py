"""COCO documents, read by pycocotools and by this project's own training."""

import contextlib
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from pycocotools.coco import COCO

from app.inference.coco import coco_document
from app.inference.engine import Segmentation
from app.train.datasets import open_dataset
from model import named_classes

CLASSES = named_classes(["sky", "road", "car", "tree"])
LABEL_MAPS = arrays(
    np.uint8,
    array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.sampled_from([0, 1, 2, 3, 255]),
)


def loaded(document):
    """Return pycocotools' view of a document that has been JSON."""
    coco = COCO()
    coco.dataset = json.loads(json.dumps(document))
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def document(label_map, selected=None, *, scores=None, file_name="a.png", **options):
    segmentation = Segmentation(label_map, scores)
    return coco_document(segmentation, CLASSES, selected, file_name=file_name, **options)


@settings(deadline=None)
@given(LABEL_MAPS, st.booleans())
def test_pycocotools_shows_the_same_masks(label_map, compressed):
    coco = loaded(document(label_map, compressed=compressed))
    found = np.full_like(label_map, 255)
    for annotation in coco.loadAnns(coco.getAnnIds(imgIds=1)):
        mask = coco.annToMask(annotation).astype(bool)
        assert annotation["area"] == mask.sum()
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        left, top, width, height = annotation["bbox"]
        assert (left, top) == (columns[0], rows[0])
        assert (left + width, top + height) == (columns[-1] + 1, rows[-1] + 1)
        assert (found[mask] == 255).all()
        found[mask] = annotation["category_id"] - 1
    assert np.array_equal(found, label_map)


def test_a_region_is_a_polygon_or_with_holes_run_lengths():
    label_map = np.zeros((5, 5), np.uint8)
    label_map[2, 2] = 2
    scores = np.array([0.5, np.nan, 0.75, np.nan], np.float32)
    found = document(label_map, scores=scores, compressed=False)
    sky, car = found["annotations"]
    assert sky["segmentation"] == {"size": (5, 5), "counts": [0, 12, 1, 12]}
    assert car["segmentation"] == [[2, 2, 3, 2, 3, 3, 2, 3]]
    assert [(a["id"], a["image_id"], a["category_id"], a["iscrowd"]) for a in (sky, car)] == [
        (1, 1, 1, 0),
        (2, 1, 3, 0),
    ]
    assert [sky["score"], car["score"]] == [0.5, 0.75]
    assert found["images"] == [{"id": 1, "file_name": "a.png", "width": 5, "height": 5}]


def test_a_selection_keeps_the_ids_of_its_categories():
    found = document(np.array([[0, 2], [2, 3]], np.uint8), (1, 2))
    assert [(c["id"], c["name"]) for c in found["categories"]] == [(2, "road"), (3, "car")]
    assert {a["category_id"] for a in found["annotations"]} == {3}


def test_simplified_polygons_have_fewer_points_and_run_lengths_stay_exact():
    y, x = np.mgrid[:60, :60]
    label_map = ((x - 30) ** 2 + (y - 30) ** 2 < 500).astype(np.uint8)
    exact, simple = document(label_map), document(label_map, tolerance=1.5)
    assert simple["annotations"][0] == exact["annotations"][0]  # what is around the disc
    points = [len(found["annotations"][1]["segmentation"][0]) for found in (exact, simple)]
    assert points[1] < points[0] / 4
    assert simple["annotations"][1]["area"] == (label_map == 1).sum()


@pytest.mark.parametrize(
    ("names", "read_names", "shift"),
    [
        (["sky", "road", "car"], ["background", "sky", "road", "car"], 1),
        (["background", "road", "car"], ["background", "road", "car"], 0),
    ],
)
def test_training_reads_it_back(tmp_path, names, read_names, shift):
    label_map = np.random.default_rng(0).integers(0, 3, (12, 15), np.uint8)
    (tmp_path / "images").mkdir()
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        name = f"{split}.png"
        Image.new("RGB", (15, 12)).save(tmp_path / "images" / name)
        found = coco_document(Segmentation(label_map, None), named_classes(names), file_name=name)
        path = tmp_path / "annotations" / f"instances_{split}.json"
        path.write_text(json.dumps(found))
    dataset = open_dataset("coco", tmp_path, "train")
    assert [info.name for info in dataset.classes] == read_names
    assert np.array_equal(dataset.label(0), label_map + shift)
