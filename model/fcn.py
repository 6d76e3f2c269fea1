"""FCN-32s, FCN-16s and FCN-8s (Long, Shelhamer and Darrell, CVPR 2015) as one network.

    image -> trunk -> score of fc7 -> 2x -> + score of pool4 -> 2x -> + score of pool3 -> 8x
             |------------- FCN-32s ---> 32x
             |------------- FCN-16s -------------------> 16x

Each arrow "Nx" is a deconvolution that starts as bilinear upsampling. The maps' names are those
of VGG16; on other trunks the skips come from the pooling layers of the same strides.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from model.backbones import (
    BACKBONES,
    CLASSIFIER_HEAD_WIDTH,
    IMAGENET_MEAN,
    IMAGENET_STD,
    build_trunk,
)
from model.bilinear import Deconvolution
from model.geometry import plan_upsampling

VARIANTS: Final = {"fcn32s": 32, "fcn16s": 16, "fcn8s": 8, "fcn8s-atonce": 8}
"""Variant -> stride of the finest score map, which is also the factor of the last upsampling."""

AT_ONCE_SCALES: Final = {16: 0.01, 8: 0.0001}
"""What the skips' maps are multiplied by in the authors' FCN-8s trained at once, without stages:
maps nearer to the image have larger activations, and all scores learn at one rate."""

ALIGNMENTS: Final = ("aligned", "paper")

CLASSWISE_PREFIXES: Final = ("score_", "upscore")
"""Names of the layers whose shapes depend on the number of classes begin with these."""


@dataclass(frozen=True)
class Architecture:
    """Everything that decides the shapes of a network's tensors, but for its classes.

    Attributes:
        variant: `fcn32s`, `fcn16s`, `fcn8s`, or `fcn8s-atonce`: 8s with skips scaled as in
            the authors' net that was trained in one go.
        backbone: A name from `model.backbones.BACKBONES`.
        head_width: Channels of fc6 and fc7; None for GoogLeNet, which has neither.
        head_norm: Whether batch norm follows fc6 and fc7.
        learned_upsampling: Whether the 2x deconvolutions are learned, as in the CVPR text.
        learned_final_upsampling: Whether the last deconvolution is too; in the paper it stays
            bilinear.
        alignment: How maps of different strides are brought together. `aligned`: the least
            padding that a centred, unfading geometry needs. `paper`: the image is padded by
            100 and maps are cropped, as in the published nets.

    Raises:
        ValueError: If a value is unknown or out of range; the message names the known ones.
    """

    variant: str = "fcn8s"
    backbone: str = "vgg16_bn"
    head_width: int | None = CLASSIFIER_HEAD_WIDTH
    head_norm: bool = False
    learned_upsampling: bool = True
    learned_final_upsampling: bool = False
    alignment: str = "aligned"

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        for field, known in (
            ("backbone", BACKBONES),
            ("variant", VARIANTS),
            ("alignment", ALIGNMENTS),
        ):
            value = getattr(self, field)
            if value not in known:
                raise ValueError(f"unknown {field} {value!r}; known: {', '.join(known)}")
        if not BACKBONES[self.backbone].has_head:
            if self.head_width is not None or self.head_norm:
                raise ValueError(
                    f"{self.backbone} has no fc6 and fc7: head_width must be None, head_norm False"
                )
        elif not isinstance(self.head_width, int) or not 1 <= self.head_width <= 65536:
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
            alignment=architecture.alignment,
            dropout=dropout,
        )
        finest = VARIANTS[architecture.variant]
        self.steps = plan_upsampling(self.trunk.grids, finest, architecture.alignment)
        strides = [32, *(step.stride for step in self.steps[:-1])]
        # score_fc7, score_pool4, score_pool3; upscore_fc7, upscore_pool4, upscore_final
        self._scores = {stride: f"score_{self.trunk.taps[stride].name}" for stride in strides}
        self._upscores = [f"upscore_{self.trunk.taps[stride].name}" for stride in strides[:-1]]
        self._upscores.append("upscore_final")
        for stride, name in self._scores.items():
            self.add_module(name, _score_layer(self.trunk.channels[stride], num_classes))
        for name, step in zip(self._upscores, self.steps, strict=True):
            learned = (
                architecture.learned_final_upsampling
                if step.stride == 1
                else architecture.learned_upsampling
            )
            self.add_module(name, Deconvolution(num_classes, step.upsampling, learned=learned))
        self._scales = AT_ONCE_SCALES if architecture.variant == "fcn8s-atonce" else {}

    @property
    def logit_bias(self) -> Tensor:
        """What is added to each class's logit at every pixel, C values: the finest score's bias.

        Exactly that in the aligned geometry with a bilinear last upsampling, the defaults. The
        paper's geometry fades it at the borders, and an upsampling that was learned mixes classes.
        """
        layer = self.get_submodule(list(self._scores.values())[-1])
        assert isinstance(layer, nn.Conv2d)
        assert layer.bias is not None
        return layer.bias

    @property
    def compute_dtype(self) -> torch.dtype:
        """Number format of the convolutions' weights."""
        return next(self.trunk.parameters()).dtype

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
        maps = self.trunk(x)
        score = self._score(32, maps)
        for name, step in zip(self._upscores[:-1], self.steps, strict=False):
            upsampled = self._upscore(name, score)
            score = _add(upsampled, self._score(step.stride, maps), step.offset)
        offset = self.steps[-1].offset
        height, width = images.shape[-2:]
        upsampled = self._upscore(self._upscores[-1], score)
        return upsampled[..., offset : offset + height, offset : offset + width]

    def _score(self, stride: int, maps: dict[int, Tensor]) -> Tensor:
        """Return the class scores of the trunk's map of a stride, in 32 bits."""
        features = maps[stride]
        if stride in self._scales:
            features = features * self._scales[stride]
        score: Tensor = self.get_submodule(self._scores[stride])(features)
        return score.float()

    def _upscore(self, name: str, score: Tensor) -> Tensor:
        """Upsample scores, outside of autocast."""
        # Tensors without memory, from which sizes are worked out, know no autocast.
        with nullcontext() if score.is_meta else torch.autocast(score.device.type, enabled=False):
            upsampled: Tensor = self.get_submodule(name)(score)
        return upsampled


def _score_layer(channels: int, num_classes: int) -> nn.Conv2d:
    """Return a 1x1 convolution to class scores, zero-initialised as in section 4.2 of the paper.

    A skip that starts at zero leaves the coarser prediction as it was.
    """
    layer = nn.Conv2d(channels, num_classes, 1)
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _add(upsampled: Tensor, skip: Tensor, offset: int) -> Tensor:
    """Add two maps where they overlap.

    Args:
        upsampled: BxCxHxW.
        skip: BxCxH'xW'.
        offset: Cell of `upsampled` that lies on cell 0 of `skip`, along both axes; negative if
            `upsampled` begins within `skip`.
    """
    upsampled = upsampled[..., max(0, offset) :, max(0, offset) :]
    skip = skip[..., max(0, -offset) :, max(0, -offset) :]
    height = min(upsampled.shape[-2], skip.shape[-2])
    width = min(upsampled.shape[-1], skip.shape[-1])
    return upsampled[..., :height, :width] + skip[..., :height, :width]
