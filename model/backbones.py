"""Fully convolutional trunks: a classifier without its last layer, any input size.

A trunk maps a normalised image to feature maps by stride. Its layers bear the paper's names,
so that a checkpoint's tensors read `trunk.stage1.conv1_1.weight`, `trunk.fc6.weight` ...
"""

from collections import OrderedDict
from typing import Final

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VGG, VGG16_BN_Weights, VGG16_Weights, vgg16, vgg16_bn

from model.convolutionalize import convolutionalize

VGG16_STAGES: Final = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Output channels of every 3x3 convolution, stage by stage: configuration D of the VGG paper."""

VGG16_HEAD_WIDTH: Final = 4096
"""Channels of fc6 and fc7 in the classifier, and in the paper's networks."""

BACKBONES: Final = ("vgg16", "vgg16_bn")


class VGG16Trunk(nn.Module):
    """VGG16 up to fc7, fully convolutional.

    Every 3x3 convolution is padded by 1, fc6 (7x7) by 3, and pooling rounds up: the map of
    stride s then has ceil(H / s) x ceil(W / s) cells for any image from 1x1 up, and cell i is
    centred at pixel s i + (s - 1) / 2, exactly where centred upsampling puts it.

    Args:
        batch_norm: Batch norm between each 3x3 convolution and its ReLU, as in VGG16-BN.
        head_width: Channels of fc6 and fc7: 4096 in the paper, fewer for small checkpoints.
        head_norm: Batch norm after fc6 and fc7 too. A network that starts from random
            weights needs it; the ImageNet classifier's fc6 and fc7 come without.
        dropout: Probability that an element of fc6's and fc7's output is dropped in training.
    """

    stage1: nn.Sequential
    stage2: nn.Sequential
    stage3: nn.Sequential
    stage4: nn.Sequential
    stage5: nn.Sequential

    def __init__(
        self, *, batch_norm: bool, head_width: int, head_norm: bool, dropout: float
    ) -> None:
        super().__init__()
        channels = 3
        for number, widths in enumerate(VGG16_STAGES, start=1):
            layers: OrderedDict[str, nn.Module] = OrderedDict()
            for index, width in enumerate(widths, start=1):
                name = f"{number}_{index}"
                layers[f"conv{name}"] = nn.Conv2d(channels, width, 3, padding=1)
                if batch_norm:
                    layers[f"norm{name}"] = nn.BatchNorm2d(width)
                layers[f"relu{name}"] = nn.ReLU(inplace=True)
                channels = width
            layers[f"pool{number}"] = nn.MaxPool2d(2, stride=2, ceil_mode=True)
            self.add_module(f"stage{number}", nn.Sequential(layers))
        self.fc6 = nn.Conv2d(channels, head_width, 7, padding=3)
        self.norm6 = nn.BatchNorm2d(head_width) if head_norm else nn.Identity()
        self.fc7 = nn.Conv2d(head_width, head_width, 1)
        self.norm7 = nn.BatchNorm2d(head_width) if head_norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.channels = {8: VGG16_STAGES[2][-1], 16: VGG16_STAGES[3][-1], 32: head_width}
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every convolution from Kaiming's normal distribution (He et al., 2015).

        Zeros, which some published ports use, would give every channel the same gradient.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        """Return the feature maps that scores are read from, keyed by stride.

        Args:
            x: Normalised images, Bx3xHxW.

        Returns:
            Strides 8 (pool3), 16 (pool4) and 32 (fc7), each Bx`channels[s]`xceil(H/s)xceil(W/s).
        """
        x = self.stage2(self.stage1(x))
        pool3 = self.stage3(x)
        pool4 = self.stage4(pool3)
        x = self.stage5(pool4)
        x = self.dropout(F.relu(self.norm6(self.fc6(x)), inplace=True))
        x = self.dropout(F.relu(self.norm7(self.fc7(x)), inplace=True))
        return {8: pool3, 16: pool4, 32: x}


def build_trunk(backbone: str, *, head_width: int, head_norm: bool, dropout: float) -> VGG16Trunk:
    """Build a trunk of `BACKBONES` with random weights."""
    return VGG16Trunk(
        batch_norm=backbone == "vgg16_bn",
        head_width=head_width,
        head_norm=head_norm,
        dropout=dropout,
    )


def imagenet_classifier(backbone: str) -> VGG:
    """Return torchvision's classifier with ImageNet weights, fetched by torchvision itself."""
    if backbone == "vgg16_bn":
        return vgg16_bn(weights=VGG16_BN_Weights.IMAGENET1K_V1)
    return vgg16(weights=VGG16_Weights.IMAGENET1K_V1)


def load_classifier(trunk: VGG16Trunk, classifier: VGG) -> list[str]:
    """Copy a classifier's numbers into a trunk of the same backbone.

    Convolutions and batch norms are taken in order. fc6 and fc7 are taken as well if the trunk
    has the classifier's 4096 channels there.

    Returns:
        Names of the trunk's layers with weights that were *not* copied, empty if all were.

    Raises:
        ValueError: If the two are of different backbones.
    """
    source = convolutionalize(classifier)
    stages = (trunk.stage1, trunk.stage2, trunk.stage3, trunk.stage4, trunk.stage5)
    ours = [layer for stage in stages for layer in stage if _has_weights(layer)]
    theirs = [layer for layer in source.get_submodule("features").children() if _has_weights(layer)]
    if [type(layer) for layer in ours] != [type(layer) for layer in theirs]:
        raise ValueError("the classifier's layers are not those of the trunk")
    for target, layer in zip(ours, theirs, strict=True):
        target.load_state_dict(layer.state_dict())
    if trunk.fc6.out_channels != VGG16_HEAD_WIDTH:
        return ["fc6", "fc7"]
    trunk.fc6.load_state_dict(source.get_submodule("fc6").state_dict())
    trunk.fc7.load_state_dict(source.get_submodule("fc7").state_dict())
    return []


def _has_weights(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d | nn.BatchNorm2d)
