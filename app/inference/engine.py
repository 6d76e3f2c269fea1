"""The engine: photos of one shape in, label maps out, as fast as the device allows."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from app.inference.decode import resize, scaled_size
from app.inference.device import choose_compute
from model import FCN, Card, load_checkpoint
from model.files import sha256

WARM_UP_SIZES: Final = ((360, 480),)
"""(height, width) of the photos that warm an engine up by default."""


class Segmentation(NamedTuple):
    """What the network says of one photo.

    Attributes:
        label_map: Class index of every pixel, HxW uint8.
        scores: Mean probability of each class over its own pixels, C float32 values, `nan` for
            classes without any; None if not asked for. Probabilities are those of softmax(logits
            / temperature), with the temperature of the checkpoint's card.
    """

    label_map: NDArray[np.uint8]
    scores: NDArray[np.float32] | None


class DeviceLostError(RuntimeError):
    """The CUDA context is broken; only a new process can use the device again."""


class Engine:
    """A network made ready for inference on one device.

    Not thread-safe: call it from one thread at a time.

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
        compute = choose_compute(device, precision)
        self.card = card
        self.version = version
        self.device = compute.device
        self.precision = compute.precision
        self.reason = compute.reason
        self._net = (
            fold_batch_norms(net)
            .cast_convolutions(compute.dtype)
            .to(self.device)
            .to(memory_format=torch.channels_last)
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

    def warm_up(self, sizes: Sequence[tuple[int, int]] = WARM_UP_SIZES) -> None:
        """Run grey photos of the given (height, width), so that first requests are not slow."""
        for height, width in sizes:
            self.segment([np.full((height, width, 3), 128, np.uint8)])

    @torch.inference_mode()
    def segment(
        self,
        photos: Sequence[NDArray[np.uint8]],
        *,
        size: tuple[int, int] | None = None,
        scores: bool = False,
    ) -> list[Segmentation]:
        """Segment a batch; blocks until the label maps are in main memory.

        Args:
            photos: RGB, each HxWx3, all of one shape.
            size: (height, width) of the label maps; the photos' own by default. Logits are
                interpolated before the maximum is taken, so edges stay smooth.
            scores: Whether to compute the classes' mean probabilities.

        Returns:
            One segmentation for each photo.

        Raises:
            DeviceLostError: If the device can never be used again by this process.
            torch.OutOfMemoryError: If the batch does not fit.
        """
        with self._device_errors():
            logits = self._logits(photos, size)
            best, labels = logits.max(dim=1)
            class_scores = None
            if scores:
                temperature = self.card.temperature
                class_scores = _class_scores(logits / temperature, best / temperature, labels)
            label_maps = labels.to(torch.uint8).cpu().numpy()
        return [
            Segmentation(label_map, None if class_scores is None else class_scores[index])
            for index, label_map in enumerate(label_maps)
        ]

    @torch.inference_mode()
    def segment_views(
        self, photo: NDArray[np.uint8], *, scales: Sequence[float] = (1.0,), flip: bool = False
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
            scales: Factors of the photo's size that the network sees, at least one.
            flip: Whether the network sees each of them mirrored left to right as well.

        Returns:
            The best class of every pixel, HxW.

        Raises:
            ValueError: If there is no scale or one is not positive.
            DeviceLostError: If the device can never be used again by this process.
            torch.OutOfMemoryError: If a view does not fit.
        """
        if not scales:
            raise ValueError("no scale to segment at")
        height, width = photo.shape[:2]
        views = [resize(photo, scaled_size(height, width, scale)) for scale in scales]
        if len(views) == 1 and not flip:
            return self.segment(views, size=(height, width))[0].label_map
        with self._device_errors():
            total = torch.zeros((), device=self.device)
            for view in views:
                total = total + self._logits([view], (height, width)).softmax(dim=1)
                if flip:
                    mirrored = self._logits([view[:, ::-1]], (height, width))
                    total = total + mirrored.flip(3).softmax(dim=1)
            label_map: NDArray[np.uint8] = total.argmax(dim=1)[0].to(torch.uint8).cpu().numpy()
        return label_map

    @torch.inference_mode()
    def logits(self, photo: NDArray[np.uint8]) -> Tensor:
        """Return the logits of a photo as the network gives them, before any temperature.

        Args:
            photo: RGB, HxWx3.

        Returns:
            CxHxW fp32, on the engine's device.

        Raises:
            DeviceLostError: If the device can never be used again by this process.
            torch.OutOfMemoryError: If the photo does not fit.
        """
        with self._device_errors():
            return self._logits([photo], None)[0]

    @contextmanager
    def _device_errors(self) -> Iterator[None]:
        """Free memory after a forward that ran out of it, and tell a lost device from a bug."""
        try:
            yield
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()  # a smaller batch may fit into what the allocator held
            raise
        except RuntimeError as error:
            if self.device.type == "cuda" and not self._device_answers():
                raise DeviceLostError(f"the CUDA device can no longer be used: {error}") from error
            raise

    def _device_answers(self) -> bool:
        """Whether the CUDA context still works: some errors spoil it for good."""
        try:
            torch.cuda.synchronize(self.device)
        except RuntimeError:
            return False
        return True

    def _logits(self, photos: Sequence[NDArray[np.uint8]], size: tuple[int, int] | None) -> Tensor:
        """Run the network: logits, BxCxHxW, of the photos' own size or of `size`."""
        # HxWx3 in memory is channels-last already: permuting it costs nothing.
        batch = torch.from_numpy(np.stack(photos)).to(self.device).permute(0, 3, 1, 2)
        logits: Tensor = self._net(batch)
        if size is not None and size != tuple(logits.shape[-2:]):
            logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        return logits


def load_versioned(checkpoint: Path) -> tuple[FCN, Card, str]:
    """Read a checkpoint: its network, its card, and the SHA-256 of the very file, in hex.

    Raises:
        CheckpointError: If the file is no checkpoint that can be used.
        OSError: If it cannot be read.
    """
    while True:
        before = _identity(checkpoint)
        version = sha256(checkpoint)
        net, card = load_checkpoint(checkpoint)
        # Training may replace the file between the two: the version must be the weights'.
        if _identity(checkpoint) == before:
            return net, card, version


def _identity(path: Path) -> tuple[int, int, int]:
    """Return what changes when a file is replaced or written to."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _class_scores(logits: Tensor, best: Tensor, labels: Tensor) -> NDArray[np.float32]:
    """Return the mean probability of each class over the pixels it won, BxC.

    Args:
        logits: BxCxHxW, divided by the temperature.
        best: Highest of them at each pixel, BxHxW.
        labels: Its class, BxHxW.
    """
    probability = (best - logits.logsumexp(dim=1)).exp().flatten(1).double()
    labels = labels.flatten(1)
    sums = torch.zeros(logits.shape[:2], dtype=torch.float64, device=logits.device)
    counts = torch.zeros_like(sums)
    sums.scatter_add_(1, labels, probability)
    counts.scatter_add_(1, labels, torch.ones_like(probability))
    means: NDArray[np.float32] = (sums / counts).float().cpu().numpy()
    return means


def fold_batch_norms(net: FCN) -> FCN:
    """Return a copy in which every batch norm is folded into the convolution before it.

    In evaluation a batch norm is an affine map of each channel, so the convolution can apply it
    itself: the same numbers but for rounding, and one pass over memory less.
    """
    net = copy.deepcopy(net).eval()
    for parent in list(net.modules()):
        convolution: tuple[str, nn.Conv2d] | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and convolution is not None:
                setattr(parent, convolution[0], fuse_conv_bn_eval(convolution[1], child))
                setattr(parent, name, nn.Identity())
            convolution = (name, child) if isinstance(child, nn.Conv2d) else None
    return net
