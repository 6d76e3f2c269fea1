"""Fully convolutional trunks: a classifier without its last layer, any input size.

A trunk maps a normalised image to feature maps by stride. Its layers bear the paper's names,
so that a checkpoint's tensors read `trunk.stage1.conv1_1.weight`, `trunk.fc6.weight` ...
"""

import functools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models import (
    AlexNet_Weights,
    GoogLeNet_Weights,
    VGG16_BN_Weights,
    VGG16_Weights,
    alexnet,
    googlenet,
    vgg16,
    vgg16_bn,
)

from model.caffenet import CaffeNet
from model.convolutionalize import Classifier, convolutionalize
from model.geometry import PAPER_PADDING, Grid, Window, least_padding, windows

CLASSIFIER_HEAD_WIDTH: Final = 4096
"""Channels of fc6 and fc7 in the classifiers, and in the paper's networks."""

IMAGENET_MEAN: Final = (0.485 * 255, 0.456 * 255, 0.406 * 255)
IMAGENET_STD: Final = (0.229 * 255, 0.224 * 255, 0.225 * 255)
"""Statistics of ImageNet in 0..255, red, green, blue: what torchvision's weights expect."""


class Tap(NamedTuple):
    """A map that scores are read from.

    Attributes:
        name: The map's name in the paper; score layers are named after it.
        after: The trunk's layer whose output it is.
        channels: Of the map; None where it is the head's width.
    """

    name: str
    after: str
    channels: int | None


@dataclass(frozen=True)
class Backbone:
    """How to get a trunk from a classifier.

    Attributes:
        classifier: Builds the classifier, with random weights.
        taps: Its maps, by stride.
        weights: Builds it with torchvision's ImageNet weights; None if there are none.
        mean: Mean of the input that those weights expect, 0..255, red, green, blue.
        std: Its standard deviation.
        batch_norm: Whether it has batch norm.
    """

    classifier: Callable[[], Classifier]
    taps: dict[int, Tap]
    weights: Callable[[], Classifier] | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    batch_norm: bool = False

    @property
    def has_head(self) -> bool:
        """Whether it ends in fc6 and fc7, whose width can be chosen."""
        return self.taps[32].channels is None


_VGG16_TAPS: Final = {
    8: Tap("pool3", "stage3", 256),
    16: Tap("pool4", "stage4", 512),
    32: Tap("fc7", "drop7", None),
}

BACKBONES: Final = {
    "vgg16": Backbone(
        functools.partial(vgg16, init_weights=False),
        _VGG16_TAPS,
        functools.partial(vgg16, weights=VGG16_Weights.IMAGENET1K_V1),
    ),
    "vgg16_bn": Backbone(
        functools.partial(vgg16_bn, init_weights=False),
        _VGG16_TAPS,
        functools.partial(vgg16_bn, weights=VGG16_BN_Weights.IMAGENET1K_V1),
        batch_norm=True,
    ),
    "alexnet": Backbone(
        alexnet,
        {
            8: Tap("pool1", "stage1", 64),
            16: Tap("pool2", "stage2", 192),
            32: Tap("fc7", "drop7", None),
        },
        functools.partial(alexnet, weights=AlexNet_Weights.IMAGENET1K_V1),
    ),
    "caffenet": Backbone(
        CaffeNet,
        {
            8: Tap("pool1", "stage1", 96),
            16: Tap("pool2", "stage2", 256),
            32: Tap("fc7", "drop7", None),
        },
    ),
    "googlenet": Backbone(
        functools.partial(googlenet, aux_logits=False, init_weights=False),
        {
            8: Tap("pool2", "pool2", 192),
            16: Tap("pool3", "pool3", 480),
            32: Tap("inception5b", "dropout", 1024),
        },
        functools.partial(googlenet, weights=GoogLeNet_Weights.IMAGENET1K_V1),
        # These weights were converted from a net that maps 0..255 to -1..1 (torchvision's
        # `transform_input`).
        mean=(127.5, 127.5, 127.5),
        std=(127.5, 127.5, 127.5),
        batch_norm=True,
    ),
}


