"""Upsampling: the bilinear kernel and the deconvolution layer that starts from it.

Section 3.3 of the paper: upsampling by f is convolution with a fractional stride of 1/f, and
its kernel can be learned. Here every map is upsampled *centred*: output pixel o lies at input
coordinate (o + 0.5) / f - 0.5, the half-pixel convention of `F.interpolate(align_corners=False)`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def bilinear_kernel(factor: int) -> Tensor:
    """Return the 2-D kernel that makes a transposed convolution of stride `factor` bilinear.

    Its size is 2 f for even and 2 f - 1 for odd factors, its weights are
    (1 - |i - c| / f) (1 - |j - c| / f) around the kernel's centre c, as in the authors'
    `surgery.py` (upsample_filt).

    Returns:
        A float tensor of shape KxK whose entries sum to f².
    """
    size = 2 * factor - factor % 2
    center = (size - 1) / 2
    taps = 1 - (torch.arange(size, dtype=torch.float32) - center).abs() / factor
    return torch.outer(taps, taps)


def bilinear_weight(channels: int, factor: int) -> Tensor:
    """Return a CxCxKxK transposed-convolution weight that upsamples each channel by itself."""
    weight = torch.zeros(channels, channels, *bilinear_kernel(factor).shape)
    weight[range(channels), range(channels)] = bilinear_kernel(factor)
    return weight


class Deconvolution(nn.Module):
    """Upsample a BxCxHxW map to BxCx(f H)x(f W), starting as bilinear interpolation.

    A zero-padded transposed convolution fades towards the borders (to a third in the corners
    of one 8x step), because cells outside the map count as zero scores. So the map's edge is
    first extended by replication; a constant map then stays constant, and before any
    training the layer equals `F.interpolate(mode="bilinear", align_corners=False)`.

    Args:
        channels: Number of maps C.
        factor: Integer upsampling factor f.
        learned: Whether the kernel is a dense CxCxKxK parameter, as in the paper. Otherwise
            the layer stays bilinear and holds no weight at all.
    """

    def __init__(self, channels: int, factor: int, *, learned: bool) -> None:
        super().__init__()
        self.channels = channels
        self.factor = factor
        self.weight = nn.Parameter(bilinear_weight(channels, factor)) if learned else None

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, BxCxHxW, upsampled to BxCx(f H)x(f W)."""
        if self.weight is None:
            return F.interpolate(
                x, scale_factor=float(self.factor), mode="bilinear", align_corners=False
            )
        kernel = self.weight.shape[-1]
        # One replicated cell on each side becomes f output pixels there: the centred
        # layer's own padding, (kernel - f) / 2, plus f crops them again.
        padding = (kernel - self.factor) // 2 + self.factor
        x = F.pad(x, (1, 1, 1, 1), mode="replicate")
        return F.conv_transpose2d(x, self.weight, stride=self.factor, padding=padding)

    def extra_repr(self) -> str:
        """Show what `print(net)` should."""
        kind = "learned" if self.weight is not None else "bilinear"
        return f"{self.channels}, factor={self.factor}, {kind}"
