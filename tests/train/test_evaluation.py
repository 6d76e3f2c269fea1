"""A split as a whole and photo by photo, held against figures worked out by hand."""

import numpy as np
import pytest
from rich.console import Console

from app.errors import UsageError
from app.train.evaluation import evaluate
from model import VOID, named_classes

QUIET = Console(quiet=True)


class Rows:
    """Three photos of leaf and spot, 4x8: a quarter spot, half spot, all void."""

    classes = named_classes(["leaf", "spot"])
    names = ("a.png", "b.png", "void.png")

    def __len__(self) -> int:
        return 3

    def photo(self, index: int) -> np.ndarray:
        return np.zeros((4, 8, 3), np.uint8)

    def photo_size(self, index: int) -> tuple[int, int]:
        return 4, 8

    def label(self, index: int) -> np.ndarray:
        if index == 2:
            return np.full((4, 8), VOID, np.uint8)
        label = np.zeros((4, 8), np.uint8)
        label[: index + 1] = 1
        return label


def test_photos_are_ranked_by_their_own_iu_and_measured_together() -> None:
    dataset = Rows()
    # Right for the first photo; the next has another row of spot.
    evaluation = evaluate(lambda index: dataset.label(0), dataset, QUIET)
    first, second, void = evaluation.photo_mean_iu
    assert first == 1
    assert second == pytest.approx((16 / 24 + 8 / 16) / 2)
    assert np.isnan(void)
    metrics = evaluation.confusion.metrics()
    assert metrics.iu == pytest.approx((40 / 48, 16 / 24))
    assert metrics.mean_iu != pytest.approx((first + second) / 2)
    assert evaluation.boundary.mean == 1  # one row off is within the least tolerance


def test_a_mask_of_another_size_names_the_photo() -> None:
    with pytest.raises(UsageError, match=r"a\.png and its label map differ in size"):
        evaluate(lambda index: np.zeros((5, 8), np.uint8), Rows(), QUIET)


def test_a_split_without_labels_has_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Rows()
    monkeypatch.setattr(dataset, "label", lambda index: np.full((4, 8), VOID, np.uint8))
    with pytest.raises(UsageError, match="everything is void"):
        evaluate(lambda index: np.zeros((4, 8), np.uint8), dataset, QUIET)
