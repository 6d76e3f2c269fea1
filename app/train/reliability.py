"""Reliability: how sure a network is of its predictions, and how often they are right.

A network is calibrated if it is right about 80 % of the pixels of which it is 80 % sure, and so on
from 0 to 100. Definitions are those of Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern
Neural Networks", ICML 2017.
"""

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.train.metrics import json_number

BINS: Final = 15
"""Of confidence, of equal width: as many as in Guo et al."""

CHUNK: Final = 2**20
"""Pixels whose probabilities are in memory at once: a photo may have 64 times as many."""


class Reliability:
    """Compares how sure a network is of its predictions with how often they are right.

    Predictions are put into bins of equal width by their confidence, the probability of the
    predicted class. A bin takes its upper edge and not its lower.

    Args:
        bins: How many.

    Attributes:
        counts: Predictions in each bin.
    """

    def __init__(self, bins: int = BINS) -> None:
        self.counts: NDArray[np.int64] = np.zeros(bins, np.int64)
        self._right = np.zeros(bins, np.int64)
        self._confidence = np.zeros(bins)

    def update(self, confidence: NDArray[np.floating[Any]], right: NDArray[np.bool_]) -> None:
        """Count predictions, arrays of equal shape.

        Args:
            confidence: Probability of the predicted class, 0 to 1.
            right: Whether that class is the true one.

        Raises:
            ValueError: If the shapes differ, or a confidence lies outside 0 to 1.
        """
        if confidence.shape != right.shape:
            raise ValueError(f"confidence is {confidence.shape}, right is {right.shape}")
        values = confidence.ravel().astype(np.float64)
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError("a confidence lies outside 0 to 1")
        bins = len(self.counts)
        index = np.clip(np.ceil(values * bins).astype(np.int64) - 1, 0, bins - 1)
        self.counts += np.bincount(index, minlength=bins)
        self._right += np.bincount(index[right.ravel()], minlength=bins)
        self._confidence += np.bincount(index, weights=values, minlength=bins)

    @property
    def confidence(self) -> NDArray[np.float64]:
        """Mean confidence of each bin; `nan` where it is empty."""
        return self._by_count(self._confidence)

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """Share of right predictions of each bin; `nan` where it is empty."""
        return self._by_count(self._right)

    @property
    def mean_confidence(self) -> float:
        """Over all predictions; `nan` without any."""
        return self._over_all(self._confidence)

    @property
    def mean_accuracy(self) -> float:
        """Share of right predictions of all; `nan` without any."""
        return self._over_all(self._right)

    @property
    def expected_calibration_error(self) -> float:
        """Mean over predictions of |accuracy - confidence| of their bin; `nan` without any.

        Equation 3 of Guo et al.: sum over bins of n_b / n |acc_b - conf_b|.
        """
        return self._over_all(np.abs(self._right - self._confidence))

    def _by_count(self, sums: NDArray[Any]) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore"):
            means: NDArray[np.float64] = sums / self.counts
        return means

    def _over_all(self, sums: NDArray[Any]) -> float:
        total = self.counts.sum()
        return float(sums.sum() / total) if total else float("nan")


class ProbabilityMetrics:
    """Measures class probabilities, softmax(logits / temperature), at labelled pixels.

    Attributes:
        reliability: Of the predicted classes.
    """

    def __init__(self) -> None:
        self.reliability = Reliability()
        self._nll = 0.0

    def update(self, logits: Tensor, truth: Tensor, temperature: float) -> None:
        """Add pixels.

        Args:
            logits: CxN, finite.
            truth: Their classes, N int64, none of them void.
            temperature: What the logits are divided by.
        """
        for start in range(0, len(truth), CHUNK):
            values, classes = logits[:, start : start + CHUNK], truth[start : start + CHUNK]
            scaled = (values - values.amax(0)) / temperature
            # The highest is 0 now, so this is minus the log of the highest probability.
            log_sum = scaled.logsumexp(0)
            of_truth = scaled.gather(0, classes[None])[0]
            self._nll += (log_sum - of_truth).sum(dtype=torch.float64).item()
            right = values.argmax(0) == classes
            self.reliability.update((-log_sum).exp().cpu().numpy(), right.cpu().numpy())

    @property
    def nll(self) -> float:
        """Mean negative log likelihood of the true classes, in nats; `nan` without any pixel."""
        pixels = int(self.reliability.counts.sum())
        return self._nll / pixels if pixels else float("nan")

    def to_json(self) -> dict[str, Any]:
        """Return the figures over all pixels."""
        reliability = self.reliability
        return {
            "negative_log_likelihood": json_number(self.nll),
            "expected_calibration_error": json_number(reliability.expected_calibration_error),
            "mean_confidence": json_number(reliability.mean_confidence),
            "pixel_accuracy": json_number(reliability.mean_accuracy),
        }

    def bins_to_json(self) -> list[dict[str, Any]]:
        """Return the figures of each bin, lowest confidence first; undefined ones are null."""
        reliability = self.reliability
        return [
            {
                "pixels": pixels,
                "mean_confidence": json_number(confidence),
                "pixel_accuracy": json_number(accuracy),
            }
            for pixels, confidence, accuracy in zip(
                reliability.counts.tolist(),
                reliability.confidence,
                reliability.accuracy,
                strict=True,
            )
        ]
