"""The engine: photos of one shape in, label maps out, as fast as the device allows."""

import logging
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.inference.batch_caps import MOST_IMAGES, MOST_PIXELS, BatchCaps, measure_batch_caps
from app.inference.decode import resize, scaled_size
from app.inference.device import (
    bound_shape_caches,
    choose_compute,
    processor_threads,
    take_share_of_threads,
)
from app.inference.heap import process_heap
from app.inference.network import NO_EXTRAS, Extras, label, logits_of, prepare
from app.inference.packed import pack_convolutions
from app.inference.room import PhotoDoesNotFitError, Room
from model import FCN, Card, load_versioned

logger = logging.getLogger(__name__)

WARM_UP_SIZES: Final = ((360, 480),)
"""(height, width) of the photos that warm an engine up by default."""

_CAPS_BUDGET_S: Final = 5.0
"""How long a start may take longer because batch caps are measured."""


class Segmentation(NamedTuple):
    """What the network says of one photo.

    Attributes:
        label_map: Class index of every pixel, HxW uint8.
        scores: Mean probability of each class over its own pixels, C float32 values, `nan` for
            classes without any; None if not asked for. Probabilities are those of softmax(logits
            / temperature), with the temperature of the checkpoint's card.
        confidence: Probability of the best class at every pixel, HxW uint8, 255 for 1; None if
            not asked for.
        probabilities: Of the classes asked for at every pixel, KxHxW float16; None if none were.
            The class in the label map has the highest, if it is among them.
    """

    label_map: NDArray[np.uint8]
    scores: NDArray[np.float32] | None
    confidence: NDArray[np.uint8] | None = None
    probabilities: NDArray[np.float16] | None = None


class DeviceLostError(RuntimeError):
    """The CUDA context is broken; only a new process can use the device again."""


