"""Where a run starts: random weights, an ImageNet classifier, or another checkpoint."""

from dataclasses import dataclass, fields, replace
from http.client import HTTPException
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from app.errors import UsageError
from model import FCN, Architecture, ClassInfo, load_checkpoint
from model.backbones import BACKBONES, CLASSIFIER_HEAD_WIDTH, load_classifier
from model.fcn import CLASSWISE_PREFIXES

NARROW_HEAD: Final = 256
"""Default width of fc6 and fc7 without ImageNet weights: a checkpoint of 43 MB, not 270."""


@dataclass(frozen=True)
class Start:
    """What the user asked for; None leaves the choice to `build_network`.

    Attributes:
        variant: A name from `model.fcn.VARIANTS`.
        backbone: Name of the trunk.
        head_width: Channels of fc6 and fc7.
        head_norm: Whether batch norm follows them.
        learned_upsampling: Whether the 2x deconvolutions are learned.
        alignment: `aligned` or `paper`.
        pretrained: Whether the trunk starts from torchvision's ImageNet weights.
        init_from: A checkpoint to start from.
    """

    variant: str | None = None
    backbone: str | None = None
    head_width: int | None = None
    head_norm: bool | None = None
    learned_upsampling: bool | None = None
    alignment: str | None = None
    pretrained: bool = False
    init_from: Path | None = None


def build_network(
    start: Start, classes: tuple[ClassInfo, ...], *, dropout: float
) -> tuple[FCN, list[str]]:
    """Build the network of a run.

    Returns:
        The network, and lines for the log that say which weights were copied and which not.

    Raises:
        CheckpointError: If `init_from` is no checkpoint.
        UsageError: If ImageNet weights are asked for and cannot be had, or the network cannot
            be built as asked.
    """
    if start.init_from is not None:
        source, card = load_checkpoint(start.init_from)
        shift = card.training.get("logit_shift")
        if shift is not None:
            # To what training had: it would be taken off a second time at the end.
            source.logit_bias.data += torch.tensor(shift)
        net = _build(start, card.architecture, len(classes), dropout)
        return net, _copy_weights(source, net, card.classes, classes)
    name = start.backbone or "vgg16_bn"
    backbone = BACKBONES[name]
    paper_head = start.head_width is None or start.head_width == CLASSIFIER_HEAD_WIDTH
    default = Architecture(
        backbone=name,
        head_width=_default_width(start) if backbone.has_head else None,
        # The classifier's fc6 and fc7 were trained without norms; random ones need them.
        head_norm=name == "vgg16_bn" and not (start.pretrained and paper_head),
    )
    net = _build(start, default, len(classes), dropout)
    if not start.pretrained:
        return net, ["weights: random"]
    if backbone.weights is None:
        known = ", ".join(name for name, each in BACKBONES.items() if each.weights)
        raise UsageError(f"--pretrained: torchvision has no weights for {name}, only for {known}")
    try:
        classifier = backbone.weights()
    except (OSError, RuntimeError, HTTPException) as error:  # also a file cut short: a wrong hash
        raise UsageError(f"--pretrained: torchvision cannot fetch the weights: {error}") from error
    new = [*load_classifier(net.trunk, classifier), "score layers"]
    # The normalisation belongs to the weights: it is what they were trained with.
    net.mean.copy_(torch.tensor(backbone.mean).view(3, 1, 1))
    net.std.copy_(torch.tensor(backbone.std).view(3, 1, 1))
    return net, [f"weights: ImageNet, {name}; newly initialised: {', '.join(new)}"]


def _default_width(start: Start) -> int:
    return CLASSIFIER_HEAD_WIDTH if start.pretrained else NARROW_HEAD


def _build(start: Start, default: Architecture, num_classes: int, dropout: float) -> FCN:
    """Build `default` with everything replaced that the user named."""
    asked = {
        field.name: getattr(start, field.name)
        for field in fields(Architecture)
        if getattr(start, field.name, None) is not None
    }
    try:
        architecture = replace(default, **asked)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return FCN(architecture, num_classes, dropout=dropout)


def _copy_weights(
    source: FCN,
    target: FCN,
    source_classes: tuple[ClassInfo, ...],
    target_classes: tuple[ClassInfo, ...],
) -> list[str]:
    """Copy all that means the same in both networks: of the classes, those of the same name.

    Returns:
        Lines for the log.
    """
    places = {info.name: place for place, info in enumerate(source_classes)}
    known = [info.name for info in target_classes if info.name in places]
    new = [info.name for info in target_classes if info.name not in places]
    of = torch.tensor([places[name] for name in known])
    to = torch.tensor([place for place, info in enumerate(target_classes) if info.name in places])
    theirs, ours = source.state_dict(), target.state_dict()
    copied: list[str] = []
    by_class: list[str] = []
    left: list[str] = []
    for name, tensor in ours.items():
        class_dims = _class_dims(name)
        given = theirs.get(name)
        if (
            given is None
            or given.shape[class_dims:] != tensor.shape[class_dims:]
            or (class_dims and not known)
        ):
            left.append(name)
        elif class_dims:
            tensor[_every(to, class_dims)] = given[_every(of, class_dims)]
            (by_class if new else copied).append(name)
        else:
            tensor.copy_(given)
            copied.append(name)
    lines = [f"weights: copied: {', '.join(_layers(copied)) or 'nothing'}"]
    if by_class:
        lines.append(
            f"weights: copied for {', '.join(known)}, newly initialised for {', '.join(new)}: "
            f"{', '.join(_layers(by_class))}"
        )
    if left:
        lines.append(f"weights: not copied, newly initialised: {', '.join(_layers(left))}")
    return lines


def _every(places: Tensor, dims: int) -> tuple[Tensor, ...]:
    """Return what picks these places of each of a tensor's first `dims` dimensions."""
    return torch.meshgrid(*[places] * dims, indexing="ij")


def _class_dims(name: str) -> int:
    """Return how many of a tensor's dimensions, the first ones, count classes."""
    if not name.startswith(CLASSWISE_PREFIXES):
        return 0
    return 2 if name.startswith("upscore") else 1


def _layers(tensors: list[str]) -> list[str]:
    """Name the layers that tensors belong to, each once; mean and std are their own."""
    return list(dict.fromkeys(name.rpartition(".")[0] or name for name in tensors))
