"""Where a run starts: random weights, an ImageNet classifier, or another checkpoint."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final

from app.errors import UsageError
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
        UsageError: If ImageNet weights are asked for and cannot be had, or the network cannot
            be built as asked.
    """
    if start.init_from is not None:
        source, card = load_checkpoint(start.init_from)
        net = _build(start, card.architecture, len(classes), dropout)
        same_classes = [info.name for info in card.classes] == [info.name for info in classes]
        return net, _copy_weights(source, net, same_classes=same_classes)
    backbone = start.backbone or "vgg16_bn"
    paper_head = start.head_width is None or start.head_width == VGG16_HEAD_WIDTH
    default = Architecture(
        backbone=backbone,
        head_width=VGG16_HEAD_WIDTH if start.pretrained else NARROW_HEAD,
        # The classifier's fc6 and fc7 were trained without norms; random ones need them.
        head_norm=backbone == "vgg16_bn" and not (start.pretrained and paper_head),
    )
    net = _build(start, default, len(classes), dropout)
    if not start.pretrained:
        return net, ["weights: random"]
    try:
        classifier = imagenet_classifier(backbone)
    except OSError as error:
        raise UsageError(f"--pretrained: torchvision cannot fetch the weights: {error}") from error
    new = [*load_classifier(net.trunk, classifier), "score layers"]
    return net, [f"weights: ImageNet, {backbone}; newly initialised: {', '.join(new)}"]


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
    lines = [f"weights: copied: {', '.join(_layers(copied)) or 'nothing'}"]
    if left:
        lines.append(f"weights: not copied, newly initialised: {', '.join(_layers(left))}")
    return lines


def _layers(tensors: list[str]) -> list[str]:
    """Name the layers that tensors belong to, each once; mean and std are their own."""
    return list(dict.fromkeys(name.rpartition(".")[0] or name for name in tensors))
