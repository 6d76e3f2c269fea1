"""The engine alone: what the network could do if nothing stood around it.

Photos are decoded beforehand, and what is fastest is found by trying: batches of any size, one
after another or as many side by side as the service runs. A time is that of `Engine.segment`: from
photos in main memory to label maps in main memory, which is what the service's forward stage does.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app.bench.photos import Photo
from app.bench.results import Distribution, megapixels
from app.errors import UsageError
from app.inference.decode import ImageError, decode
from app.inference.device import take_share_of_threads
from app.inference.engine import Engine

_TRIALS: Final = 3
"""Timed runs of a batch size, after one that warms it up."""

_SWEEP_PIXELS: Final = 4_194_304
"""Largest batch that is tried, 24 photos of 480x360: beyond it no device here gains."""


@dataclass(frozen=True)
class SizeFigures:
    """One size.

    Attributes:
        forward: Of one photo.
        batch: Photos in the batch that takes least time a photo.
        ms_per_image: What it takes then, in milliseconds.
        lanes: How many such batches run side by side then.
    """

    forward: Distribution
    batch: int
    ms_per_image: float
    lanes: int = 1


@dataclass(frozen=True)
class EngineFigures:
    """One round, or the median of several.

    Attributes:
        images_per_s: Of the mix of sizes, each in its best batches.
        by_size: Each size, as `480x360`.
    """

    images_per_s: float
    by_size: dict[str, SizeFigures]


class EngineAlone:
    """An engine and the photos to run through it.

    Args:
        engine: It.
        photos: Those that are sent to the servers; the first of each size stands for the others.
        max_images: Most photos in a batch.
        lanes: Batches side by side, tried beside one at a time.

    Raises:
        UsageError: If a photo cannot be decoded.
    """

    def __init__(
        self, engine: Engine, photos: Sequence[Photo], *, max_images: int, lanes: int = 1
    ) -> None:
        self._engine = engine
        self._max_images = max_images
        self._pools = {1: _pool(1)}
        self._pools[lanes] = _pool(lanes)
        self._pixels: dict[str, NDArray[np.uint8]] = {}
        self._weights: dict[str, float] = {}
        for photo in sorted(photos, key=lambda photo: megapixels(photo.size)):
            self._weights[photo.size] = self._weights.get(photo.size, 0.0) + photo.weight
            if photo.size not in self._pixels:
                self._pixels[photo.size] = _decode(photo)
        self._batches: dict[str, tuple[int, int]] = {}  # photos in one, how many side by side

    def find_best_batches(self) -> None:
        """Try batches of 1, 2, 4 ... of every size, also side by side, and keep the fastest."""
        for size, pixels in self._pixels.items():
            trials: dict[tuple[int, int], float] = {}
            for count, lanes in self._ways(pixels.shape[0] * pixels.shape[1]):
                self._run(size, count, lanes)
                times = [self._run(size, count, lanes) for _ in range(_TRIALS)]
                trials[count, lanes] = statistics.median(times) / (count * lanes)
            self._batches[size] = min(trials, key=lambda way: trials[way])

    def measure(self, seconds: float) -> EngineFigures:
        """Run for about `seconds`, each size as long as the others, alone and in best batches."""
        share_s = seconds / len(self._pixels) / 2
        by_size = {}
        for size, (batch, lanes) in self._batches.items():
            alone = self._times(size, 1, 1, share_s)
            photos = batch * lanes
            together = alone if photos == 1 else self._times(size, batch, lanes, share_s)
            by_size[size] = SizeFigures(
                Distribution.of(alone), batch, statistics.fmean(together) / photos * 1e3, lanes
            )
        return EngineFigures(self._rate(by_size), by_size)

    def medians(self, rounds: Sequence[EngineFigures]) -> EngineFigures:
        """Return the median over rounds of every figure."""
        by_size = {
            size: SizeFigures(
                Distribution.median_of([one.by_size[size].forward for one in rounds]),
                batch,
                statistics.median(one.by_size[size].ms_per_image for one in rounds),
                lanes,
            )
            for size, (batch, lanes) in self._batches.items()
        }
        return EngineFigures(statistics.median(one.images_per_s for one in rounds), by_size)

    def _rate(self, by_size: dict[str, SizeFigures]) -> float:
        """Images per second of the mix: photos by weight over the time that they take."""
        milliseconds = sum(self._weights[size] * one.ms_per_image for size, one in by_size.items())
        return sum(self._weights.values()) / milliseconds * 1e3

    def _ways(self, area: int) -> Iterator[tuple[int, int]]:
        """Yield (photos in a batch, batches side by side) to try for photos of so many pixels."""
        for lanes in self._pools:
            count = 1
            while count <= self._max_images and (count == 1 or count * area <= _SWEEP_PIXELS):
                yield count, lanes
                count *= 2

    def _times(self, size: str, count: int, lanes: int, seconds: float) -> list[float]:
        times = [self._run(size, count, lanes)]
        while sum(times) < seconds:
            times.append(self._run(size, count, lanes))
        return times

    def _run(self, size: str, count: int, lanes: int) -> float:
        """Return the seconds in which so many equal batches run side by side."""
        photos = [self._pixels[size]] * count
        began = time.perf_counter()
        list(self._pools[lanes].map(self._engine.segment, [photos] * lanes))
        return time.perf_counter() - began


def _pool(lanes: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(
        lanes, f"{lanes} at a time", initializer=take_share_of_threads, initargs=(1 / lanes,)
    )


def _decode(photo: Photo) -> NDArray[np.uint8]:
    try:
        return decode(photo.body, max_pixels=photo.width * photo.height)
    except ImageError as error:
        raise UsageError(f"a photo of {photo.size} cannot be decoded: {error}") from None
