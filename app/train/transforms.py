"""Augmentation: what a photo and its labels go through before a training step sees them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from app.train.datasets import LabelledImages, Sample, load_sample
from model import VOID

PADDING_GREY = 128
"""Fill around photos smaller than the crop; the labels there are void."""


class RandomScale(v2.Transform):  # type: ignore[misc]  # torchvision ships no types
    """Resize photo and labels by one random factor, uniform in its logarithm.

    torchvision's ScaleJitter scales towards a fixed size; data of mixed sizes needs a factor of
    each photo's own size.

    Args:
        low: Smallest factor.
        high: Largest factor.
    """

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.range = torch.tensor([low, high]).log()

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw a factor and return the new size, at least one pixel."""
        height, width = functional.get_size(flat_inputs[0])
        low, high = self.range
        factor = float((low + (high - low) * torch.rand(())).exp())
        return {"size": [max(1, round(height * factor)), max(1, round(width * factor))]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize a photo bilinearly (antialiased), labels to the nearest."""
        return functional.resize(inpt, params["size"], antialias=True)


def training_transform(
    crop: tuple[int, int] | None, scale: tuple[float, float], *, color_jitter: float, flip: bool
) -> v2.Transform:
    """Return random scale, crop, flip and colour changes for `tv_tensors`.

    Args:
        crop: (height, width) of the result; smaller photos are padded, their labels with void.
            None for whole photos.
        scale: Range of the random scale.
        color_jitter: Strength of random brightness, contrast and saturation, as in torchvision;
            0 for none.
        flip: Whether to mirror left and right at random.
    """
    steps: list[v2.Transform] = [RandomScale(*scale)]
    if crop is not None:
        fill = {tv_tensors.Image: PADDING_GREY, tv_tensors.Mask: VOID}
        steps.append(v2.RandomCrop(crop, pad_if_needed=True, fill=fill))
    if flip:
        steps.append(v2.RandomHorizontalFlip())
    if color_jitter > 0:
        steps.append(v2.ColorJitter(color_jitter, color_jitter, color_jitter))
    return v2.Compose(steps)


class AugmentedSamples(Dataset[Sample]):
    """Samples keyed by (epoch, index), each augmented by random numbers of its own.

    The numbers depend on seed, epoch and index alone: not on workers, on batch order or on
    where a resumed run begins.

    Args:
        dataset: The samples as they are.
        transform: From `training_transform`.
        seed: Of the run.
    """

    def __init__(self, dataset: LabelledImages, transform: v2.Transform, seed: int) -> None:
        self.dataset = dataset
        self.transform = transform
        self.seed = seed

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """Return photo (3xHxW uint8) and labels (HxW uint8), H and W those of the crop."""
        epoch, index = key
        sample = load_sample(self.dataset, index)
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed: it would reseed CUDA's generators as well.
            torch.default_generator.manual_seed(_mix(self.seed, epoch, index))
            photo, label = self.transform(
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

    A last batch that would be incomplete is filled up from the start of the order: batch norm
    gets equal batches and no sample is left out.
    """
    generator = torch.Generator().manual_seed(_mix(seed, epoch))
    order = torch.randperm(count, generator=generator).tolist()
    batches = -(-count // batch_size)
    keys = [(epoch, order[position % count]) for position in range(batches * batch_size)]
    return [keys[start : start + batch_size] for start in range(0, len(keys), batch_size)]
