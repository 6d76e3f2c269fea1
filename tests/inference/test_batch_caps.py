import math
import random
from collections.abc import Callable

import pytest

from app.inference.batch_caps import BatchCaps, Cap, measure_batch_caps

SIZES = ((10, 10), (20, 20), (40, 40))
DEFAULT = BatchCaps((), beyond=800)


class Device:
    """A simulated device and its clock."""

    def __init__(
        self,
        cost: Callable[[int, int], float],
        *,
        noise: float = 0.0,
        memory: float = float("inf"),
    ) -> None:
        self.now = 100.0
        self.runs: list[tuple[tuple[int, int], int]] = []
        self._cost = cost
        self._noise = noise
        self._memory = memory
        self._random = random.Random(1)

    def clock(self) -> float:
        return self.now

    def limit_memory(self, pixels: float) -> None:
        self._memory = pixels

    def run(self, size: tuple[int, int], images: int) -> bool:
        self.runs.append((size, images))
        pixels = size[0] * size[1]
        if pixels * images > self._memory:
            return False
        self.now += self._cost(pixels, images) * (1 + self._noise * self._random.random())
        return True

    def measure(self, *, budget_s: float = 1000.0, **options: int) -> BatchCaps:
        return measure_batch_caps(
            self.run,
            unmeasured=DEFAULT,
            budget_s=budget_s,
            sizes=SIZES,
            clock=self.clock,
            **options,
        )


def overhead(pixels: int, images: int) -> float:
    """A launch costs as much as 400 pixels."""
    return 0.001 * (400 + pixels * images)


def images(caps: BatchCaps, *pixels: int) -> list[int]:
    return [caps.images(count) for count in pixels]


def test_unmeasured_caps_are_as_many_as_fit_the_pixels() -> None:
    cpu = BatchCaps.unmeasured("cpu")
    assert images(cpu, 96 * 96, 360 * 480, 10**9) == [28, 1, 1]
    assert images(BatchCaps.unmeasured("cuda"), 96 * 96, 360 * 480, 10**9) == [455, 24, 1]


def test_between_measured_sizes_the_larger_ones_cap_holds() -> None:
    caps = BatchCaps([Cap(100, 16), Cap(400, 4), Cap(1600, 2)], beyond=3200)
    assert images(caps, 1, 100, 101, 400, 401, 1600) == [16, 16, 4, 4, 2, 2]
    assert images(caps, 1601, 10**9) == [1, 1]
    assert str(caps) == (
        "16 photos up to 100 pixels, 4 photos up to 400 pixels, 2 photos up to 1,600 pixels, "
        "then as many as fit 3,200 pixels"
    )
    steps = BatchCaps([Cap(100, 16), Cap(400, 1)], beyond=400)
    assert str(steps) == "16 photos up to 100 pixels, then 1"
    assert str(BatchCaps([Cap(100, 1)], beyond=100)) == "1"
    assert str(DEFAULT) == "as many as fit 800 pixels"


def test_caps_never_rise_with_the_pixels() -> None:
    caps = BatchCaps([Cap(100, 4), Cap(400, 16), Cap(1600, 2)], beyond=3200)
    assert images(caps, 100, 400, 1600) == [4, 4, 2]


def test_the_smallest_batch_that_is_about_as_fast_as_the_best_is_taken() -> None:
    device = Device(overhead)
    # A photo of 100 pixels takes 500, 300, 200, 150, 125 in batches of 1, 2, 4, 8, 16; one of
    # 1600 takes 2000, 1800, 1700, 1650, 1625, and 1650 is within 3 % of 1625.
    caps = device.measure()
    assert images(caps, 100, 400, 1600, 3200) == [16, 16, 8, 4]


def test_what_sharing_saves_is_what_was_measured() -> None:
    caps = Device(overhead).measure()
    # Each photo of a batch saves the 400 of a launch, and adds its own pixels.
    savings = [caps.saving(pixels) for pixels in (1, 100, 101, 400, 1600, 10**6)]
    assert savings == pytest.approx([4, 4, 1, 1, 0.25, 0.25])


def test_what_sharing_saves_is_no_bound_where_nothing_was_measured() -> None:
    assert DEFAULT.saving(100) == math.inf
    assert Device(overhead).measure(budget_s=0.0).saving(100) == math.inf


