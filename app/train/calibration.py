"""The temperature by which logits are divided so that probabilities come true.

Dividing moves no maximum: masks stay what they are, only how sure the network says it is changes.
The method is temperature scaling, section 4.2 of Guo, Pleiss, Sun and Weinberger, "On
Calibration of Modern Neural Networks", ICML 2017.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from scipy.optimize import brentq
from torch import Tensor

from app.cli import follow
from app.errors import UsageError
from app.train.reliability import ProbabilityMetrics
from app.train.samples import LabelledImages, check_sizes, place
from model import VOID, Card

MIN_TEMPERATURE: Final = 0.05
MAX_TEMPERATURE: Final = 20.0
"""Temperatures that are looked at. Networks lie near 1; pixels that are all right, or right no more
often than by chance, would ask for zero or infinity."""

PIXELS_PER_PHOTO: Final = 4096
"""Pixels of each photo that a temperature is fitted to: neighbours tell little that is new."""

MAX_SAMPLED: Final = 2**22
"""Logits that are kept of a whole split, 16 MiB; with more photos each gives fewer pixels."""

Logits = Callable[[int], Tensor]
"""Index of a sample -> the network's logits, CxHxW fp32 of the photo's size, on any device."""


def fit_temperature(logits: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]]) -> float:
    """Return the T that minimises the mean negative log likelihood of softmax(logits / T).

    The likelihood is concave in 1/T, so the root of its derivative is the one maximum. All
    arithmetic is in 64 bits; equal input gives equal output.

    Args:
        logits: NxC, finite.
        labels: The pixels' classes, N; 255 is void and not looked at.

    Returns:
        A number from `MIN_TEMPERATURE` to `MAX_TEMPERATURE`; 1 if no pixel is labelled.
    """
    known = labels != VOID
    classes = labels[known].astype(np.int64)
    if not classes.size:
        return 1.0
    values = logits[known].astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    of_truth = values[np.arange(len(classes)), classes].mean()

    def slope(inverse: float) -> float:
        """Return the derivative by 1/T: mean expected logit minus mean logit of the truth."""
        weights = np.exp(inverse * values)
        expected = (weights * values).sum(axis=1) / weights.sum(axis=1)
        return float(expected.mean() - of_truth)

    low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    if slope(low) >= 0:
        return MAX_TEMPERATURE
    if slope(high) <= 0:
        return MIN_TEMPERATURE
    return float(1 / brentq(slope, low, high, xtol=1e-9))


class PixelSamples:
    """Some labelled pixels of every photo, to fit a temperature to.

    Every photo gives as many, whatever its size, or all that it has. Which they are depends on
    its index alone, so that a repeated measurement gives the same temperature.

    Args:
        dataset: The photos.
    """

    def __init__(self, dataset: LabelledImages) -> None:
        self._dataset = dataset
        share = MAX_SAMPLED // (len(dataset) * len(dataset.classes))
        self._pixels = max(1, min(PIXELS_PER_PHOTO, share))
        self._logits: dict[int, NDArray[np.float32]] = {}
        self._labels: dict[int, NDArray[np.int64]] = {}

    def add(self, index: int, logits: Tensor) -> None:
        """Take the pixels of a photo from its logits, CxHxW.

        Raises:
            UsageError: As `labelled_pixels`.
        """
        values, truth = labelled_pixels(self._dataset, index, logits)
        generator = np.random.default_rng(index)
        count = min(len(truth), self._pixels)
        chosen = torch.from_numpy(generator.choice(len(truth), count, replace=False))
        chosen = chosen.to(values.device)
        self._logits[index] = values[:, chosen].T.cpu().numpy()
        self._labels[index] = truth[chosen].cpu().numpy()

    def predictor(self, logits: Logits) -> Callable[[int], NDArray[np.uint8]]:
        """Return what gives a photo's label map, HxW, and takes its pixels on the way."""

        def predict(index: int) -> NDArray[np.uint8]:
            values = logits(index)
            self.add(index, values)
            label_map: NDArray[np.uint8] = values.argmax(0).to(torch.uint8).cpu().numpy()
            return label_map

        return predict

    def temperature(self, indices: Iterable[int]) -> float:
        """Fit a temperature to the pixels of some photos; four digits are told apart."""
        taken = [index for index in indices if index in self._labels]
        if not taken:
            return 1.0
        logits = np.concatenate([self._logits[index] for index in taken])
        labels = np.concatenate([self._labels[index] for index in taken])
        return round(fit_temperature(logits, labels), 4)