class Engine:
    """A network made ready for inference on one device.

    On a CPU several threads may call it at a time, each on its share of the cores (see
    `take_share_of_threads`). On CUDA one thread at a time; only `upload` may run beside the rest.

    Args:
        net: The network; it is copied, not changed.
        card: Describes it.
        version: Tells checkpoints apart: SHA-256 of the file, in hex.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: `auto`, `fp32`, `bf16` or `fp16`.

    Attributes:
        device: Where it computes.
        precision: `fp32`, `bf16` or `fp16`.
        reason: Why this device and precision, one phrase for the log.
        caps: How many photos of a size share a forward to advantage.

    Raises:
        ValueError: If the device does not exist here.
    """

    def __init__(
        self,
        net: FCN,
        card: Card,
        version: str,
        *,
        device: str = "auto",
        precision: str = "auto",
    ) -> None:
        bound_shape_caches()
        compute = choose_compute(device, precision)
        self.card = card
        self.version = version
        self.device = compute.device
        self.precision = compute.precision
        self.reason = compute.reason
        self.caps = BatchCaps.unmeasured(self.device.type)
        self._net = prepare(net, compute.dtype).to(self.device)
        if self.device.type == "cpu":
            pack_convolutions(self._net)
        self._room = Room(self._net, self.device)
        self._copy_stream = (
            torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
            if self.device.type == "cuda"
            else None
        )

    @classmethod
    def load(cls, checkpoint: Path, *, device: str = "auto", precision: str = "auto") -> "Engine":
        """Read a checkpoint and make it ready.

        Raises:
            CheckpointError: If the file is no checkpoint that can be used.
            ValueError: If the device does not exist here.
            OSError: If the file cannot be read.
        """
        net, card, version = load_versioned(checkpoint)
        return cls(net, card, version, device=device, precision=precision)

    @property
    def most_lanes(self) -> int:
        """How many forwards may run at a time: on a CPU as many as it has threads, on CUDA one."""
        return processor_threads() if self.device.type == "cpu" else 1

    def warm_up(self, sizes: Sequence[tuple[int, int]] = WARM_UP_SIZES) -> None:
        """Run grey photos of the given (height, width), so that first requests are not slow.

        Sizes for which there is no memory are left out, with a warning in the log.
        """
        for size in sizes:
            if not self._run_grey(size, 1):
                logger.warning("no memory to warm up with %d x %d pixels", size[1], size[0])

    def measure_caps(
        self, *, most_images: int = MOST_IMAGES, most_pixels: int = MOST_PIXELS, lanes: int = 1
    ) -> None:
        """Find `caps` by timing batches, for some seconds in which nothing else should run.

        Args:
            most_images: Most photos in a batch that is tried.
            most_pixels: Most pixels in a batch that is tried.
            lanes: How many forwards will run side by side; on a CPU they are timed with the share
                of the cores that each then has.
        """
        if self.device.type == "cpu":
            take_share_of_threads(1 / lanes)
        self.caps = measure_batch_caps(
            self._run_grey,
            unmeasured=self.caps,
            budget_s=_CAPS_BUDGET_S,
            most_images=most_images,
            most_pixels=most_pixels,
        )
        if self.device.type == "cpu":
            take_share_of_threads(1.0)
        else:
            torch.cuda.empty_cache()  # what the largest batches took
        logger.info("photos in a batch, by measuring: %s", self.caps)

    def adopt_caps(self, other: "Engine") -> bool:
        """Take the caps of an engine that is as fast; returns whether it is.

        While that one serves, measurements would tell more about its load than about the device.

        Args:
            other: Serves already.
        """
        alike = (
            self.card.architecture == other.card.architecture
            and self.device == other.device
            and self.precision == other.precision
        )
        if alike:
            self.caps = other.caps
        return alike

    def _run_grey(self, size: tuple[int, int], images: int) -> bool:
        """Run grey photos of (height, width) through; returns whether memory sufficed."""
        try:
            self.segment([np.full((*size, 3), 128, np.uint8)] * images)
        except (torch.OutOfMemoryError, PhotoDoesNotFitError):
            return False
        return True

    @torch.inference_mode()
    def upload(self, photos: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Bring a batch to the device; blocks until it is there.

        On CUDA the copy has a stream of its own, so that one thread may upload the next batch
        while another is in `segment_batch`. On the CPU a photo alone is not copied: it must stay
        as it is until `segment_batch` has returned.

        Args:
            photos: RGB, each HxWx3, all of one shape.

        Returns:
            Bx3xHxW uint8, channels-last in memory, on the engine's device.

        Raises:
            DeviceLostError: If the device can never be used again by this process.
            torch.OutOfMemoryError: If there is no memory for several photos; fewer may fit.
            PhotoDoesNotFitError: If there is none for a single one.
        """
        first = photos[0]
        # What torch makes no tensor of: NumPy calls a mirrored column contiguous as well.
        plain = first.flags.c_contiguous and first.flags.writeable and min(first.strides) > 0
        if len(photos) == 1 and plain and self.device.type == "cpu":
            return torch.from_numpy(first)[None].permute(0, 3, 1, 2)
        shape = (len(photos), *first.shape)
        size = first.shape[0], first.shape[1]
        with (
            self._memory_errors(len(photos), size, size),
            self._device_errors(),
            torch.cuda.stream(self._copy_stream),
        ):
            # Only from pinned memory does a copy run beside the kernels of another stream.
            pinned = self._copy_stream is not None
            batch = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
            np.stack(photos, out=batch.numpy())
            if self._copy_stream is not None:
                batch = batch.to(self.device, non_blocking=True)
                self._copy_stream.synchronize()
        # HxWx3 in memory is channels-last already: permuting it costs nothing.
        return batch.permute(0, 3, 1, 2)

    def segment(
        self,
        photos: Sequence[NDArray[np.uint8]],
        *,
        size: tuple[int, int] | None = None,
        extras: Extras = NO_EXTRAS,
    ) -> list[Segmentation]:
        """Segment photos: `upload` and `segment_batch` in one.

        Args:
            photos: RGB, each HxWx3, all of one shape.
            size: As `segment_batch`.
            extras: As `segment_batch`.

        Returns:
            One segmentation for each photo.

        Raises:
            As `segment_batch`.
        """
        return self.segment_batch(self.upload(photos), size=size, extras=extras)

    @torch.inference_mode()
    def segment_batch(
        self,
        batch: Tensor,
        *,
        size: tuple[int, int] | None = None,
        extras: Extras = NO_EXTRAS,
    ) -> list[Segmentation]:
        """Segment an uploaded batch; blocks until the label maps are in main memory.

        Args:
            batch: What `upload` returned, Bx3xHxW uint8.
            size: (height, width) of the label maps; the photos' own by default. Logits are
                interpolated before the maximum is taken, so edges stay smooth.
            extras: What to compute besides label maps.

        Returns:
            One segmentation for each photo.

        Raises:
            DeviceLostError: If the device can never be used again by this process.
            torch.OutOfMemoryError: If there is no memory for several photos; fewer may fit.
            PhotoDoesNotFitError: If there is none for a single one.
        """
        input_size = (batch.shape[2], batch.shape[3])
        mask_size = size or input_size
        with (
            process_heap().in_use() if self.device.type == "cpu" else nullcontext(),
            self._memory_errors(len(batch), input_size, mask_size, extras),
            self._device_errors(),
            self._room.taking(len(batch), input_size, mask_size, extras),
        ):
            found = label(
                self._net, batch, mask_size, temperature=self.card.temperature, extras=extras
            )
            label_maps = found.labels.cpu().numpy()
            others = [None if extra is None else extra.cpu().numpy() for extra in found[1:]]
            del found
        return [
            Segmentation(label_map, *(None if extra is None else extra[index] for extra in others))
            for index, label_map in enumerate(label_maps)
        ]

    @torch.inference_mode()
    def segment_views(
        self,
        photo: NDArray[np.uint8],
        *,
        scales: Sequence[float] | None = None,
        flip: bool = False,
    ) -> NDArray[np.uint8]:
        """Segment a photo by the mean of its class probabilities over several views of it.

        Each view costs a forward; evaluation can afford that, serving cannot. A single view gives
        the label map that `segment` gives.

        Every view's logits are interpolated to the photo's size and only then become
        probabilities: an edge between two classes then lies where their logits cross, as in
        `segment`. Interpolated probabilities would put it elsewhere, because they saturate and
        no longer tell how sure the network is on either side. Probabilities are averaged, not
        logits, so that a view whose logits are large does not outvote the others. They are those
        of temperature 1, whatever the card's: calibrating a checkpoint changes no mask.

        Args:
            photo: RGB, HxWx3.
            scales: Factors of the photo's size that the network sees, at least one; None for that
                of the checkpoint alone.
            flip: Whether the network sees each of them mirrored left to right as well.

        Returns:
            The best class of every pixel, HxW.

        Raises:
            ValueError: If there is no scale or one is not positive.
            DeviceLostError: If the device can never be used again by this process.
            PhotoDoesNotFitError: If there is no memory for a view.
        """
        if scales is None:
            scales = (self.card.scale,)
        elif not scales:
            raise ValueError("no scale to segment at")
        size = photo.shape[0], photo.shape[1]
        seen_sizes = [scaled_size(*size, scale) for scale in scales]
        views = [resize(photo, seen_size) for seen_size in seen_sizes]
        if len(views) == 1 and not flip:
            return self.segment(views, size=size)[0].label_map
        with self._memory_errors(1, max(seen_sizes), size), self._device_errors():
            total = torch.zeros((1, len(self.card.classes), *size), device=self.device)
            for view in views:
                _add_probabilities(total, self._logits(view, size))
                if flip:
                    _add_probabilities(total, self._logits(view[:, ::-1], size), mirrored=True)
            label_map: NDArray[np.uint8] = total.argmax(dim=1)[0].to(torch.uint8).cpu().numpy()
        return label_map

    @torch.inference_mode()
    def logits(self, photo: NDArray[np.uint8]) -> Tensor:
        """Return the logits of a photo as the network gives them, before any temperature.

        The network sees the photo at the checkpoint's scale; its logits are interpolated to the
        photo's size.

        Args:
            photo: RGB, HxWx3.

        Returns:
            CxHxW fp32 of the photo's size, on the engine's device.

        Raises:
            DeviceLostError: If the device can never be used again by this process.
            PhotoDoesNotFitError: If there is no memory for the photo.
        """
        size = photo.shape[0], photo.shape[1]
        return self._logits(resize(photo, scaled_size(*size, self.card.scale)), size)[0]

    def _logits(self, seen: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
        """Return the logits of what the network sees, HxWx3, as 1xCxHxW of (height, width)."""
        seen_size = seen.shape[0], seen.shape[1]
        with (
            self._memory_errors(1, seen_size, size),
            self._device_errors(),
            self._room.taking(1, seen_size, size),
        ):
            return logits_of(self._net, self.upload([seen]), size)

    @contextmanager
    def _memory_errors(
        self,
        images: int,
        input_size: tuple[int, int],
        mask_size: tuple[int, int],
        extras: Extras = NO_EXTRAS,
    ) -> Iterator[None]:
        """Say which photo would fit when a single one does not."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            if images > 1:
                raise
            raise self._room.too_small(input_size, mask_size, extras) from error

    @contextmanager
    def _device_errors(self) -> Iterator[None]:
        """Free memory after a forward that ran out of it, and tell a lost device from a bug."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            # The frames hold what the forward had allocated when it failed.
            traceback.clear_frames(error.__traceback__)
            torch.cuda.empty_cache()  # a smaller batch may fit into what the allocator held
            raise
        except RuntimeError as error:
            if self.device.type == "cuda" and not self._device_answers():
                raise DeviceLostError(f"the CUDA device can no longer be used: {error}") from error
            if "DefaultCPUAllocator" in str(error):  # torch has no type for it
                raise torch.OutOfMemoryError(str(error)) from error
            raise

    def _device_answers(self) -> bool:
        """Whether the CUDA context still works: some errors spoil it for good."""
        try:
            torch.cuda.synchronize(self.device)
        except RuntimeError:
            return False
        return True


def _add_probabilities(total: Tensor, logits: Tensor, *, mirrored: bool = False) -> None:
    """Add the softmax of logits, 1xCxHxW, to a sum of such; no second map of all classes is made.

    Args:
        total: The sum, changed in place.
        logits: Overwritten.
        mirrored: Whether they are those of the mirrored photo.
    """
    exponentials = logits.sub_(logits.amax(dim=1, keepdim=True)).exp_()
    exponentials.div_(exponentials.sum(dim=1, keepdim=True))
    for of_class, added in zip(total[0], exponentials[0], strict=True):
        of_class += added.flip(1) if mirrored else added
