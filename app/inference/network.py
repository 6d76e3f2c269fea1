"""The network as inference runs it: batch norms folded, one number format, label maps out."""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from model import FCN


class Extras(NamedTuple):
    """What is computed besides label maps; photos share a forward only if it is equal.

    Attributes:
        scores: Mean probability of each class over the pixels it won.
        confidence: Probability of the winning class, at every pixel.
        probabilities: Classes whose probabilities are wanted at every pixel, in this order.
    """

    scores: bool = False
    confidence: bool = False
    probabilities: tuple[int, ...] = ()


NO_EXTRAS = Extras()


class Labelled(NamedTuple):
    """What a batch becomes, on its device.

    Attributes:
        labels: Best class of every pixel, BxHxW uint8.
        scores: BxC fp32, `nan` for classes without any pixel.
        confidence: BxHxW uint8, 255 for certainty.
        probabilities: BxKxHxW fp16, for the K classes of `Extras.probabilities`. Where the best
            class is among them, its probability is above all others: where rounding to 16 bits
            made another one equal, it is the next higher number.
    """

    labels: Tensor
    scores: Tensor | None = None
    confidence: Tensor | None = None
    probabilities: Tensor | None = None


def prepare(net: FCN, dtype: torch.dtype) -> FCN:
    """Return a copy for inference: batch norms folded, channels-last.

    Args:
        net: The network; not changed.
        dtype: Number format of the convolutions.
    """
    return fold_batch_norms(net).cast_convolutions(dtype).to(memory_format=torch.channels_last)


def fold_batch_norms(net: FCN) -> FCN:
    """Return a copy in which every batch norm is folded into the convolution before it.

    In evaluation a batch norm is an affine map of each channel, so the convolution can apply it
    itself: the same numbers but for rounding, and one pass over memory less.
    """
    net = copy.deepcopy(net).eval()
    for parent in list(net.modules()):
        convolution: tuple[str, nn.Conv2d] | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and convolution is not None:
                setattr(parent, convolution[0], fuse_conv_bn_eval(convolution[1], child))
                setattr(parent, name, nn.Identity())
            convolution = (name, child) if isinstance(child, nn.Conv2d) else None
    return net


def logits_of(net: FCN, batch: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Run the network.

    Args:
        net: The network.
        batch: Photos, Bx3xHxW.
        size: (height, width) that logits are interpolated to; the photos' own by default.

    Returns:
        fp32 logits, BxCxHxW, of the photos' size or of `size`.
    """
    logits: Tensor = net(batch)
    if size is not None and size != tuple(logits.shape[-2:]):
        logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    return logits


def label(
    net: FCN,
    batch: Tensor,
    size: tuple[int, int] | None,
    *,
    temperature: float = 1.0,
    extras: Extras = NO_EXTRAS,
) -> Labelled:
    """Run the network and choose the best class of every pixel, all on the batch's device.

    Args:
        net: The network.
        batch: Photos, Bx3xHxW.
        size: As in `logits_of`.
        temperature: What logits are divided by before they become probabilities.
        extras: What to compute besides.
    """
    logits = logits_of(net, batch, size)
    best, labels = logits.max(dim=1)
    if not any(extras):
        return Labelled(labels.to(torch.uint8))
    # Overwritten, because with many classes a copy would be what decides how much memory a photo
    # takes. Softmax is exp(logit - best logit) over its sum, and 1 over it at the best class.
    exponentials = logits.sub_(best.unsqueeze(1)).div_(temperature).exp_()
    probability = exponentials.sum(dim=1).reciprocal()
    return Labelled(
        labels.to(torch.uint8),
        _class_scores(probability, labels, logits.shape[1]) if extras.scores else None,
        probability.mul(255).round_().to(torch.uint8) if extras.confidence else None,
        _probabilities(exponentials, probability, labels, extras.probabilities)
        if extras.probabilities
        else None,
    )


def _class_scores(probability: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the mean probability of each class over the pixels it won, BxC.

    Args:
        probability: Of the best class, BxHxW.
        labels: That class, BxHxW int64.
        classes: Number of classes, C.
    """
    probability = probability.flatten(1).double()
    labels = labels.flatten(1)
    sums = torch.zeros((len(labels), classes), dtype=torch.float64, device=labels.device)
    counts = torch.zeros_like(sums)
    sums.scatter_add_(1, labels, probability)
    counts.scatter_add_(1, labels, torch.ones_like(probability))
    return (sums / counts).float()


def _probabilities(
    exponentials: Tensor, probability: Tensor, labels: Tensor, classes: Sequence[int]
) -> Tensor:
    """Return probabilities in 16 bits, BxKxHxW; see `Labelled`.

    Args:
        exponentials: Of logits above the best one, BxCxHxW.
        probability: Of the best class, BxHxW.
        labels: That class, BxHxW.
        classes: Those that are wanted, K.
    """
    batch, _, height, width = exponentials.shape
    halves = torch.empty(
        (batch, len(classes), height, width), dtype=torch.float16, device=exponentials.device
    )
    best = probability.half()
    tied = torch.zeros_like(best, dtype=torch.bool)
    for place, index in enumerate(classes):
        halves[:, place] = exponentials[:, index] * probability
        tied |= (halves[:, place] == best) & (labels != index)
    # Positive numbers of the format are in the order of their bits.
    raised = torch.where(tied, (best.view(torch.int16) + 1).view(torch.float16), best)
    for place, index in enumerate(classes):
        halves[:, place] = torch.where(labels == index, raised, halves[:, place])
    return halves
