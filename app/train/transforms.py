"""Augmentation: what a photo and its labels go through before a training step sees them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from app.train.augmentation import BalancedCrop, Distortion, RandomScale, paste
from app.train.datasets import LabelledImages, Sample, load_sample
from app.train.recipes import Recipe


def training_transform(recipe: Recipe, *, shrink: int = 1) -> v2.Transform:
    """Return a recipe's random scale, crop, flip and changes of colour, for `tv_tensors`.

    Args:
        recipe: Says what; photos smaller than its crop are padded, their labels with void.
        shrink: What photos and crop are divided by, on top of the random scale.
    """
    low, high = recipe.scale
    steps: list[v2.Transform] = [RandomScale(low / shrink, high / shrink)]
    if recipe.crop is not None:
        height, width = (max(1, side // shrink) for side in recipe.crop)
        steps.append(BalancedCrop((height, width), recipe.balanced_crops))
    if recipe.flip:
        steps.append(v2.RandomHorizontalFlip())
    if recipe.color_jitter > 0:
        strength = recipe.color_jitter
        steps.append(v2.ColorJitter(strength, strength, strength))
    if recipe.distortion > 0:
        steps.append(Distortion(recipe.distortion))
    return v2.Compose(steps)


_HALVES_A_WHOLE: Final = 3
"""Epochs at half size that cost as much as one at whole size: 0.46 s and 1.38 s a step, with VGG16
at CamVid's crop on two CPU cores. (A quarter of the pixels, but the weights are as many.)"""


class Schedule:
    """The recipe's augmentation, epoch by epoch.

    Args:
        recipe: Says what.
        epochs: How many there are in all.
    """

    def __init__(self, recipe: Recipe, epochs: int) -> None:
        self._half_size_epochs = round(recipe.half_size * epochs)
        late_scale = recipe.late_scale if self._half_size_epochs else None
        self._whole = training_transform(replace(recipe, scale=late_scale or recipe.scale))
        self._half = training_transform(recipe, shrink=2)

    def __call__(self, epoch: int) -> v2.Transform:
        """Return what the photos of an epoch, from 0, go through."""
        return self._half if epoch < self._half_size_epochs else self._whole

    def work(self, epochs: float) -> float:
        """Return what so many epochs, from the first, cost: in epochs of whole size."""
        halves = min(epochs, self._half_size_epochs)
        return epochs - halves + halves / _HALVES_A_WHOLE


@dataclass(frozen=True)
class Pasting:
    """Pixels of rare classes that are laid over other photos.

    Attributes:
        chance: Share of the samples that get any.
        classes: Which classes.
    """

    chance: float
    classes: tuple[int, ...]


def rare_classes(pixels: NDArray[np.int64]) -> tuple[int, ...]:
    """Return the classes with fewer pixels than the median class, but some.

    Args:
        pixels: Labelled pixels of each class, C values.
    """
    return tuple(np.flatnonzero((pixels > 0) & (pixels < np.median(pixels))).tolist())


class AugmentedSamples(Dataset[Sample]):
    """Samples keyed by (epoch, index), each augmented by random numbers of its own.

    The numbers depend on seed, epoch and index alone: not on workers, on batch order or on
    where a resumed run begins.

    Args:
        dataset: The samples as they are.
        transform: Of an epoch, as from `training_transform`.
        seed: Of the run.
        pasting: What is laid over the samples; None for nothing.
    """

    def __init__(
        self,
        dataset: LabelledImages,
        transform: Callable[[int], v2.Transform],
        seed: int,
        pasting: Pasting | None = None,
    ) -> None:
        self.dataset = dataset
        self.transform = transform
        self.seed = seed
        self.pasting = pasting

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """Return photo (3xHxW uint8) and labels (HxW uint8), H and W those of the crop.

        Indices past the end mean the same photos once more, seen otherwise.
        """
        epoch, index = key
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed: it would reseed CUDA's generators as well.
            torch.default_generator.manual_seed(_mix(self.seed, epoch, index))
            sample = self._augmented(epoch, index % len(self.dataset))
            if self.pasting and torch.rand(()) < self.pasting.chance:
                other = int(torch.randint(len(self.dataset), ()))
                above = self._augmented(epoch, other)
                sample = Sample(*paste(sample, above, self.pasting.classes))
        return sample

    def _augmented(self, epoch: int, index: int) -> Sample:
        sample = load_sample(self.dataset, index)
        photo, label = self.transform(epoch)(
            tv_tensors.Image(sample.photo), tv_tensors.Mask(sample.label)
        )
        return Sample(photo.as_subclass(Tensor), label.as_subclass(Tensor))


def _mix(*numbers: int) -> int:
    """Return a 32-bit seed that depends on all of the numbers; torch uses no more bits."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def epoch_batches(
    count: int, batch_size: int, *, epoch: int, seed: int
) -> Sequence[list[tuple[int, int]]]:
    """Return the batches of one epoch as keys of `AugmentedSamples`, in a random order.

    A last batch that would be incomplete is filled up from the start of the order, with indices
    past the end: batch norm gets equal batches, no sample is left out, and none is there twice as
    the same picture.
    """
    generator = torch.Generator().manual_seed(_mix(seed, epoch))
    order = torch.randperm(count, generator=generator).tolist()
    batches = -(-count // batch_size)
    rounds = [divmod(position, count) for position in range(batches * batch_size)]
    keys = [(epoch, order[place] + repeated * count) for repeated, place in rounds]
    return [keys[start : start + batch_size] for start in range(0, len(keys), batch_size)]
