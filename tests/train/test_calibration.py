"""Temperatures of made-up networks whose right one is known."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from app.errors import UsageError
from app.train import calibration
from app.train.calibration import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    Calibration,
    PixelSamples,
    calibrate,
    fit_temperature,
)
from app.train.reliability import ProbabilityMetrics
from model import VOID, Architecture, Card, named_classes

CONSOLE = Console(quiet=True)
HEIGHT, WIDTH = 24, 40


class Guesses:
    """Photos whose labels are drawn from a network's own probabilities, at a temperature each.

    Logits come from the index, so that every pass sees the same.

    Args:
        temperatures: The right one of each photo.
    """

    def __init__(self, *temperatures: float) -> None:
        self.temperatures = temperatures
        self.classes = named_classes(["a", "b", "c"])
        self.names = [f"{index}.png" for index in range(len(temperatures))]
        self.void_rows = 3
        self.passes: list[int] = []

    def __len__(self) -> int:
        return len(self.temperatures)

    def logits(self, index: int) -> Tensor:
        self.passes.append(index)
        generator = torch.Generator().manual_seed(index)
        return 3 * torch.randn((3, HEIGHT, WIDTH), generator=generator)

    def label(self, index: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(index)
        logits = 3 * torch.randn((3, HEIGHT, WIDTH), generator=generator)
        probabilities = (logits / self.temperatures[index]).softmax(0).flatten(1).T
        drawn = torch.multinomial(probabilities, 1, generator=generator)
        label = drawn.view(HEIGHT, WIDTH).numpy().astype(np.uint8)
        label[: self.void_rows] = VOID
        return label


def measure(guesses: Guesses, samples: PixelSamples | None = None) -> Calibration:
    return calibrate(guesses.logits, guesses, CONSOLE, samples)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_the_temperature_that_labels_were_drawn_at_is_found(temperature: float) -> None:
    """Logits of T ln 3 and 0, and three labels of four say the first: 3/4 is right at T."""
    logits = np.tile([temperature * math.log(3), 0.0], (4, 1))
    assert fit_temperature(logits, np.array([0, 0, 1, 0])) == pytest.approx(temperature, rel=1e-6)


def test_a_constant_added_to_all_logits_of_a_pixel_changes_nothing() -> None:
    random = np.random.default_rng(0)
    logits, labels = random.normal(0, 3, (50, 4)), random.integers(0, 4, 50)
    shifted = logits + random.normal(0, 1e4, (50, 1))
    assert fit_temperature(shifted, labels) == pytest.approx(fit_temperature(logits, labels))


def test_it_has_the_least_negative_log_likelihood() -> None:
    torch.manual_seed(0)
    logits, labels = 4 * torch.randn(200, 5), torch.randint(0, 5, (200,))
    labels[:120] = logits[:120].argmax(1)
    best = fit_temperature(logits.numpy(), labels.numpy())
    assert MIN_TEMPERATURE < best < MAX_TEMPERATURE

    def nll(temperature: float) -> float:
        loss = torch.nn.functional.cross_entropy(logits.double() / temperature, labels)
        return loss.item()

    assert nll(best) < min(nll(0.99 * best), nll(1.01 * best))


def test_void_is_not_looked_at() -> None:
    logits = np.array([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [900.0, -900.0]])
    labels = np.array([0, 0, 1, VOID])
    assert fit_temperature(logits, labels) == fit_temperature(logits[:3], labels[:3])
    assert fit_temperature(logits, np.full(4, VOID)) == 1


@pytest.mark.parametrize(("label", "limit"), [(0, MIN_TEMPERATURE), (1, MAX_TEMPERATURE)])
def test_always_right_and_always_wrong_end_at_the_limits(label: int, limit: float) -> None:
    assert fit_temperature(np.tile([5.0, 0.0], (3, 1)), np.full(3, label)) == limit


@pytest.mark.parametrize(("right", "cooler"), [(3.0, False), (0.4, True)])
def test_a_network_too_sure_or_not_sure_enough_gets_its_temperature(
    right: float, cooler: bool
) -> None:
    found = measure(Guesses(*[right] * 6))
    assert found.temperature == pytest.approx(right, rel=0.05)
    assert (found.temperature < 1) is cooler
    assert found.helps
    assert found.photos == 6
    assert found.after.nll < found.before.nll
    errors = [m.reliability.expected_calibration_error for m in (found.before, found.after)]
    assert errors[1] < 0.03 < 0.1 < errors[0]
    difference = found.before.reliability.mean_confidence - found.before.reliability.mean_accuracy
    assert (difference < 0) is cooler
    # Dividing changes no prediction.
    assert found.after.reliability.mean_accuracy == found.before.reliability.mean_accuracy


def test_each_photo_is_judged_at_the_temperature_of_the_other_half() -> None:
    guesses = Guesses(3.0, 0.5, 3.0, 0.5)
    found = measure(guesses)
    assert found.halves == (pytest.approx(3.0, rel=0.1), pytest.approx(0.5, rel=0.1))
    expected = ProbabilityMetrics()
    for index in range(4):
        truth = torch.from_numpy(guesses.label(index)).long()
        known = truth != VOID
        expected.update(guesses.logits(index)[:, known], truth[known], found.halves[1 - index % 2])
    assert found.after.nll == pytest.approx(expected.nll)


def test_a_temperature_that_others_do_not_confirm_is_not_kept() -> None:
    found = measure(Guesses(3.0, 0.5, 3.0, 0.5))
    assert found.after.nll > found.before.nll
    assert not found.helps
    assert found.temperature == 1
    assert "temperature 1: no other does better" in found.summary()


def test_one_photo_alone_confirms_nothing() -> None:
    found = measure(Guesses(3.0))
    assert found.temperature == 1
    assert found.after.nll == found.before.nll


def test_all_labelled_pixels_are_counted_and_no_void() -> None:
    found = measure(Guesses(2.0, 2.0))
    for metrics in (found.before, found.after):
        assert metrics.reliability.counts.sum() == 2 * (HEIGHT - 3) * WIDTH


def test_a_split_of_void_is_refused() -> None:
    guesses = Guesses(1.0, 1.0)
    guesses.void_rows = HEIGHT
    with pytest.raises(UsageError, match="everything is void"):
        measure(guesses)


def test_what_is_not_finite_is_refused_with_the_photos_name() -> None:
    guesses = Guesses(1.0, 1.0)

    def logits(index: int) -> Tensor:
        return guesses.logits(index) / (1 - index)

    with pytest.raises(UsageError, match=r"1\.png: .* not finite"):
        calibrate(logits, guesses, CONSOLE)


def test_a_photo_of_another_size_is_refused() -> None:
    guesses = Guesses(1.0)
    with pytest.raises(UsageError, match=r"0\.png is 40x20, its label map is 40x24"):
        calibrate(lambda index: guesses.logits(index)[:, :20], guesses, CONSOLE)


def test_samples_of_an_earlier_pass_save_one_and_change_nothing() -> None:
    guesses = Guesses(2.0, 2.0, 2.0)
    alone = measure(guesses)
    assert guesses.passes == [0, 1, 2] * 2
    guesses.passes.clear()
    samples = PixelSamples(guesses)
    predict = samples.predictor(guesses.logits)
    for index in (2, 0, 1):
        assert np.array_equal(predict(index), guesses.logits(index).argmax(0).numpy())
    guesses.passes.clear()
    shared = measure(guesses, samples)
    assert guesses.passes == [0, 1, 2]
    assert shared.temperature == alone.temperature
    assert shared.to_json() == alone.to_json()


@pytest.mark.parametrize(
    ("limits", "pixels"),
    [({"PIXELS_PER_PHOTO": 50}, 50), ({"MAX_SAMPLED": 2 * 3 * 30}, 30), ({"MAX_SAMPLED": 1}, 1)],
)
def test_what_is_kept_does_not_grow_with_photos_or_split(
    monkeypatch: pytest.MonkeyPatch, limits: dict[str, int], pixels: int
) -> None:
    for name, value in limits.items():
        monkeypatch.setattr(calibration, name, value)
    seen = []
    fit = calibration.fit_temperature

    def watch(logits: np.ndarray, labels: np.ndarray) -> float:
        seen.append(len(labels))
        assert logits.shape == (len(labels), 3)
        return fit(logits, labels)

    monkeypatch.setattr(calibration, "fit_temperature", watch)
    found = measure(Guesses(3.0, 3.0))
    assert seen[:2] == [pixels, pixels]
    # Whatever the fit is made of, all pixels are judged.
    assert found.before.reliability.counts.sum() == 2 * (HEIGHT - 3) * WIDTH


def test_the_card_gets_temperature_and_figures_beside_what_it_has() -> None:
    found = measure(Guesses(3.0, 3.0))
    card = Card("net", Architecture(), named_classes(["a", "b", "c"]), {"val": {"mean_iu": 0.5}})
    completed = found.completed(card, {"dataset": "folder", "split": "val"})
    assert completed.temperature == found.temperature > 1
    assert completed.training["val"] == {"mean_iu": 0.5}
    told = completed.training["calibration"]
    assert (told["dataset"], told["split"], told["photos"]) == ("folder", "val", 2)
    assert told["after"]["negative_log_likelihood"] < told["before"]["negative_log_likelihood"]
    assert dataclasses.replace(completed, temperature=1.0, training=card.training) == card
    assert found.completed(completed, {"dataset": "folder", "split": "val"}) == completed