def labelled_pixels(dataset: LabelledImages, index: int, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits, CxN, and true classes, N int64, of a photo's pixels that are not void.

    Args:
        dataset: The photos.
        index: Which of them.
        logits: Its logits, CxHxW.

    Raises:
        UsageError: If photo and label map differ in size, or a logit is not finite.
    """
    label = dataset.label(index)
    check_sizes(dataset, index, tuple(logits.shape[1:]), label.shape)
    truth = torch.from_numpy(label).to(logits.device)
    known = truth != VOID
    values = logits[:, known]
    if not values.isfinite().all():
        raise UsageError(
            f"{place(dataset, index)}: the network's answer is not finite, so it knows nothing"
        )
    return values, truth[known].long()


@dataclass(frozen=True)
class Calibration:
    """What a temperature does for a network, and which one to use.

    Attributes:
        temperature: Fitted to all photos; 1 if temperatures raise the negative log likelihood of
            photos that they were not fitted to.
        before: All labelled pixels at temperature 1.
        after: The same, each photo at the temperature that was fitted to the other half.
        halves: These temperatures: of photos 0, 2, 4 ... and of photos 1, 3, 5 ...
        photos: How many.
    """

    temperature: float
    before: ProbabilityMetrics
    after: ProbabilityMetrics
    halves: tuple[float, float]
    photos: int

    @property
    def helps(self) -> bool:
        """Whether temperatures lower the negative log likelihood of photos not fitted to."""
        return self.after.nll < self.before.nll

    def completed(self, card: Card, source: Mapping[str, str]) -> Card:
        """Return a checkpoint's card with the temperature and the figures.

        Args:
            card: Of the network that was measured.
            source: Where the photos are from: `dataset` and `split`.
        """
        training = {**card.training, "calibration": {**source, **self.to_json()}}
        return dataclasses.replace(card, training=training, temperature=self.temperature)

    def summary(self) -> str:
        """Return the result in one line."""
        errors = [
            metrics.reliability.expected_calibration_error for metrics in (self.before, self.after)
        ]
        line = f"expected calibration error {errors[0]:.4f}, held out {errors[1]:.4f}"
        line += f", temperature {self.temperature:g}"
        return line if self.helps else f"{line}: no other does better"

    def table(self) -> list[tuple[str, float, float]]:
        """Return the name of each figure, its value before and after."""
        before, after = self.before.reliability, self.after.reliability
        return [
            ("negative log likelihood", self.before.nll, self.after.nll),
            (
                "expected calibration error",
                before.expected_calibration_error,
                after.expected_calibration_error,
            ),
            ("mean confidence", before.mean_confidence, after.mean_confidence),
            ("pixel accuracy", before.mean_accuracy, after.mean_accuracy),
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON values, without the bins."""
        return {
            "photos": self.photos,
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "temperature_of_halves": list(self.halves),
        }


def calibrate(
    logits: Logits,
    dataset: LabelledImages,
    console: Console,
    samples: PixelSamples | None = None,
) -> Calibration:
    """Find the temperature of a network and measure what it does on photos it was not fitted to.

    The temperature of every second photo is judged on the others and the other way round. One
    for use is fitted to all photos, but only if that lowers the mean negative log likelihood.

    Args:
        logits: The network's, before any temperature.
        dataset: Labelled photos that the network was not trained on.
        console: Where progress goes.
        samples: Pixels of every photo if a pass over them has taken them already; otherwise one
            more pass does. No more than these is kept in memory.

    Raises:
        UsageError: If a file cannot be read, sizes differ, a logit is not finite, or no pixel of
            the split is labelled.
    """
    indices = range(len(dataset))
    if samples is None:
        samples = PixelSamples(dataset)
        for index in follow(indices, "fitting", console):
            samples.add(index, logits(index))
    halves = (samples.temperature(indices[::2]), samples.temperature(indices[1::2]))
    before, after = ProbabilityMetrics(), ProbabilityMetrics()
    for index in follow(indices, "calibrating", console):
        values, truth = labelled_pixels(dataset, index, logits(index))
        before.update(values, truth, 1.0)
        after.update(values, truth, halves[1 - index % 2])
    if not before.reliability.counts.any():
        raise UsageError("no pixel of the split is labelled: everything is void")
    calibration = Calibration(1.0, before, after, halves, len(dataset))
    if not calibration.helps:
        return calibration
    return dataclasses.replace(calibration, temperature=samples.temperature(indices))
