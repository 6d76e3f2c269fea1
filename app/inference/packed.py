"""Convolutions for the CPU whose weights are laid out once as oneDNN's kernels read them.

`torch.nn.Conv2d` keeps weights in torch's own order, and oneDNN copies them into its own at every
run: 85 MB of the default network in fp32. Here that is done once, as torch's own compiler does it
for frozen networks (`torch/_inductor/fx_passes/mkldnn_fusion.py`), by the same two operators; and
a ReLU that follows is applied while the result is still in the processor. The numbers are the same,
but for fp32's rounding where torch would have taken another kernel than oneDNN's.
"""

import logging
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from model import FCN

logger = logging.getLogger(__name__)

_TYPICAL_SIZE: Final = 64
"""Height and width of the maps that layouts are chosen for. All sizes are right with any layout;
one whose kernel wants another is reordered at every run, as without packing. Chosen by measuring:
in bf16, photos of 96x96 to 1280x960 were 1.63 to 1.09 times as fast as without packing (with 256:
1.29 to 0.96), in fp32 1.26 to 1.01."""


class PackedConvolution(nn.Module):
    """A convolution that was packed.

    Args:
        convolution: What it is made from, on the CPU, with zeros as padding.
        relu: Whether a ReLU follows.

    Raises:
        AttributeError: If torch does not have the operators, which are not public.
        RuntimeError: If this processor cannot compute so in the number format of the weights.
    """

    def __init__(self, convolution: nn.Conv2d, *, relu: bool) -> None:
        super().__init__()
        self.bias = convolution.bias
        self._activation = "relu" if relu else "none"
        self._geometry = (
            convolution.padding,
            convolution.stride,
            convolution.dilation,
            convolution.groups,
        )
        # No parameter: it has no order that anything but oneDNN could read, copy or save.
        self._weight: Tensor = torch.ops.mkldnn._reorder_convolution_weight(
            convolution.weight.detach(),
            *self._geometry,
            [1, convolution.in_channels, _TYPICAL_SIZE, _TYPICAL_SIZE],
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of maps, BxCxHxW, as `torch.nn.Conv2d` does, and its ReLU."""
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self._weight, self.bias, *self._geometry, self._activation, [], ""
        )
        return result


def pack_convolutions(net: FCN) -> None:
    """Replace a network's convolutions, and the ReLUs behind them in a row of layers, in place.

    Where that cannot be done, with another torch or processor, they stay as they are.

    Args:
        net: For inference, on the CPU, batch norms folded. It can neither be copied nor saved
            afterwards.
    """
    if not _can_pack(net.compute_dtype):
        return
    for parent in list(net.modules()):
        layers = [item for item in parent.named_children() if not isinstance(item[1], nn.Identity)]
        for place, (name, layer) in enumerate(layers):
            if isinstance(layer, nn.Conv2d):
                # Only in a Sequential is what comes next in the list what comes next in a forward.
                in_a_row = isinstance(parent, nn.Sequential)
                next_name, next_layer = (*layers, ("", None))[place + 1]
                relu = in_a_row and isinstance(next_layer, nn.ReLU)
                setattr(parent, name, PackedConvolution(layer, relu=relu))
                if relu:
                    setattr(parent, next_name, nn.Identity())


def _can_pack(dtype: torch.dtype) -> bool:
    """Whether torch has the operators, and the processor can compute so in this format."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    try:
        # Any weights will do; to draw them would move on the random numbers of a training.
        layer = skip_init(nn.Conv2d, 3, 16, 3, dtype=dtype)  # type: ignore[no-untyped-call]
        trial = PackedConvolution(layer, relu=True)
        with torch.inference_mode():
            trial(torch.zeros(1, 3, 8, 8, dtype=dtype).to(memory_format=torch.channels_last))
    except (AttributeError, RuntimeError) as error:
        logger.info("weights are not packed: %s", str(error).partition("\n")[0])
        return False
    return True
