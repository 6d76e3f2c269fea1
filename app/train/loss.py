"""The loss: cross-entropy over labelled pixels, weighted by class."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from model import VOID


def balanced_weights(pixels: np.ndarray[Any, np.dtype[np.int64]], constant: float) -> Tensor:
    """Return the ENet paper's class weights 1 / ln(c + frequency), scaled to a mean of 1.

    Args:
        pixels: Labelled pixels of each class, C values.
        constant: c, above 1; 0 gives equal weights.
    """
    if constant == 0:
        return torch.ones(len(pixels))
    weights = 1 / np.log(constant + pixels / max(1, pixels.sum()))
    return torch.from_numpy(weights / weights.mean()).float()


def logit_shift(weights: Tensor, share: float) -> Tensor:
    """Return what to take off logits, C values, to undo a share of what class weights added.

    Cross-entropy times w has its optimum where the logits are higher by log(w) than without
    weights. (Logit adjustment, Menon et al., "Long-tail learning via logit adjustment", ICLR 2021,
    equation 9, goes the other way: from a network without weights towards a balanced one.)

    Args:
        weights: Of the classes in the loss, C values.
        share: 0 undoes nothing, 1 all of it.
    """
    return share * weights.log()


def summed_loss(logits: Tensor, labels: Tensor, weights: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy summed over labelled pixels, each times the weight of its class.

    Args:
        logits: BxCxHxW.
        labels: BxHxW, integer; 255 is void and counts nowhere.
        weights: C values.
        smoothing: Share of the target that is spread over all classes alike.

    Returns:
        A scalar; 0 where all is void, since then there is nothing to learn.
    """
    return F.cross_entropy(
        logits,
        labels,
        weights,
        ignore_index=VOID,
        reduction="sum",
        label_smoothing=smoothing,
    )


def dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return 1 - the soft Dice coefficient of a batch, averaged over the classes in its labels.

    Each class counts alike, as it does in mean IU, however few pixels it has
    (V-Net, Milletari et al. 2016: 2 sum(p t) / (sum(p^2) + sum(t^2))).

    Args:
        logits: BxCxHxW.
        labels: BxHxW, integer; 255 is void and counts nowhere.

    Returns:
        A scalar from 0 to 1; 0 where all is void.
    """
    known = labels != VOID
    classes = logits.shape[1]
    targets = F.one_hot(labels.where(known, 0), classes).movedim(-1, 1) * known[:, None]
    predicted = logits.softmax(1) * known[:, None]
    over = (0, 2, 3)
    counts = targets.sum(over)
    overlap = (predicted * targets).sum(over)
    dice = 2 * overlap / (predicted.square().sum(over) + counts).clamp_min(1e-6)
    present = counts > 0
    return ((1 - dice) * present).sum() / present.sum().clamp_min(1)


def labelled_weight(labels: Tensor, weights: Tensor) -> Tensor:
    """Return what divides a summed loss into a mean: the labelled pixels, times their weights.

    A step may spread over several batches and processes. Only the sum over all of them is the
    divisor that makes it one batch; a mean of means would favour photos with much void.

    Args:
        labels: BxHxW, integer; 255 is void.
        weights: C values.
    """
    return weights[labels[labels != VOID]].sum()
