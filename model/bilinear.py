"""Upsampling: the bilinear kernel and the deconvolution layer that starts from it.

Section 3.3 of the paper: upsampling by f is convolution with a fractional stride of 1/f, and
its kernel can be learned. Where its output lies is the business of `model.geometry`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.geometry import Upsampling


def bilinear_kernel(size: int) -> Tensor:
    """Return the 2-D kernel that makes a transposed convolution interpolate bilinearly.

    A kernel of size 2 f or 2 f - 1 upsamples by a stride of f = ceil(size / 2). Its weights are
    (1 - |i - c| / f) (1 - |j - c| / f) around its centre c, as in the authors' `surgery.py`
    (upsample_filt).

    Returns:
        A float tensor, size x size, whose entries sum to f².
    """
    factor = (size + 1) // 2
    center = (size - 1) / 2
    taps = 1 - (torch.arange(size, dtype=torch.float32) - center).abs() / factor
    return torch.outer(taps, taps)


def bilinear_weight(channels: int, size: int) -> Tensor:
    """Return a CxCxKxK transposed-convolution weight that upsamples each channel by itself."""
    weight = torch.zeros(channels, channels, size, size)
    weight[range(channels), range(channels)] = bilinear_kernel(size)
    return weight


class Deconvolution(nn.Module):
    """Upsample a BxCxHxW map, starting as bilinear interpolation.

    A zero-padded transposed convolution fades towards the borders (to a third in the corners
    of one 8x step), because cells outside the map count as zero scores. In the aligned
    geometry the map's edge is first extended by replication; a constant map then stays
    constant, and before any training the layer equals bilinear interpolation.

    Args:
        channels: Number of maps C.
        upsampling: Factor, kernel and borders.
        learned: Whether the kernel is a dense CxCxKxK parameter, as in the paper. Otherwise
            the layer stays bilinear and holds no weight at all.
    """

    def __init__(self, channels: int, upsampling: Upsampling, *, learned: bool) -> None:
        super().__init__()
        self.channels = channels
        self.upsampling = upsampling
        weight = bilinear_weight(channels, upsampling.kernel) if learned else None
        self.weight = None if weight is None else nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, BxCxHxW, as BxCxH'xW' with H' = `upsampling.size(H)`."""
        upsampling = self.upsampling
        if self.weight is None:
            return _interpolate(x, upsampling)
        if upsampling.extension:
            x = F.pad(x, (upsampling.extension,) * 4, mode="replicate")
        return F.conv_transpose2d(
            x, self.weight, stride=upsampling.factor, padding=upsampling.padding
        )

    def extra_repr(self) -> str:
        """Show what `print(net)` should."""
        kind = "learned" if self.weight is not None else "bilinear"
        size = self.upsampling.kernel
        return f"{self.channels}, factor={self.upsampling.factor}, kernel_size={size}, {kind}"


def _interpolate(x: Tensor, upsampling: Upsampling) -> Tensor:
    """Return what a deconvolution with the bilinear kernel would, at a fraction of its cost.

    An even kernel is interpolation between half-pixel positions, an odd one between cell
    centres. One cell more on each side, a copy of the edge or zero, is all that either sees of
    what lies outside.
    """
    extended = F.pad(x, (1, 1, 1, 1), mode="replicate" if upsampling.extension else "constant")
    height, width = extended.shape[-2:]
    factor = upsampling.factor
    if upsampling.kernel == 2 * factor:
        size, at_centers = (height * factor, width * factor), False
    else:
        size, at_centers = ((height - 1) * factor + 1, (width - 1) * factor + 1), True
    output = F.interpolate(extended, size, mode="bilinear", align_corners=at_centers)
    rows, columns = (upsampling.size(cells) for cells in x.shape[-2:])
    margin = (size[0] - rows) // 2
    return output[..., margin : margin + rows, margin : margin + columns]
