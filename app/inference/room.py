"""Whether there is room in memory for a forward, and what would fit where there is not."""

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from app.inference.decode import scaled_size
from app.inference.footprint import Footprint
from app.inference.memory import available_bytes
from app.inference.network import NO_EXTRAS, Extras
from model import FCN


class PhotoDoesNotFitError(MemoryError):
    """A photo needs more memory than there is; the message is for the one who sent it."""


class _MainMemory:
    """What forwards have taken of it, of whichever network they are: two may serve for a while."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.taken = 0


_MAIN_MEMORY: Final = _MainMemory()


class Room:
    """The memory of one device, seen from one network.

    Args:
        net: The network as it runs.
        device: Where it runs.
    """

    def __init__(self, net: FCN, device: torch.device) -> None:
        self._net = net
        self._device = device

    @functools.cached_property
    def _footprint(self) -> Footprint:
        return Footprint(self._net)

    @contextmanager
    def taking(
        self,
        images: int,
        input_size: tuple[int, int],
        mask_size: tuple[int, int],
        extras: Extras = NO_EXTRAS,
    ) -> Iterator[None]:
        """Refuse a forward for which the system would end the process; count it in this block.

        Forwards side by side could otherwise all be sure of the same memory. One for which there
        is none beside the others waits for them: that they run is no reason to refuse it. CUDA
        and systems that do not tell what memory they have fail the allocation instead.

        Args:
            images: Photos in the batch.
            input_size: (height, width) of the photos as the network sees them.
            mask_size: (height, width) of the label maps.
            extras: What is computed besides the label maps.

        Raises:
            torch.OutOfMemoryError: If there is not enough.
        """
        if self._device.type != "cpu":
            yield
            return
        most = self._footprint.most_bytes(images, input_size, mask_size, extras)
        with _MAIN_MEMORY.changed:
            while (free := available_bytes()) is not None:
                # What others have in use already counts twice: rather that than not at all.
                left = free - _MAIN_MEMORY.taken
                if self._footprint.fits(left, images, input_size, mask_size, extras):
                    break
                if not _MAIN_MEMORY.taken:
                    raise torch.OutOfMemoryError(
                        f"{free / 1e6:.0f} MB of memory are left, too little for {images} photos "
                        f"of {input_size[1]} x {input_size[0]} pixels"
                    )
                _MAIN_MEMORY.changed.wait()
            _MAIN_MEMORY.taken += most
        try:
            yield
        finally:
            with _MAIN_MEMORY.changed:
                _MAIN_MEMORY.taken -= most
                _MAIN_MEMORY.changed.notify_all()

    def too_small(
        self,
        input_size: tuple[int, int],
        mask_size: tuple[int, int],
        extras: Extras = NO_EXTRAS,
    ) -> PhotoDoesNotFitError:
        """Return the error for a single photo that did not fit; it says which size would.

        Args:
            input_size: (height, width) of the photo as the network sees it.
            mask_size: (height, width) of the photo and its label map.
            extras: What is computed besides the label maps.
        """
        needed = self._footprint.needed_bytes(1, input_size, mask_size, extras)
        free = self._free_bytes()
        # Whatever seems to be free, `needed` was too much; and others take memory meanwhile.
        bound = int(0.9 * (needed if free is None else min(free, needed)))
        scale = self._footprint.largest_scale(
            bound, mask_size, input_size[0] / mask_size[0], extras
        )
        seen = f"the network would see this photo at {input_size[1]} x {input_size[0]} pixels"
        if scale is None:
            return PhotoDoesNotFitError(
                f"There is too little memory: {seen}, and at no scale it fits. Send a smaller one."
            )
        height, width = scaled_size(*mask_size, scale)
        return PhotoDoesNotFitError(
            f"There is too little memory: {seen}, and {width} x {height} is the most that fits at "
            f"present. Send it at that size, or ask for `scale={scale:g}`."
        )

    def _free_bytes(self) -> int | None:
        if self._device.type == "cpu":
            return available_bytes()
        free, _ = torch.cuda.mem_get_info(self._device)
        # The allocator's own reserve counts as free.
        reserved = torch.cuda.memory_reserved(self._device)
        return free + reserved - torch.cuda.memory_allocated(self._device)
