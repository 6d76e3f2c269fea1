"""FCN-32s, FCN-16s and FCN-8s (Long, Shelhamer and Darrell, CVPR 2015) as one network.

    image -> trunk -> score of fc7 -> 2x -> + score of pool4 -> 2x -> + score of pool3 -> 8x
             |------------- FCN-32s ---> 32x
             |------------- FCN-16s -------------------> 16x

Each arrow "Nx" is a deconvolution that starts as bilinear upsampling.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from model.backbones import BACKBONES, VGG16_HEAD_WIDTH, build_trunk
from model.bilinear import Deconvolution

VARIANTS: Final = {"fcn32s": 32, "fcn16s": 16, "fcn8s": 8}
"""Variant -> stride of the finest score map, which is also the factor of the last upsampling."""

IMAGENET_MEAN: Final = (0.485 * 255, 0.456 * 255, 0.406 * 255)
IMAGENET_STD: Final = (0.229 * 255, 0.224 * 255, 0.225 * 255)
"""Statistics of ImageNet in 0..255, red, green, blue: what torchvision's weights expect."""

CLASSWISE_PREFIXES: Final = ("score_", "upscore")
"""Names of the layers whose shapes depend on the number of classes begin with these."""


@dataclass(frozen=True)
class Architecture:
    """Everything that decides the shapes of a network's tensors, but for its classes.

    Attributes:
        variant: `fcn32s`, `fcn16s` or `fcn8s`.
        backbone: A name from `model.backbones.BACKBONES`.
        head_width: Channels of fc6 and fc7.
        head_norm: Whether batch norm follows fc6 and fc7.
        learned_upsampling: Whether the 2x deconvolutions are learned; the last one always
            stays bilinear, as in the CVPR text.
        alignment: How maps of different strides are brought together. `aligned`: the centres of
            cells and pixels agree, no crop offsets, no padding of 100.

    Raises:
        ValueError: If a value is unknown or out of range; the message names the known ones.
    """

    variant: str = "fcn8s"
    backbone: str = "vgg16_bn"
    head_width: int = VGG16_HEAD_WIDTH
    head_norm: bool = False
    learned_upsampling: bool = True
    alignment: str = "aligned"

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        if self.backbone not in BACKBONES:
            raise ValueError(f"unknown backbone {self.backbone!r}; known: {', '.join(BACKBONES)}")
        if self.variant not in VARIANTS:
            raise ValueError(f"unknown variant {self.variant!r}; known: {', '.join(VARIANTS)}")
        if self.alignment != "aligned":
            raise ValueError(f"unknown alignment {self.alignment!r}; known: aligned")
        if not isinstance(self.head_width, int) or not 1 <= self.head_width <= 65536:
            raise ValueError(f"head_width must be 1 to 65536, not {self.head_width!r}")


class FCN(nn.Module):
    """A fully convolutional network: images in, class scores for every pixel out.

    Mean and standard deviation of the input live in the network as buffers, so nobody can feed
    it wrongly normalised images.

    Args:
        architecture: Variant, backbone and widths.
        num_classes: C, channels of the score maps.
        dropout: Probability of dropping an element of fc6's and fc7's output in training.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, architecture: Architecture, num_classes: int, *, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.num_classes = num_classes
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1))
        self.trunk = build_trunk(
            architecture.backbone,
            head_width=architecture.head_width,
            head_norm=architecture.head_norm,
            dropout=dropout,
        )
        finest = VARIANTS[architecture.variant]
        learned = architecture.learned_upsampling
        self.score_fc7 = _score_layer(self.trunk.channels[32], num_classes)
        if finest <= 16:
            self.upscore_fc7 = Deconvolution(num_classes, 2, learned=learned)
            self.score_pool4 = _score_layer(self.trunk.channels[16], num_classes)
        if finest <= 8:
            self.upscore_pool4 = Deconvolution(num_classes, 2, learned=learned)
            self.score_pool3 = _score_layer(self.trunk.channels[8], num_classes)
        self.upscore_final = Deconvolution(num_classes, finest, learned=False)

    @property
    def compute_dtype(self) -> torch.dtype:
        """Number format of the convolutions' weights."""
        return self.score_fc7.weight.dtype

    def cast_convolutions(self, dtype: torch.dtype) -> "FCN":
        """Cast trunk and score layers; normalisation and upsampling stay in 32 bits.

        Scores are added and interpolated in fp32 because bf16's 8 bits would tie neighbouring
        classes, and these layers cost next to nothing. For inference: training keeps fp32
        weights and uses autocast.
        """
        for name, module in self.named_children():
            if not name.startswith("upscore"):
                module.to(dtype)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of every pixel.

        Args:
            images: Bx3xHxW, RGB, 0 to 255, uint8 or floating point; H and W from 1.

        Returns:
            fp32 logits, BxCxHxW.
        """
        x = ((images - self.mean) / self.std).to(self.compute_dtype)
        features = self.trunk(x)
        score = self.score_fc7(features[32]).float()
        if hasattr(self, "score_pool4"):
            skip = self.score_pool4(features[16]).float()
            score = _crop(_in_fp32(self.upscore_fc7, score), skip) + skip
        if hasattr(self, "score_pool3"):
            skip = self.score_pool3(features[8]).float()
            score = _crop(_in_fp32(self.upscore_pool4, score), skip) + skip
        return _crop(_in_fp32(self.upscore_final, score), images)


def _score_layer(channels: int, num_classes: int) -> nn.Conv2d:
    """Return a 1x1 convolution to class scores, zero-initialised as in section 4.2 of the paper.

    A skip that starts at zero leaves the coarser prediction as it was.
    """
    layer = nn.Conv2d(channels, num_classes, 1)
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _crop(x: Tensor, like: Tensor) -> Tensor:
    """Cut `x` down to the height and width of `like`.

    Upsampled maps overhang to the right and below only, because pooling rounds up and, in the
    aligned geometry, every map's first cell covers the image's first pixel.
    """
    return x[..., : like.shape[-2], : like.shape[-1]]


def _in_fp32(layer: nn.Module, x: Tensor) -> Tensor:
    """Run a layer outside of autocast."""
    with torch.autocast(x.device.type, enabled=False):
        output: Tensor = layer(x)
    return output
