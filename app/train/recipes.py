"""Recipes: every number that decides how a network is trained, with defaults by dataset."""

from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: Passes over the training photos.
        max_steps: Optimiser steps after which training ends even so; 0 for no such limit.
        batch_size: Photos a step.
        crop: (height, width) in pixels that a step sees of each photo.
        scale: Range of the random scale before the crop.
        color_jitter: Strength of random brightness, contrast and saturation.
        flip: Whether photos are mirrored at random.
        learning_rate: Peak of AdamW's learning rate.
        warmup: Share of the steps in which the rate rises linearly; then it falls as a cosine.
        weight_decay: Of kernels; biases and norms have none.
        class_weighting: c in the class weights 1 / ln(c + frequency) of the ENet paper; the
            larger c, the more equal the weights. 0 for equal weights.
        dropout: After fc6 and fc7.
        ema: Decay of the averaged weights that are validated and saved; 0 for none.
        val_every: Epochs from one validation to the next; the last epoch is always validated.
    """

    epochs: int = 100
    max_steps: int = 0
    batch_size: int = 8
    crop: tuple[int, int] = (320, 320)
    scale: tuple[float, float] = (0.75, 1.5)
    color_jitter: float = 0.3
    flip: bool = True
    learning_rate: float = 1e-3
    warmup: float = 0.1
    weight_decay: float = 0.01
    class_weighting: float = 1.1
    dropout: float = 0.5
    ema: float = 0.99
    val_every: int = 1


DEFAULT: Final = Recipe()

RECIPES: Final = {
    "folder": DEFAULT,
    # Found for two CPU cores: small batches, because steps are what a short run lacks most, and
    # scales below 1, because a shrunken photo shows a whole scene for the price of a crop.
    "camvid": replace(
        DEFAULT,
        epochs=30,
        batch_size=4,
        crop=(208, 272),
        scale=(0.55, 1.15),
        color_jitter=0.2,
        weight_decay=0.02,
        class_weighting=1.05,
        dropout=0.1,
        val_every=5,
    ),
    "shapes": replace(
        DEFAULT,
        epochs=8,
        crop=(64, 96),
        scale=(0.9, 1.1),
        color_jitter=0.1,
        dropout=0.1,
        val_every=4,
    ),
}
