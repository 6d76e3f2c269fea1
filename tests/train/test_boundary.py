import json
import math

import numpy as np
import pytest

from app.train.boundary import BoundaryF
from model import VOID


def measure(truth: np.ndarray, prediction: np.ndarray, classes: int) -> BoundaryF:
    boundary = BoundaryF(classes)
    boundary.update(truth.astype(np.uint8), prediction.astype(np.uint8))
    return boundary


def halves(height: int, width: int, edge: int) -> np.ndarray:
    """Class 0 left of column `edge`, class 1 from there on."""
    return np.broadcast_to(np.arange(width) >= edge, (height, width)).astype(np.uint8)


def literal_f(truth: np.ndarray, prediction: np.ndarray, index: int, tolerance: float) -> float:
    """The definition, pixel by pixel."""
    height, width = truth.shape

    def neighbours(y: int, x: int) -> list[tuple[int, int]]:
        around = ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
        return [(v, u) for v, u in around if 0 <= v < height and 0 <= u < width]

    def boundary_of(label_map: np.ndarray) -> list[tuple[int, int]]:
        return [
            (y, x)
            for y in range(height)
            for x in range(width)
            if label_map[y, x] == index
            and any(label_map[place] != index for place in neighbours(y, x))
            and all(truth[place] != VOID for place in [(y, x), *neighbours(y, x)])
        ]

    def share(points: list[tuple[int, int]], others: list[tuple[int, int]]) -> float:
        near = [any(math.dist(point, other) <= tolerance for other in others) for point in points]
        return sum(near) / len(near)

    true, predicted = boundary_of(truth), boundary_of(prediction)
    if not true and not predicted:
        return math.nan
    if not true or not predicted:
        return 0.0
    precision, recall = share(predicted, true), share(true, predicted)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_definition(seed: int) -> None:
    random = np.random.default_rng(seed)
    truth = np.kron(random.integers(0, 4, (4, 5)), np.ones((7, 9), int))
    prediction = np.roll(truth, (1, 2), (0, 1))
    prediction[random.random(truth.shape) < 0.02] = 4
    truth[random.random(truth.shape) < 0.02] = VOID
    boundary = measure(truth, prediction, 6)
    for index in range(6):
        expected = literal_f(truth, prediction, index, tolerance=1.0)
        assert boundary.by_class[index] == pytest.approx(expected, nan_ok=True)
    assert 0 < boundary.mean < 1
    assert math.isnan(boundary.by_class[5])


@pytest.mark.parametrize(("shift", "expected"), [(0, 1), (3, 1), (4, 0)])
def test_boundaries_match_within_a_share_of_the_diagonal(shift: int, expected: float) -> None:
    # A diagonal of 500 pixels: 3.75 are tolerated.
    boundary = measure(halves(300, 400, 100), halves(300, 400, 100 + shift), 2)
    assert boundary.by_class == (expected, expected)
    assert boundary.mean == expected


@pytest.mark.parametrize(("shift", "expected"), [(1, 1), (2, 0)])
def test_one_pixel_is_always_tolerated(shift: int, expected: float) -> None:
    assert measure(halves(4, 9, 4), halves(4, 9, 4 + shift), 2).mean == expected


def test_void_hides_what_is_in_it_and_beside_it() -> None:
    truth = halves(20, 40, 10)
    truth[5:15, 20:30] = VOID
    inside, beside, clear = (truth.copy() for _ in range(3))
    for prediction in (inside, beside, clear):
        prediction[truth == VOID] = 1
    inside[5:15, 20:30] = 0
    beside[8, 19] = 0
    clear[8, 17] = 0
    assert measure(truth, inside, 2).mean == 1
    assert measure(truth, clear, 2).mean < 1
    # The speck itself is hidden; the pixels around it that are not beside void still count.
    assert measure(truth, beside, 2).by_class[0] == 1


def test_the_photos_border_is_no_boundary_and_a_class_without_one_is_skipped() -> None:
    boundary = measure(np.zeros((5, 6)), np.zeros((5, 6)), 2)
    assert all(math.isnan(value) for value in boundary.by_class)
    assert math.isnan(boundary.mean)
    values = boundary.to_json(["a", "b"])
    assert json.loads(json.dumps(values)) == values
    assert values == {"boundary_f": None, "boundary_f_by_class": {"a": None, "b": None}}


def test_a_boundary_on_one_side_only_scores_nothing() -> None:
    plain, edged = np.zeros((9, 9)), halves(9, 9, 4)
    assert measure(plain, edged, 3).by_class[:2] == (0, 0)
    assert measure(edged, plain, 3).by_class[:2] == (0, 0)


def test_averages_over_the_photos_that_have_the_class_then_over_classes() -> None:
    boundary = BoundaryF(3)
    edged = halves(9, 9, 4)
    boundary.update(edged, edged)
    boundary.update(edged * 2, np.zeros_like(edged))
    assert boundary.by_class == (0.5, 1, 0)
    assert boundary.mean == 0.5
    assert boundary.to_json(["a", "b", "c"])["boundary_f_by_class"] == {"a": 0.5, "b": 1, "c": 0}


def test_refuses_maps_that_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="prediction"):
        measure(np.zeros((2, 3)), np.zeros((3, 2)), 2)
    with pytest.raises(ValueError, match="outside the 2 classes"):
        measure(np.zeros((2, 3)), np.full((2, 3), 2), 2)
