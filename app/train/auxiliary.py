"""Losses at the coarser strides: the FCN-32s and FCN-16s inside of an FCN-8s learn as well.

The paper trains 32s, 16s and 8s one after the other. When all is trained at once, scores that also
have to be right by themselves give the deep layers a gradient that no skip can take over.
"""

from typing import Any

from torch import Tensor, nn

from model import FCN
from model.bilinear import Deconvolution
from model.geometry import plan_upsampling


class CoarseScores:
    """Catches the coarser score maps of a network while it trains.

    Args:
        net: The network; its forward stays as it is. A copy that is made of it later would
            report here as well: copy first.
    """

    def __init__(self, net: FCN) -> None:
        names = [name for name, _ in net.named_children() if name.startswith("upscore")]
        strides = [32, *(step.stride for step in net.steps[:-1])]
        alignment = net.architecture.alignment
        self._maps: dict[str, Tensor] = {}
        self._upsampled: dict[str, tuple[nn.Module, int]] = {}
        # The last deconvolution takes the finest scores: these are the network's own answer.
        for name, stride in zip(names[:-1], strides[:-1], strict=True):
            last = plan_upsampling(net.trunk.grids, stride, alignment)[-1]
            layer = Deconvolution(net.num_classes, last.upsampling, learned=False)
            self._upsampled[name] = (layer, last.offset)
            net.get_submodule(name).register_forward_pre_hook(self._catch(name))

    def _catch(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if module.training:
                self._maps[name] = inputs[0]

        return hook

    def take(self, height: int, width: int) -> list[Tensor]:
        """Return the maps of the last forward as logits, BxCxHxW each, and forget them.

        Args:
            height: H, of the images.
            width: W.
        """
        logits = []
        for name, scores in self._maps.items():
            upsample, offset = self._upsampled[name]
            upsampled: Tensor = upsample(scores)
            logits.append(upsampled[..., offset : offset + height, offset : offset + width])
        self._maps = {}
        return logits
