"""How many photos should share a forward, by their size: measured, not guessed.

Batching pays where one photo leaves the device idle, and that depends on the device: two CPU
cores are busy with one photo of 224x224, a large GPU is not. Knows no torch.
"""

import math
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

MOST_IMAGES: Final = 16
"""Largest batch that is tried by default."""

MOST_PIXELS: Final = 4_194_304
"""Most pixels of a batch that is tried by default: 24 photos of 480x360. The widest feature maps
of VGG16, 64 channels at full size, then take 0.5 GB each in 16-bit precision."""

SIZES: Final = ((96, 96), (160, 160), (224, 224), (360, 480), (720, 960))
"""(height, width) of the photos that are tried, smallest first."""

_UNMEASURED_PIXELS: Final = {"cpu": 262_144, "cuda": MOST_PIXELS}
"""Most pixels of a batch on a device that was not measured. On two CPU cores 96x96 gains 1.6x from
batches of 8, 480x360 (172,800 pixels) loses 10 % from batches of 4: this cap batches the one and
not the other."""

_ENOUGH: Final = 0.97
"""The smallest batch with this share of the best images/s is taken: photos in it wait less."""

_HOPELESS: Final = 0.9
"""A batch below this share of the best images/s has no chance: larger ones are not tried, and it
is not timed again."""

_SECOND_LOOKS: Final = 2
"""How often a batch that seems hopeless is timed again at once: it may have been the machine."""

_ROUNDS: Final = 5
"""How often the batch sizes that have a chance are timed again, in turns."""


class Cap(NamedTuple):
    """What was found for one size of photos.

    Attributes:
        pixels: Of a photo.
        images: How many photos may share a forward.
        saving: The time that a photo saves by sharing such a forward, as a multiple of the time
            by which it makes the forward longer.
    """

    pixels: int
    images: int
    saving: float = math.inf


