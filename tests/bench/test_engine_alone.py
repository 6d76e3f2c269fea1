"""The engine alone, with an engine whose forwards take as long as a test says."""

import threading
from types import SimpleNamespace

import pytest

from app.bench import engine_alone
from app.bench.engine_alone import EngineAlone
from app.bench.photos import drawn_photos, parse_sizes
from app.errors import UsageError


class TimedEngine:
    """Forwards of (batch, pixels of a photo) take `cost(batch, pixels)` seconds of `now`."""

    def __init__(self, cost) -> None:
        self.cost = cost
        self.now = 0.0
        self.batches: list[tuple[int, int]] = []

    def segment(self, photos):
        (shape,) = {photo.shape for photo in photos}
        batch = len(photos), shape[0] * shape[1]
        self.batches.append(batch)
        self.now += self.cost(*batch)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch):
    def make(
        sizes: str, cost, max_images: int = 16, lanes: int = 1
    ) -> tuple[EngineAlone, TimedEngine]:
        engine = TimedEngine(cost)
        timer = SimpleNamespace(perf_counter=lambda: engine.now)
        monkeypatch.setattr(engine_alone, "time", timer)
        photos = drawn_photos(parse_sizes(sizes), file_format="png", seed=0)
        return EngineAlone(engine, photos, max_images=max_images, lanes=lanes), engine

    return make


def test_each_size_gets_the_batch_that_suits_it(alone) -> None:
    def cost(batch: int, pixels: int) -> float:
        # 10 ms a batch and 1 ms a photo while they are small; large ones lose in batches.
        return 0.010 + 0.001 * batch if pixels < 500 else 0.030 * batch + 0.005 * (batch - 1)

    engine, _ = alone("20x20:3,30x30", cost)
    engine.find_best_batches()
    figures = engine.measure(1.0)
    small, large = figures.by_size["20x20"], figures.by_size["30x30"]
    assert (small.batch, large.batch) == (16, 1)
    assert small.forward.p50 == pytest.approx(11)
    assert small.ms_per_image == pytest.approx(26 / 16)
    assert large.forward.p50 == pytest.approx(30)
    # Three small photos for each large one.
    assert figures.images_per_s == pytest.approx(4 / (3 * 0.026 / 16 + 0.030))


def test_no_batch_is_larger_than_the_servers(alone) -> None:
    engine, timed = alone("20x20", lambda batch, pixels: 0.01, max_images=5)
    engine.find_best_batches()
    assert {batch for batch, _ in timed.batches} == {1, 2, 4}


@pytest.mark.parametrize(("beside_s", "lanes", "ms"), [(0.004, 2, 4), (0.02, 1, 10)])
def test_batches_run_side_by_side_where_that_is_faster(alone, beside_s, lanes, ms) -> None:
    def cost(batch: int, pixels: int) -> float:
        return beside_s if threading.current_thread().name.startswith("2 at a time") else 0.01

    engine, _ = alone("20x20", cost, max_images=1, lanes=2)
    engine.find_best_batches()
    figures = engine.measure(0.5).by_size["20x20"]
    assert (figures.batch, figures.lanes) == (1, lanes)
    assert figures.forward.p50 == pytest.approx(10)
    assert figures.ms_per_image == pytest.approx(ms)


def test_batches_are_bounded_in_pixels(alone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_alone, "_SWEEP_PIXELS", 1000)
    engine, timed = alone("20x20,40x40", lambda batch, pixels: 0.01)
    engine.find_best_batches()
    assert set(timed.batches) == {(1, 400), (2, 400), (1, 1600)}


def test_a_round_lasts_about_as_long_as_asked_for(alone) -> None:
    engine, timed = alone("20x20,40x40", lambda batch, pixels: 0.01 * batch)
    engine.find_best_batches()
    before = timed.now
    engine.measure(2.0)
    assert 1.0 <= timed.now - before <= 2.5


def test_medians_of_rounds(alone) -> None:
    factor = [1.0]
    engine, _ = alone("20x20", lambda batch, pixels: 0.01 * factor[0] * batch)
    engine.find_best_batches()
    rounds = []
    for factor[0] in (1.0, 5.0, 2.0):
        rounds.append(engine.measure(0.5))
    figures = engine.medians(rounds)
    assert figures.images_per_s == pytest.approx(50)
    assert figures.by_size["20x20"].forward.p50 == pytest.approx(20)


def test_a_photo_that_cannot_be_decoded_is_one_line() -> None:
    (photo,) = drawn_photos(parse_sizes("20x20"), file_format="png", seed=0)
    broken = photo._replace(body=photo.body[:60])
    with pytest.raises(UsageError, match="a photo of 20x20 cannot be decoded"):
        EngineAlone(TimedEngine(lambda batch, pixels: 0.0), [broken], max_images=1)
