"""How much memory a forward takes: counted from the network's own operations, without running it.

The network is laid out on torch's `meta` device, where tensors have shapes and no memory, and its
operations are followed there: what each allocates, and when that is freed again.
"""

import bisect
import functools
import math
import weakref
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from app.inference.decode import scaled_size
from app.inference.network import NO_EXTRAS, Extras, label, prepare
from model import FCN

_MARGIN: Final = 1.1
_SLACK_BYTES: Final = 96 * 2**20
"""A forward's growth of resident memory on the CPU was 1.01 to 1.2 times what is counted for VGG16
and AlexNet, heads of 64 to 4096, 11 to 150 classes, fp32 and bf16, and up to 90 MB above it for
GoogLeNet, whose many small tensors leave gaps in the heap."""

_REMEMBERED: Final = 256
"""Shapes whose memory need not be counted again."""


class Footprint:
    """Tells the memory of forwards of one network.

    Args:
        net: The network; only its architecture, number of classes and number format are looked at.
    """

    def __init__(self, net: FCN) -> None:
        with torch.device("meta"):
            self._net = prepare(FCN(net.architecture, net.num_classes), net.compute_dtype)
        self._count = functools.lru_cache(_REMEMBERED)(self._count_bytes)
        self._pixel_bytes = self._count(1, (512, 512), (512, 512), Extras(scores=True)) / 512**2

    def needed_bytes(
        self,
        images: int,
        input_size: tuple[int, int],
        mask_size: tuple[int, int],
        extras: Extras = NO_EXTRAS,
    ) -> int:
        """Return how much memory must be free for a forward; takes some 30 ms.

        Args:
            images: Photos in the batch.
            input_size: (height, width) of the photos as the network sees them.
            mask_size: (height, width) of the label maps.
            extras: What is computed besides.
        """
        counted: int = self._count(images, input_size, mask_size, extras)
        return math.ceil(_MARGIN * counted) + _SLACK_BYTES

    def fits(
        self,
        free: int,
        images: int,
        input_size: tuple[int, int],
        mask_size: tuple[int, int],
        extras: Extras = NO_EXTRAS,
    ) -> bool:
        """Return whether so many free bytes suffice; takes no time where they do by far.

        Args:
            free: Bytes.
            images: As in `needed_bytes`, and so are the others.
            input_size: See there.
            mask_size: See there.
            extras: See there.
        """
        if self.most_bytes(images, input_size, mask_size, extras) <= free:
            return True
        return self.needed_bytes(images, input_size, mask_size, extras) <= free

    def most_bytes(
        self,
        images: int,
        input_size: tuple[int, int],
        mask_size: tuple[int, int],
        extras: Extras = NO_EXTRAS,
    ) -> int:
        """Return what a forward takes at most; as `needed_bytes`, but rough, and in no time."""
        # Padding, and maps rounded up to whole cells, add less than this on every side.
        pixels = sum((height + 256) * (width + 256) for height, width in (input_size, mask_size))
        # Probabilities take two bytes each; while a class's plane is made, a few more planes.
        planes = len(extras.probabilities) + 4 if extras.probabilities else 0
        pixel_bytes = self._pixel_bytes + 4 * planes
        return math.ceil(_MARGIN * pixel_bytes * images * pixels) + _SLACK_BYTES

    def largest_scale(
        self, free: int, photo_size: tuple[int, int], most: float, extras: Extras = NO_EXTRAS
    ) -> float | None:
        """Return the largest scale, in hundredths, at which a photo's forward fits; None if none.

        Args:
            free: Bytes.
            photo_size: (height, width) of the photo and of its label map.
            most: Largest scale to consider.
            extras: What is computed besides.
        """
        fitting = bisect.bisect_left(
            range(1, math.floor(100 * most) + 1),
            True,
            key=lambda percent: (
                not self.fits(free, 1, scaled_size(*photo_size, percent / 100), photo_size, extras)
            ),
        )
        return fitting / 100 or None

    @torch.no_grad()  # inference mode would hide the parts of composite operations
    def _count_bytes(
        self,
        images: int,
        input_size: tuple[int, int],
        mask_size: tuple[int, int],
        extras: Extras,
    ) -> int:
        """Return the most bytes that are in use at any moment of a forward, without weights."""
        counter = _AllocationCounter()
        with counter:
            batch = torch.empty((images, *input_size, 3), dtype=torch.uint8, device="meta")
            label(self._net, batch.permute(0, 3, 1, 2), mask_size, extras=extras)
        return counter.peak


class _AllocationCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that operations make, while it is active.

    Attributes:
        peak: Most bytes in use at a time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._alive: dict[int, int] = {}  # bytes by address of the storage

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        # oneDNN copies weights that are not in the order it wants (`app/inference/packed.py`).
        scratch = args[1].nbytes if func is torch.ops.aten.convolution.default else 0
        self.peak = max(self.peak, sum(self._alive.values()) + scratch)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        address = storage._cdata
        if address not in self._alive:
            self._alive[address] = storage.nbytes()
            weakref.finalize(storage, self._alive.pop, address)
