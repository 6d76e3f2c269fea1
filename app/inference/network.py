"""The network as inference runs it: batch norms folded, one number format, label maps out."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from model import FCN


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
    net: FCN, batch: Tensor, size: tuple[int, int] | None, *, temperature: float | None
) -> tuple[Tensor, Tensor | None]:
    """Run the network and choose the best class of every pixel, all on the batch's device.

    Args:
        net: The network.
        batch: Photos, Bx3xHxW.
        size: As in `logits_of`.
        temperature: What logits are divided by before they become probabilities; None if no
            scores are wanted.

    Returns:
        Label maps, BxHxW uint8, and the mean probability of each class over the pixels it won,
        BxC fp32, `nan` for classes without any; None without a temperature.
    """
    logits = logits_of(net, batch, size)
    best, labels = logits.max(dim=1)
    scores = None if temperature is None else _class_scores(logits, best, labels, temperature)
    return labels.to(torch.uint8), scores


def _class_scores(logits: Tensor, best: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return the mean probability of each class over the pixels it won, BxC.

    Args:
        logits: BxCxHxW; overwritten, because with many classes a copy would be what decides how
            much memory a photo takes.
        best: Highest of them at each pixel, BxHxW.
        labels: Its class, BxHxW.
        temperature: What logits are divided by.
    """
    # softmax at the best class: 1 / sum of exp(logit - best logit).
    exponentials = logits.sub_(best.unsqueeze(1)).div_(temperature).exp_()
    probability = exponentials.sum(dim=1).reciprocal().flatten(1).double()
    labels = labels.flatten(1)
    sums = torch.zeros(logits.shape[:2], dtype=torch.float64, device=logits.device)
    counts = torch.zeros_like(sums)
    sums.scatter_add_(1, labels, probability)
    counts.scatter_add_(1, labels, torch.ones_like(probability))
    return (sums / counts).float()
