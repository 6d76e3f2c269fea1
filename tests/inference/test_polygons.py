import itertools
import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from app.inference.engine import Segmentation
from app.inference.polygons import features
from model import named_classes

CLASSES = named_classes(["sky", "road", "car", "tree"])
LABEL_MAPS = arrays(
    np.uint8,
    array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.sampled_from([0, 1, 2, 3, 255]),
)


def filled(coordinates, height, width):
    """Return the mask inside polygons, HxW: pixels are inside whose centres are."""
    mask = np.zeros((height, width), bool)
    for polygon in coordinates:
        inside = np.zeros((height, width), bool)
        for ring in polygon:
            for (x, y), (next_x, next_y) in itertools.pairwise(ring):
                if x == next_x:  # all to the right of a vertical side: even-odd rule
                    inside[min(y, next_y) : max(y, next_y), x:] ^= True
        assert not (mask & inside).any()
        mask |= inside
    return mask


@settings(deadline=None)
@given(LABEL_MAPS)
def test_filling_the_polygons_gives_back_the_mask(label_map):
    found = np.full_like(label_map, 255)
    for feature in features(Segmentation(label_map, None), CLASSES):
        mask = filled(feature["geometry"]["coordinates"], *label_map.shape)
        assert feature["properties"]["area"] == mask.sum()
        assert (found[mask] == 255).all()
        found[mask] = feature["id"]
    assert np.array_equal(found, label_map)


def test_a_feature_tells_of_its_class():
    label_map = np.zeros((4, 6), np.uint8)
    label_map[1:3, 1:5] = 2
    label_map[0, 5] = 2
    scores = np.array([0.5, np.nan, 0.75, np.nan], np.float32)
    (car,) = features(Segmentation(label_map, scores), CLASSES, (1, 2))
    assert json.loads(json.dumps(car)) == {
        "type": "Feature",
        "id": 2,
        "bbox": [1, 0, 6, 3],
        "properties": {
            "class_id": 2,
            "class_name": "car",
            "color": CLASSES[2].hex_color,
            "area": 9,
            "fraction": 9 / 24,
            "score": 0.75,
        },
        "geometry": {
            "type": "MultiPolygon",
            "coordinates": [
                [[[5, 0], [6, 0], [6, 1], [5, 1], [5, 0]]],
                [[[1, 1], [5, 1], [5, 3], [1, 3], [1, 1]]],
            ],
        },
    }


def test_without_scores_there_is_none():
    (sky,) = features(Segmentation(np.zeros((2, 2), np.uint8), None), CLASSES)
    assert "score" not in sky["properties"]