class Trunk(nn.Sequential):
    """Layers in a row; the maps behind some of them are what scores are read from.

    Args:
        layers: By name.
        taps: The maps, by stride.
        head_width: Channels of the coarsest map where its tap leaves them open.
    """

    def __init__(
        self, layers: OrderedDict[str, nn.Module], taps: dict[int, Tap], head_width: int
    ) -> None:
        super().__init__(layers)
        self.taps = taps
        self.channels = {stride: tap.channels or head_width for stride, tap in taps.items()}
        self._stride_after = {tap.after: stride for stride, tap in taps.items()}

    @property
    def windows(self) -> dict[int, list[Window]]:
        """What each map's cells look through, by stride."""
        maps: dict[int, list[Window]] = {}
        through: list[Window] = []
        for name, layer in self.named_children():
            through = [*through, *windows(layer)]
            if name in self._stride_after:
                maps[self._stride_after[name]] = through
        return maps

    @property
    def grids(self) -> dict[int, Grid]:
        """Where each map's cells lie in the image, by stride."""
        return {stride: Grid().through(through) for stride, through in self.windows.items()}

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        """Return the feature maps by stride, each Bx`channels[stride]`xH'xW'.

        Args:
            x: Normalised images, Bx3xHxW.
        """
        maps = {}
        for name, layer in self.named_children():
            x = layer(x)
            if name in self._stride_after:
                maps[self._stride_after[name]] = x
        return maps

    def reset_parameters(self) -> None:
        """Draw every convolution from Kaiming's normal distribution (He et al., 2015).

        Zeros, which some published ports use, would give every channel the same gradient.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()


def build_trunk(
    backbone: str,
    *,
    head_width: int | None = CLASSIFIER_HEAD_WIDTH,
    head_norm: bool = False,
    alignment: str = "aligned",
    dropout: float = 0.5,
) -> Trunk:
    """Build a trunk of `BACKBONES` with random weights.

    Args:
        backbone: Its name.
        head_width: Channels of fc6 and fc7: 4096 in the paper, fewer for small checkpoints.
            None for GoogLeNet, which has neither.
        head_norm: Batch norm after fc6 and fc7. A network that starts from random weights
            needs it; the ImageNet classifiers' fc6 and fc7 come without.
        alignment: `paper`: the image is padded by 100, fc6 not at all. `aligned`: fc6 is padded
            by half its kernel and the image by no more than the geometry needs (VGG16: 1).
        dropout: Probability that an element of fc6's and fc7's output (GoogLeNet: of the last
            map) is dropped in training.
    """
    # Laid out without memory first: the classifier's own fc6 alone would take 400 MB.
    with torch.device("meta"):
        trunk = _lay_out(backbone, head_width, head_norm, alignment, dropout)
        paper = alignment == "paper"
        _first_convolution(trunk).padding = (
            PAPER_PADDING if paper else aligned_padding(backbone),
        ) * 2
    trunk.to_empty(device=torch.get_default_device())
    trunk.reset_parameters()
    return trunk


@functools.cache
def aligned_padding(backbone: str) -> int:
    """Return the first layer's padding in the aligned geometry: 1 for VGG16."""
    with torch.device("meta"):
        return least_padding(_lay_out(backbone, 1, False, "aligned", 0.0).windows)


def _lay_out(
    backbone: str, head_width: int | None, head_norm: bool, alignment: str, dropout: float
) -> Trunk:
    """Build a trunk whose first layer still has the classifier's padding."""
    spec = BACKBONES[backbone]
    layers = OrderedDict(convolutionalize(spec.classifier()).named_children())
    if not spec.has_head:
        del layers["avgpool"], layers["fc"]
        layers["dropout"] = nn.Dropout(dropout)
        return Trunk(layers, spec.taps, 0)
    if head_width is None:
        raise ValueError(f"{backbone} needs a head_width")
    fc6 = layers["fc6"]
    assert isinstance(fc6, nn.Conv2d)
    kernel_size = fc6.kernel_size[0]
    padding = 0 if alignment == "paper" else kernel_size // 2
    stages = OrderedDict((name, layer) for name, layer in layers.items() if "stage" in name)
    head = OrderedDict(
        fc6=nn.Conv2d(fc6.in_channels, head_width, kernel_size, padding=padding),
        norm6=nn.BatchNorm2d(head_width) if head_norm else nn.Identity(),
        relu6=nn.ReLU(inplace=True),
        drop6=nn.Dropout(dropout),
        fc7=nn.Conv2d(head_width, head_width, 1),
        norm7=nn.BatchNorm2d(head_width) if head_norm else nn.Identity(),
        relu7=nn.ReLU(inplace=True),
        drop7=nn.Dropout(dropout),
    )
    return Trunk(OrderedDict(**stages, **head), spec.taps, head_width)


def _first_convolution(trunk: Trunk) -> nn.Conv2d:
    return next(module for module in trunk.modules() if isinstance(module, nn.Conv2d))


def load_classifier(trunk: Trunk, classifier: Classifier) -> list[str]:
    """Copy a classifier's numbers into a trunk of the same backbone.

    fc6 and fc7 are taken as well if the trunk has the classifier's width there.

    Returns:
        Names of the trunk's layers with weights that were *not* copied, empty if all were.

    Raises:
        ValueError: If the two are of different backbones.
    """
    source = convolutionalize(classifier).state_dict()
    target = trunk.state_dict()
    head = ("fc6.", "norm6.", "fc7.", "norm7.")
    unfit = [
        name
        for name, tensor in target.items()
        if name not in source or source[name].shape != tensor.shape
    ]
    if not all(name.startswith(head) for name in unfit):
        raise ValueError("the classifier's layers are not those of the trunk")
    # A head in part would be none: fc7 expects what the classifier's own fc6 gives.
    left = [name for name in target if unfit and name.startswith(head)]
    trunk.load_state_dict({name: source[name] for name in target if name not in left}, strict=False)
    return list(dict.fromkeys(name.partition(".")[0] for name in left))