def test_sizes_that_there_was_no_time_for_save_as_the_last_that_there_was() -> None:
    caps = Device(overhead).measure(budget_s=20.0)
    assert [caps.saving(pixels) for pixels in (100, 400, 1600)] == pytest.approx([4, 1, 1])


def test_a_batch_as_fast_as_one_photo_saves_all() -> None:
    assert Device(lambda pixels, images: 0.001).measure().saving(100) == math.inf


@pytest.mark.parametrize("stalled", [1, 2, 3])
def test_a_stall_does_not_end_the_search(stalled: int) -> None:
    pairs = 0

    def cost(pixels: int, images: int) -> float:
        nonlocal pairs
        pairs += (pixels, images) == (100, 2)
        return overhead(pixels, images) * (5 if images == 2 and pairs <= stalled else 1)

    assert Device(cost).measure().images(100) == 16


def test_noise_does_not_hide_what_pays() -> None:
    caps = Device(overhead, noise=0.3).measure()
    assert caps.images(100) == 16
    assert caps.images(1600) >= 2


def test_where_batching_does_not_pay_larger_photos_are_not_tried() -> None:
    device = Device(lambda pixels, images: 0.001 * pixels * images**1.2)
    caps = device.measure()
    assert images(caps, 1, 100, 1600, 10**6) == [1, 1, 1, 1]
    assert caps.saving(1) == 0
    assert {size for size, _ in device.runs} == {SIZES[0]}
    assert max(count for _, count in device.runs) == 2


def test_nothing_beyond_the_given_bounds_is_tried() -> None:
    device = Device(overhead)
    caps = device.measure(most_images=6, most_pixels=2000)
    assert images(caps, 100, 400, 1600) == [6, 5, 1]
    assert {count for _, count in device.runs} == {1, 2, 4, 5, 6}
    assert all(size[0] * size[1] * count <= 2000 for size, count in device.runs)


def test_a_batch_of_one_at_most_needs_no_measurement() -> None:
    device = Device(overhead)
    assert device.measure(most_images=1).images(100) == 1
    assert not device.runs


def test_what_does_not_fit_into_memory_is_no_candidate() -> None:
    device = Device(overhead, memory=1000)
    caps = device.measure()
    assert images(caps, 100, 400, 1600) == [8, 2, 1]


@pytest.mark.parametrize("fitting_runs", [0, 1, 2])
def test_what_fits_no_longer_is_no_candidate(fitting_runs: int) -> None:
    """Others take memory before a batch's first run, before it is timed, or before a round."""
    device = Device(overhead)

    def run(size: tuple[int, int], images: int) -> bool:
        if device.runs.count(((10, 10), 16)) >= fitting_runs:
            device.limit_memory(1000)
        return device.run(size, images)

    caps = measure_batch_caps(
        run, unmeasured=DEFAULT, budget_s=1000.0, sizes=SIZES[:1], clock=device.clock
    )
    assert caps.images(100) == 8


def test_where_one_photo_fits_no_longer_no_batch_does() -> None:
    device = Device(overhead)

    def run(size: tuple[int, int], images: int) -> bool:
        device.limit_memory(0 if device.runs else 1000)
        return device.run(size, images)

    caps = measure_batch_caps(
        run, unmeasured=DEFAULT, budget_s=1000.0, sizes=SIZES[:1], clock=device.clock
    )
    assert caps.images(100) == 1


@pytest.mark.parametrize("budget_s", [0.0, 0.5, 5.0, 50.0])
def test_the_budget_is_kept(budget_s: float) -> None:
    device = Device(overhead)
    caps = device.measure(budget_s=budget_s)
    longest = max((overhead(h * w, count) for (h, w), count in device.runs), default=0.0)
    assert device.now - 100.0 <= budget_s + 2 * longest
    assert all(caps.images(pixels) >= 1 for pixels in (1, 100, 1600, 10**9))


def test_without_time_to_measure_the_default_holds() -> None:
    device = Device(overhead)
    caps = device.measure(budget_s=0.0)
    assert not device.runs
    assert images(caps, 100, 400, 1600) == [8, 2, 1]
