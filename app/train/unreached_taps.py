"""A fault of torch's CPU kernels, worked around: gradients of taps that see nothing but padding.

On a map that is small beside the kernel, as fc6's 7x7 on the 2x3 cells of a 64x96 crop, the outer
taps lie in the padding for every position. Their gradient is zero. In bf16 oneDNN leaves there
what was in memory before (seen with torch 2.14, on 7x7 kernels up to 2 cells and 5x5 kernels on 1
cell): noise, or infinity, that no loss shows before a larger photo meets those taps.
"""

from typing import Any, Final

import torch
from torch import Tensor, nn

_RIGHT_UP_TO: Final = 3
"""Size of the kernels that are right on every map."""


def zero_unreached_taps(net: nn.Module) -> None:
    """Set the gradients of a network's kernels to zero at taps that its last forward never used.

    A copy that is made of the network later would report here as well: copy first.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and max(module.kernel_size) > _RIGHT_UP_TO:
            _Taps(module)


class _Taps:
    """Remembers which taps of a convolution its last input reached."""

    def __init__(self, conv: nn.Conv2d) -> None:
        self._unreached: Tensor | None = None
        conv.register_forward_pre_hook(self._note)
        conv.weight.register_hook(self._clean)  # type: ignore[no-untyped-call]

    def _note(self, conv: Any, inputs: tuple[Tensor, ...]) -> None:
        rows, columns = (_reached(inputs[0].shape[2 + axis], conv, axis) for axis in (0, 1))
        reached = rows[:, None] & columns
        self._unreached = None if reached.all() else ~reached

    def _clean(self, gradient: Tensor) -> Tensor:
        return gradient if self._unreached is None else gradient.masked_fill(self._unreached, 0)


def _reached(length: int, conv: nn.Conv2d, axis: int) -> Tensor:
    """Return which taps along an axis meet a cell of a map of that length, K booleans."""
    size, stride = conv.kernel_size[axis], conv.stride[axis]
    padding, dilation = int(conv.padding[axis]), conv.dilation[axis]
    first = torch.arange(size) * dilation - padding  # cell of each tap at the first position
    positions = (length + 2 * padding - dilation * (size - 1) - 1) // stride + 1
    return (first < length) & (first + (positions - 1) * stride >= 0)