class BatchCaps:
    """How many photos may share a forward, and what each of them saves by it.

    Between two measured sizes the larger one's answer holds, so that no batch is larger than was
    found to pay.

    Args:
        caps: Those that were found, pixels ascending. Numbers of photos that ascend too are
            noise: the least so far counts.
        beyond: Most pixels in a batch of photos that are larger than all of them.
    """

    def __init__(self, caps: Sequence[Cap], *, beyond: int) -> None:
        self._pixels = [cap.pixels for cap in caps]
        self._images = list(accumulate((cap.images for cap in caps), min))
        self._savings = [cap.saving for cap in caps]
        self._beyond = beyond

    @classmethod
    def unmeasured(cls, device_type: str) -> "BatchCaps":
        """Return what holds without measurements: as many photos as fit a number of pixels.

        Args:
            device_type: `cpu` or `cuda`.
        """
        return cls((), beyond=_UNMEASURED_PIXELS[device_type])

    def images(self, pixels: int) -> int:
        """Return how many photos of so many pixels of network input may share a forward, >= 1."""
        index = bisect_left(self._pixels, pixels)
        if index < len(self._pixels):
            return self._images[index]
        return max(1, self._beyond // pixels)

    def saving(self, pixels: int) -> float:
        """Return what a photo of so many pixels saves by sharing a forward.

        Returns:
            As `Cap.saving`; infinite where nothing was measured.
        """
        index = min(bisect_left(self._pixels, pixels), len(self._pixels) - 1)
        return self._savings[index] if self._savings else math.inf

    def __str__(self) -> str:
        """For the log: `16 photos up to 9,216 pixels, 4 photos up to 25,600 pixels, then 1`."""
        steps = [
            f"{images} photos up to {pixels:,} pixels"
            for index, (pixels, images) in enumerate(zip(self._pixels, self._images, strict=True))
            if images > 1 and images not in self._images[index + 1 :]
        ]
        alone = self._images[-1:] == [1]
        rest = "1" if alone else f"as many as fit {self._beyond:,} pixels"
        return ", ".join([*steps, f"then {rest}"]) if steps else rest


def measure_batch_caps(
    run: Callable[[tuple[int, int], int], bool],
    *,
    unmeasured: BatchCaps,
    budget_s: float,
    sizes: Sequence[tuple[int, int]] = SIZES,
    most_images: int = MOST_IMAGES,
    most_pixels: int = MOST_PIXELS,
    clock: Callable[[], float] = time.perf_counter,
) -> BatchCaps:
    """Find the batch sizes that pay, of 1, 2, 4 ... photos of each size.

    No batch of a size is larger than those of a smaller one, so where batching has ceased to pay,
    larger photos are not tried.

    Args:
        run: Called with ((height, width), photos in the batch); runs such a batch to its end and
            returns whether memory sufficed.
        unmeasured: What to answer for sizes that the budget does not suffice for.
        budget_s: How long this may take, in seconds; exceeded by two runs at most.
        sizes: (height, width) of the photos to try, smallest first, at least one.
        most_images: Most photos in a batch that is tried.
        most_pixels: Most pixels in a batch that is tried; one photo is tried whatever it has.
        clock: Seconds.
    """
    deadline = clock() + budget_s
    caps: list[Cap] = []
    largest = most_images
    saving = math.inf
    for size in sizes:
        pixels = size[0] * size[1]
        largest = min(largest, max(1, most_pixels // pixels))
        if largest > 1:
            # Half of what is left: larger photos are tried only where smaller ones gained.
            until = (clock() + deadline) / 2
            found = _measure_size(run, size, largest, until, clock)
            # Larger photos save no more than smaller ones: what they add is more.
            images, saving = found or (unmeasured.images(pixels), saving)
            largest = min(largest, images)
        caps.append(Cap(pixels, largest, saving))
    return BatchCaps(caps, beyond=caps[-1].pixels * caps[-1].images)


def _measure_size(
    run: Callable[[tuple[int, int], int], bool],
    size: tuple[int, int],
    most_images: int,
    until: float,
    clock: Callable[[], float],
) -> tuple[int, float] | None:
    """Return the batch size that pays for one size, and the saving of a photo in it.

    None if there was no time to compare two.
    """

    def time_run(images: int) -> float:
        """Return the seconds of a run; infinity if memory did not suffice."""
        began = clock()
        return clock() - began if run(size, images) else math.inf

    fastest: dict[int, float] = {}  # seconds by photos in the batch
    fits = True
    for images in _batch_sizes(most_images):
        each_s = min((run_s / images for images, run_s in fastest.items()), default=0.0)
        if clock() + 2 * images * each_s >= until:
            break
        # The first run of a shape also prepares its kernels.
        fits = run(size, images)
        if not fits or clock() >= until:
            break
        run_s = time_run(images)
        fits = run_s < math.inf  # others may have taken memory meanwhile
        if not fits:
            break
        fastest[images] = run_s
        for _ in range(_SECOND_LOOKS):
            if _rate(fastest, images) >= _HOPELESS * _best_rate(fastest) or clock() >= until:
                break
            fastest[images] = min(fastest[images], time_run(images))
        if _rate(fastest, images) < _HOPELESS * _best_rate(fastest):
            break
    if fits and len(fastest) < 2:
        return None
    for _ in range(_ROUNDS):
        # In turns, and the fastest run of each: whatever else the machine does slows all alike.
        hopeful = _HOPELESS * _best_rate(fastest)
        # What a photo saves is told by the time of one alone, which is short.
        timed = [images for images in fastest if images == 1 or _rate(fastest, images) >= hopeful]
        if clock() + sum(fastest[images] for images in timed) > until:
            break
        for images in timed:
            run_s = time_run(images)
            if run_s < math.inf:
                fastest[images] = min(fastest[images], run_s)
            else:
                del fastest[images]
    enough = _ENOUGH * _best_rate(fastest)
    images = next((images for images in fastest if _rate(fastest, images) >= enough), 1)
    return images, _saving(fastest, images)


def _batch_sizes(most: int) -> Iterator[int]:
    """Yield 1, 2, 4 ... and `most`."""
    images = 1
    while images < most:
        yield images
        images *= 2
    yield most


def _rate(fastest: dict[int, float], images: int) -> float:
    """Return the images/s of a batch size."""
    return images / fastest[images]


def _saving(fastest: dict[int, float], images: int) -> float:
    """Return what each photo of a batch saves, as `Cap.saving`; 0 for a batch of one."""
    if images == 1 or 1 not in fastest:  # memory for one may have been short for a moment
        return 0.0
    added_s = fastest[images] - fastest[1]
    saved_s = images * fastest[1] - fastest[images]
    return saved_s / added_s if added_s > 0 else math.inf


def _best_rate(fastest: dict[int, float]) -> float:
    return max((_rate(fastest, images) for images in fastest), default=0.0)
