import math

import numpy as np
import pytest
import torch

from app.train.reliability import BINS, ProbabilityMetrics, Reliability


def array(*values: float) -> np.ndarray:
    return np.array(values)


def test_the_error_by_hand() -> None:
    """Four bins: one of three predictions, one of one, two empty."""
    reliability = Reliability(4)
    reliability.update(array(0.8, 0.9), np.array([True, False]))
    reliability.update(array(0.4, 1.0), np.array([True, True]))
    assert reliability.counts.tolist() == [0, 1, 0, 3]
    assert reliability.confidence.tolist() == pytest.approx(
        [math.nan, 0.4, math.nan, 0.9], nan_ok=True
    )
    assert reliability.accuracy.tolist() == pytest.approx(
        [math.nan, 1, math.nan, 2 / 3], nan_ok=True
    )
    error = 1 / 4 * (1 - 0.4) + 3 / 4 * (0.9 - 2 / 3)
    assert reliability.expected_calibration_error == pytest.approx(error)
    assert reliability.mean_confidence == pytest.approx(3.1 / 4)
    assert reliability.mean_accuracy == 3 / 4


def test_bins_are_of_equal_width_and_take_their_upper_edge() -> None:
    reliability = Reliability()
    middles = (np.arange(BINS) + 0.5) / BINS
    reliability.update(np.append(middles, [0.0, 1.0]), np.ones(BINS + 2, np.bool_))
    assert reliability.counts.tolist() == [2, *[1] * (BINS - 2), 2]
    halves = Reliability(2)
    halves.update(array(0.5, 0.5000001), np.array([True, True]))
    assert halves.counts.tolist() == [1, 1]


def test_gaps_of_opposite_sign_do_not_cancel() -> None:
    """Right on average, and wrong about each half."""
    reliability = Reliability(2)
    reliability.update(array(0.4, 0.6), np.array([True, False]))
    assert reliability.mean_confidence == reliability.mean_accuracy == 0.5
    assert reliability.expected_calibration_error == pytest.approx(0.6)


def test_nothing_counted_is_undefined() -> None:
    reliability = Reliability()
    for value in (
        reliability.expected_calibration_error,
        reliability.mean_confidence,
        reliability.mean_accuracy,
        ProbabilityMetrics().nll,
    ):
        assert math.isnan(value)
    assert ProbabilityMetrics().to_json()["negative_log_likelihood"] is None


@pytest.mark.parametrize("confidence", [array(0.5), array(0.5, 1.1), array(0.5, math.nan)])
def test_what_is_no_confidence_is_refused(confidence: np.ndarray) -> None:
    with pytest.raises(ValueError, match="confidence"):
        Reliability().update(confidence, np.array([True, False]))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_probabilities_are_those_of_the_divided_logits(
    temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.train.reliability.CHUNK", 7)  # the last one is not full
    torch.manual_seed(0)
    logits, truth = 5 * torch.randn(4, 30), torch.randint(0, 4, (30,))
    metrics = ProbabilityMetrics()
    metrics.update(logits, truth, temperature)
    probabilities = (logits.double() / temperature).softmax(0)
    of_truth = probabilities.gather(0, truth[None])
    assert metrics.nll == pytest.approx(-of_truth.log().mean().item(), rel=1e-5)
    confidence, predicted = probabilities.max(0)
    assert metrics.reliability.mean_confidence == pytest.approx(confidence.mean().item(), rel=1e-5)
    assert metrics.reliability.mean_accuracy == (predicted == truth).double().mean().item()
    assert sum(entry["pixels"] for entry in metrics.bins_to_json()) == 30


def test_large_logits_stay_finite() -> None:
    metrics = ProbabilityMetrics()
    metrics.update(torch.tensor([[3000.0, 0.0], [0.0, 3000.0]]), torch.tensor([0, 0]), 1.0)
    assert metrics.nll == pytest.approx(1500)
    assert metrics.reliability.mean_confidence == 1
