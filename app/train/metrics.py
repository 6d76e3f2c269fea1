"""The paper's four metrics, from one confusion matrix over the whole split."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model import VOID


@dataclass(frozen=True)
class Metrics:
    """Section 5 of the paper; all are fractions from 0 to 1, `nan` where undefined.

    With n_ij the pixels of class i predicted as j, and t_i = sum_j n_ij:

    Attributes:
        pixel_accuracy: sum_i n_ii / sum_i t_i.
        mean_accuracy: Mean over classes of n_ii / t_i.
        mean_iu: Mean over classes of IU_i = n_ii / (t_i + sum_j n_ji - n_ii).
        frequency_weighted_iu: sum_i t_i IU_i / sum_i t_i.
        iu: IU of each class, C values. `nan` for a class that is neither in the truth nor in
            any prediction: it has no IU, and the mean leaves it out.
    """

    pixel_accuracy: float
    mean_accuracy: float
    mean_iu: float
    frequency_weighted_iu: float
    iu: tuple[float, ...]

    def to_json(self, class_names: list[str]) -> dict[str, Any]:
        """Return JSON values; undefined figures are null."""
        values: dict[str, Any] = {
            "pixel_accuracy": json_number(self.pixel_accuracy),
            "mean_accuracy": json_number(self.mean_accuracy),
            "mean_iu": json_number(self.mean_iu),
            "frequency_weighted_iu": json_number(self.frequency_weighted_iu),
        }
        values["iu"] = {
            name: json_number(value) for name, value in zip(class_names, self.iu, strict=True)
        }
        return values


class ConfusionMatrix:
    """Counts pixels by true and predicted class; pixels labelled void are left out.

    Args:
        num_classes: C.
    """

    def __init__(self, num_classes: int) -> None:
        self.counts: NDArray[np.int64] = np.zeros((num_classes, num_classes), np.int64)

    def update(self, truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> None:
        """Count one or more label maps of equal shape.

        Raises:
            ValueError: If the shapes differ, or a label that is not void lies outside the classes.
        """
        classes = len(self.counts)
        check_label_maps(truth, prediction, classes)
        known = truth != VOID
        pairs = truth[known].astype(np.int64) * classes + prediction[known]
        self.counts += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)

    def add(self, other: "ConfusionMatrix") -> None:
        """Add what another matrix of the same classes has counted."""
        self.counts += other.counts

    def metrics(self) -> Metrics:
        """Compute the metrics of all that was counted."""
        hits = np.diagonal(self.counts).astype(np.float64)
        truth = self.counts.sum(axis=1).astype(np.float64)
        union = truth + self.counts.sum(axis=0) - hits
        with np.errstate(divide="ignore", invalid="ignore"):
            accuracy = hits / truth
            iu = hits / union
            total = truth.sum()
            return Metrics(
                pixel_accuracy=float(hits.sum() / total),
                mean_accuracy=mean_of_defined(accuracy),
                mean_iu=mean_of_defined(iu),
                frequency_weighted_iu=float(np.nansum(truth * iu) / total),
                iu=tuple(iu.tolist()),
            )


def check_label_maps(
    truth: NDArray[np.uint8], prediction: NDArray[np.uint8], num_classes: int
) -> None:
    """Refuse label maps that cannot be compared.

    Raises:
        ValueError: If the shapes differ, or a label that is not void lies outside the classes.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"truth is {truth.shape}, prediction {prediction.shape}")
    known = truth != VOID
    if known.any() and max(truth[known].max(), prediction[known].max()) >= num_classes:
        raise ValueError(f"a label lies outside the {num_classes} classes")


def mean_of_defined(values: NDArray[np.float64]) -> float:
    """Return the mean of all values that are not `nan`; `nan` if there are none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


def json_number(value: float) -> float | None:
    """Return a figure for JSON, rounded to six digits; JSON has no `nan`, so that is null."""
    return None if np.isnan(value) else round(value, 6)
