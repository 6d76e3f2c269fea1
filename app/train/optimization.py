"""The optimiser of a recipe, its learning rate over time, and averaged weights."""

import math
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from app.train.recipes import Recipe

Tensors = tuple[Tensor, ...] | list[Tensor]

LEARNING_RATE_FLOOR: Final = 1e-3
"""Learning rate at the end, as a share of its peak."""


def learning_rate_factor(step: int, steps: int, warmup: float, schedule: str = "cosine") -> float:
    """Return the learning rate at `step` of `steps` as a share of its peak.

    It rises linearly during the first `warmup` of the steps and then falls as a half cosine, or
    stays, with the `constant` schedule.
    """
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    if schedule == "constant":
        return 1.0
    progress = (step - rising) / max(1, steps - rising)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return LEARNING_RATE_FLOOR + (1 - LEARNING_RATE_FLOOR) * cosine


def build_optimizer(net: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the recipe's optimiser; each group's `rate` is its share of the learning rate.

    Kernels decay, biases and norms do not: decay on them regularises nothing, it only fights the
    statistics.
    """
    groups: dict[tuple[bool, bool], dict[str, Any]] = {}
    for name, parameter in net.named_parameters():
        kernel, trunk = parameter.dim() > 1, name.startswith("trunk.")
        rate = (1.0 if kernel else recipe.bias_rate) * (recipe.trunk_rate if trunk else 1.0)
        decay = recipe.weight_decay if kernel else 0.0
        group = {"params": [], "weight_decay": decay, "rate": rate}
        groups.setdefault((kernel, trunk), group)["params"].append(parameter)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            groups.values(), lr=recipe.learning_rate, momentum=recipe.momentum, fused=True
        )
    return torch.optim.AdamW(groups.values(), lr=recipe.learning_rate, fused=True)


def averaged_weights(net: nn.Module, decay: float) -> AveragedModel:
    """Return a copy of a network that follows it as an exponential moving average.

    The decay rises to `decay` as (1 + n) / (10 + n) over the updates n, as in TensorFlow's
    `ExponentialMovingAverage`: a constant one would keep a third of the first, random weights for
    a hundred steps.
    """

    def average(averaged: Tensors, current: Tensors, updates: int | Tensor) -> None:
        n = int(updates)
        follow = get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))  # type: ignore[no-untyped-call]
        follow(averaged, current, n)

    return AveragedModel(net, multi_avg_fn=average, use_buffers=True)
