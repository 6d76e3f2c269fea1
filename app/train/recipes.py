"""Recipes: every number that decides how a network is trained, with defaults by dataset."""

from dataclasses import dataclass, replace
from typing import Any, Final

from app.errors import UsageError


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: Passes over the training photos; 0 for as many as `max_steps` needs.
        max_steps: Optimiser steps after which training ends even so; 0 for no such limit.
        batch_size: Photos a forward, over all processes.
        accumulate: Batches a step: their gradients are added up. As one larger batch, but for
            batch norm and Dice, which see each by itself.
        crop: (height, width) in pixels that a step sees of each photo; None for whole photos.
        scale: Range of the random scale before the crop.
        color_jitter: Strength of random brightness, contrast and saturation.
        flip: Whether photos are mirrored at random.
        distortion: Chance of each of gamma, uneven light, hue, blur and noise.
        balanced_crops: Share of the crops that are laid over a class drawn from the photo's.
        pasting: Share of the photos over which pixels of rare classes from others are laid.
        half_size: Share of the epochs, from the first, in which photos and crops have half their
            size: three such epochs cost as much as one of full size.
        late_scale: Range of the random scale in the epochs after those, if there are any; None
            for `scale`.
        optimizer: `adamw` or `sgd`.
        momentum: Of SGD.
        learning_rate: Its peak.
        bias_rate: What it is multiplied by for biases and norms.
        trunk_rate: What it is multiplied by in the trunk: less than 1 for weights that have
            learned already.
        clip: Largest norm of a step's gradient; longer ones are shortened to it. 0 for no limit.
        schedule: `cosine`: after the warm-up the rate falls as a half cosine. `constant`.
        warmup: Share of the steps in which the rate rises linearly.
        weight_decay: Of kernels; biases and norms have none.
        loss: `mean` over the labelled pixels of a step, or their `sum`.
        class_weighting: c in the class weights 1 / ln(c + frequency) of the ENet paper; the
            larger c, the more equal the weights. 0 for equal weights.
        logit_adjustment: Share of the logarithm of the class weights that is taken off the logits
            of the network that is validated and saved: weights help rare classes to be learnt,
            and make them be seen where they are not.
        label_smoothing: Share of a pixel's target that is spread over all classes.
        dice: Weight of the soft Dice loss that is added.
        auxiliary: Weight of each of the losses at the coarser strides that are added.
        dropout: After fc6 and fc7.
        ema: Decay of the averaged weights that are validated and saved; 0 for none.
        val_every: Epochs from one validation to the next; the last epoch is always validated.
        patience: Epochs without a better val mIoU after which the run ends; 0 for no such end.
    """

    epochs: int = 100
    max_steps: int = 0
    batch_size: int = 8
    accumulate: int = 1
    crop: tuple[int, int] | None = (320, 320)
    scale: tuple[float, float] = (0.75, 1.5)
    color_jitter: float = 0.3
    flip: bool = True
    distortion: float = 0.0
    balanced_crops: float = 0.0
    pasting: float = 0.0
    half_size: float = 0.0
    late_scale: tuple[float, float] | None = None
    optimizer: str = "adamw"
    momentum: float = 0.9
    learning_rate: float = 1e-3
    bias_rate: float = 1.0
    trunk_rate: float = 1.0
    clip: float = 0.0
    schedule: str = "cosine"
    warmup: float = 0.1
    weight_decay: float = 0.01
    loss: str = "mean"
    class_weighting: float = 1.1
    logit_adjustment: float = 0.0
    label_smoothing: float = 0.0
    dice: float = 0.0
    auxiliary: float = 0.0
    dropout: float = 0.5
    ema: float = 0.99
    val_every: int = 1
    patience: int = 0


DEFAULT: Final = Recipe()

RECIPES: Final = {
    "folder": DEFAULT,
    # Found for two CPU cores, by the tables in docs/training.md: small batches, because steps are
    # what a short run lacks most; scales below 1, because a shrunken photo shows a whole scene
    # for the price of a crop; and first all of it at half size, for a third of the price. The
    # last epochs see what thin things look like, and are most like the photos as they are.
    "camvid": replace(
        DEFAULT,
        epochs=64,
        half_size=0.6,
        late_scale=(0.85, 1.6),
        batch_size=4,
        crop=(208, 272),
        scale=(0.55, 1.15),
        color_jitter=0.2,
        distortion=0.15,
        pasting=0.5,
        weight_decay=0.02,
        class_weighting=1.05,
        logit_adjustment=0.5,
        dice=1.0,
        dropout=0.1,
        val_every=10,
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

PAPER: Final = Recipe(
    epochs=0,
    max_steps=100_000,
    batch_size=1,
    crop=None,
    scale=(1.0, 1.0),
    color_jitter=0.0,
    flip=False,
    optimizer="sgd",
    momentum=0.99,
    bias_rate=2.0,
    schedule="constant",
    warmup=0.0,
    weight_decay=5e-4,
    loss="sum",
    class_weighting=0.0,
    ema=0.0,
    val_every=4,
)
"""How the authors trained their released nets (the `solver.prototxt` of fcn.berkeleyvision.org):
whole photos one by one, a loss summed over pixels, and a momentum so heavy that it averages over
100 photos. docs/training.md says what its rates equal under a mean loss."""

PAPER_STAGES: Final[dict[str, dict[str, Any]]] = {
    "fcn32s": {"learning_rate": 1e-10},
    "fcn16s": {"learning_rate": 1e-12},
    "fcn8s": {"learning_rate": 1e-14},
    "fcn8s-atonce": {"learning_rate": 1e-10, "max_steps": 300_000},
}
"""What depends on the variant: 16s starts from 32s, 8s from 16s, at-once from the classifier."""


FINE_TUNED_TRUNK_RATE: Final = 0.1
"""Share of the learning rate for a trunk that comes from a checkpoint: enough to adapt, little
enough to keep what it knows. docs/training.md measures it against random weights."""


def choose_recipe(
    name: str, dataset: str, variant: str | None, *, fine_tuning: bool = False
) -> Recipe:
    """Return the recipe that options choose.

    Args:
        name: `default` or `paper`.
        dataset: Decides the default recipe.
        variant: Decides the paper's rates.
        fine_tuning: Whether the default recipe starts from a checkpoint.

    Raises:
        UsageError: If the variant is needed and not given.
    """
    if name == "default":
        recipe = RECIPES.get(dataset, DEFAULT)
        return replace(recipe, trunk_rate=FINE_TUNED_TRUNK_RATE) if fine_tuning else recipe
    if variant is None:
        raise UsageError("--recipe paper needs --variant: each stage has its own learning rate")
    return replace(PAPER, **PAPER_STAGES[variant])
