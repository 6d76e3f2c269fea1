"""Where a run starts: random weights, an ImageNet classifier, or another checkpoint."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final

from app.cli import UsageError
from model import FCN, Architecture, ClassInfo, load_checkpoint
from model.backbones import VGG16_HEAD_WIDTH, imagenet_classifier, load_classifier
from model.fcn import CLASSWISE_PREFIXES

NARROW_HEAD: Final = 256
"""Default width of fc6 and fc7 without ImageNet weights: a checkpoint of 43 MB, not 270."""


@dataclass(frozen=True)
class Start:
    """What the user asked for; None leaves the choice to `build_network`.

    Attributes:
        variant: `fcn32s`, `fcn16s` or `fcn8s`.
        backbone: Name of the trunk.
        head_width: Channels of fc6 and fc7.
        head_norm: Whether batch norm follows them.
        learned_upsampling: Whether the 2x deconvolutions are learned.
        pretrained: Whether the trunk starts from torchvision's ImageNet weights.
        init_from: A checkpoint to start from.
    """

    variant: str | None = None
    backbone: str | None = None
    head_width: int | None = None
    head_norm: bool | None = None
    learned_upsampling: bool | None = None
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
        UsageError: If ImageNet weights are asked for and cannot be had.
    """
    if start.init_from is not None:
        source, card = load_checkpoint(start.init_from)
        net = FCN(_architecture(start, card.architecture), len(classes), dropout=dropout)
        return net, _copy_weights(source, net, same_classes=card.classes == classes)
    backbone = start.backbone or "vgg16_bn"
    architecture = Architecture(
        backbone=backbone,
        head_width=VGG16_HEAD_WIDTH if start.pretrained else NARROW_HEAD,
        # The classifier's fc6 and fc7 were trained without norms; random ones need them.
        head_norm=backbone == "vgg16_bn" and not start.pretrained,
    )
    net = FCN(_architecture(start, architecture), len(classes), dropout=dropout)
    if not start.pretrained:
        return net, ["weights: random"]
    try:
        classifier = imagenet_classifier(backbone)
    except OSError as error:
        raise UsageError(f"--pretrained: torchvision cannot fetch the weights: {error}") from error
    missing = load_classifier(net.trunk, classifier)
    note = f"weights: ImageNet, {backbone}; random: {', '.join([*missing, 'norms of the head'])}"
    return net, [note if missing else f"weights: ImageNet, {backbone}"]


def _architecture(start: Start, default: Architecture) -> Architecture:
    """Return `default` with everything replaced that the user named."""
    asked = {
        field.name: getattr(start, field.name)
        for field in fields(Architecture)
        if getattr(start, field.name, None) is not None
    }
    return replace(default, **asked)


def _copy_weights(source: FCN, target: FCN, *, same_classes: bool) -> list[str]:
    """Copy every tensor that means the same in both networks."""
    theirs, ours = source.state_dict(), target.state_dict()
    copied, left = [], []
    for name, tensor in ours.items():
        fits = name in theirs and theirs[name].shape == tensor.shape
        if fits and (same_classes or not name.startswith(CLASSWISE_PREFIXES)):
            tensor.copy_(theirs[name])
            copied.append(name)
        else:
            left.append(name)
    lines = [f"weights: {len(copied)} tensors copied"]
    if left:
        lines.append(f"weights: not copied, so newly initialised: {', '.join(left)}")
    return lines
