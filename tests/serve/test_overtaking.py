"""What batches that take younger photos along cost the overtaken, on a simulated clock."""

import math
import random
from dataclasses import dataclass

import pytest

from app.serve.groups import GroupQueue


@dataclass(frozen=True)
class Device:
    """Seconds of a batch = `per_megapixel_s` * megapixels + `per_batch_s`."""

    per_megapixel_s: float
    per_batch_s: float
    caps: dict[int, int]

    def seconds(self, pixels: int, images: int) -> float:
        return self.per_megapixel_s * pixels * images / 1e6 + self.per_batch_s

    def saving(self, pixels: int) -> float:
        return self.per_batch_s / (self.per_megapixel_s * pixels / 1e6)


SMALL, MIDDLE, LARGE = 96 * 96, 240 * 180, 480 * 360

# As the default checkpoint is on two cores: 21 ms for a photo of 96x96, 0.28 s for 480x360.
TWO_CORES = Device(1.6, 0.008, {SMALL: 8, MIDDLE: 4, LARGE: 1})
# Where a batch of 16 runs four photos in the time of one.
GPU = Device(0.01, 0.0035, {SMALL: 16, MIDDLE: 16, LARGE: 16})


@dataclass(eq=False)
class Photo:
    pixels: int
    arrived: float
    deadline: float = math.inf
    gone: bool = False


def simulate(device: Device, clients: int, *, fair: bool) -> tuple[float, float]:
    """Let clients post photos of mixed sizes, each its next as soon as it is answered.

    Returns:
        Images/s, and p99 of the seconds to an answer.
    """
    groups: GroupQueue[int, Photo] = GroupQueue(
        max_images=16,
        max_pixels=10**9,
        most_images=device.caps.__getitem__,
        saving=device.saving if fair else lambda pixels: math.inf,
    )
    draw = random.Random(1)
    now = 0.0
    waits: list[float] = []
    answered = clients
    for _ in range(8000):
        for _ in range(answered):
            pixels = draw.choices([SMALL, MIDDLE, LARGE], [4, 2, 1])[0]
            groups.push(pixels, Photo(pixels, now))
        popped = groups.pop(now)
        assert popped.key is not None
        answered = len(popped.batch)
        now += device.seconds(popped.key, answered)
        waits += [now - photo.arrived for photo in popped.batch]
    return len(waits) / now, sorted(waits)[int(0.99 * len(waits))]


def test_where_batches_save_little_fewer_overtake_and_the_slowest_wait_less():
    images_per_s, p99_s = simulate(TWO_CORES, clients=16, fair=True)
    freely_per_s, freely_p99_s = simulate(TWO_CORES, clients=16, fair=False)
    assert p99_s < 0.95 * freely_p99_s
    assert images_per_s > 0.98 * freely_per_s


@pytest.mark.parametrize("clients", [4, 16, 64])
def test_where_batches_save_much_nothing_is_lost(clients):
    images_per_s, p99_s = simulate(GPU, clients, fair=True)
    freely_per_s, freely_p99_s = simulate(GPU, clients, fair=False)
    assert images_per_s > 0.99 * freely_per_s
    assert p99_s < 1.01 * freely_p99_s
