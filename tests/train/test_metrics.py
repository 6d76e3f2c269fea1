import json
import math

import numpy as np
import pytest

from app.train.metrics import ConfusionMatrix, Metrics
from model import VOID


def literal_metrics(truth: np.ndarray, prediction: np.ndarray, classes: int) -> dict[str, float]:
    """The paper's formulas, counted pixel by pixel with sets."""
    known = [(t, p) for t, p in zip(truth.ravel(), prediction.ravel(), strict=True) if t != VOID]
    n = [
        [sum(1 for t, p in known if (t, p) == (i, j)) for j in range(classes)]
        for i in range(classes)
    ]
    t = [sum(row) for row in n]
    iu = [n[i][i] / (t[i] + sum(n[j][i] for j in range(classes)) - n[i][i]) for i in range(classes)]
    return {
        "pixel_accuracy": sum(n[i][i] for i in range(classes)) / sum(t),
        "mean_accuracy": sum(n[i][i] / t[i] for i in range(classes)) / classes,
        "mean_iu": sum(iu) / classes,
        "frequency_weighted_iu": sum(t[i] * iu[i] for i in range(classes)) / sum(t),
    }


def measure(truth: np.ndarray, prediction: np.ndarray, classes: int) -> Metrics:
    confusion = ConfusionMatrix(classes)
    confusion.update(truth.astype(np.uint8), prediction.astype(np.uint8))
    return confusion.metrics()


def test_equals_the_papers_formulas() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 4, (13, 17))
    truth[random.random(truth.shape) < 0.2] = VOID
    prediction = np.where(
        random.random(truth.shape) < 0.6, truth % 4, random.integers(0, 4, truth.shape)
    )
    metrics = measure(truth, prediction, 4)
    for name, value in literal_metrics(truth, prediction, 4).items():
        assert getattr(metrics, name) == pytest.approx(value)


def test_is_one_matrix_over_the_split_not_a_mean_over_images() -> None:
    confusion = ConfusionMatrix(2)
    confusion.update(np.zeros((1, 99), np.uint8), np.zeros((1, 99), np.uint8))
    confusion.update(np.ones((1, 1), np.uint8), np.zeros((1, 1), np.uint8))
    assert confusion.metrics().iu == (0.99, 0.0)


def test_matrices_add_up_to_the_one_that_counted_everything() -> None:
    random = np.random.default_rng(1)
    whole, summed = ConfusionMatrix(3), ConfusionMatrix(3)
    for _ in range(3):
        truth, prediction = random.integers(0, 3, (2, 5, 7)).astype(np.uint8)
        whole.update(truth, prediction)
        photo = ConfusionMatrix(3)
        photo.update(truth, prediction)
        summed.add(photo)
    assert np.array_equal(summed.counts, whole.counts)
    assert summed.counts.sum() == 3 * 5 * 7


def test_a_class_that_is_nowhere_has_no_iu_and_a_hallucinated_one_has_zero() -> None:
    metrics = measure(np.array([[0, 0]]), np.array([[0, 1]]), 3)
    assert metrics.iu[:2] == (0.5, 0.0)
    assert math.isnan(metrics.iu[2])
    assert metrics.mean_iu == 0.25
    assert metrics.mean_accuracy == 0.5


def test_void_counts_nowhere() -> None:
    assert measure(np.array([[0, VOID]]), np.array([[0, 1]]), 2).pixel_accuracy == 1


def test_all_void_is_undefined_and_null_in_json() -> None:
    metrics = measure(np.array([[VOID]]), np.array([[0]]), 2)
    assert math.isnan(metrics.mean_iu)
    values = metrics.to_json(["a", "b"])
    assert json.loads(json.dumps(values)) == values
    assert values["mean_iu"] is None
    assert values["iu"] == {"a": None, "b": None}


def test_maps_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"truth is \(1, 2\)"):
        measure(np.zeros((1, 2)), np.zeros((2, 1)), 2)


@pytest.mark.parametrize(("truth", "prediction"), [([[3]], [[0]]), ([[0]], [[3]])])
def test_labels_outside_the_classes_are_refused(truth: list, prediction: list) -> None:
    with pytest.raises(ValueError, match="outside the 3 classes"):
        measure(np.array(truth), np.array(prediction), 3)
