"""Figures from samples, worked out by hand."""

import pytest

from app.bench.connection import Answer
from app.bench.load import Outcome, Sample
from app.bench.photos import Photo
from app.bench.results import (
    Distribution,
    Figures,
    fit_line,
    fit_sizes,
    medians,
    parse_server_timing,
    summarise,
)

PHOTOS = [
    Photo(480, 360, b"", "image/jpeg", 1.0),
    Photo(96, 96, b"", "image/jpeg", 1.0),
]


def sample(due, finished, *, status=200, error=None, photo=0, timing=b"", measured=True, sent=None):
    answer = Answer(status, error, finished, timing)
    return Sample(photo, due, due if sent is None else sent, measured, answer)


def outcome(*samples, opened=10.0, closed=20.0, cpu=0.1):
    return Outcome(list(samples), opened, closed, cpu)


def test_percentiles_lie_between_neighbours() -> None:
    # 0, 1, ... 100 ms: the p-th of 101 times is exactly p ms.
    times = Distribution.of([number / 1000 for number in range(101)])
    assert times.count == 101
    assert (times.mean, times.p50, times.p90, times.p99, times.longest) == pytest.approx(
        (50, 50, 90, 99, 100)
    )
    # Half way between 1 and 2; nine tenths; ninety-nine hundredths.
    two = Distribution.of([0.001, 0.002])
    assert (two.p50, two.p90, two.p99) == pytest.approx((1.5, 1.9, 1.99))


def test_a_single_time_is_all_its_percentiles() -> None:
    assert Distribution.of([0.25]) == Distribution(1, 250, 250, 250, 250, 250)


def test_medians_of_rounds() -> None:
    rounds = [Distribution(10, *[float(v)] * 5) for v in (3, 1, 100)]
    assert Distribution.median_of(rounds) == Distribution(30, 3, 3, 3, 3, 100)


def test_stages_of_the_header() -> None:
    assert parse_server_timing(b"decode;dur=1.50, queue;dur=0.25") == pytest.approx(
        {"decode": 0.0015, "queue": 0.00025}
    )
    assert parse_server_timing(b'cache;desc="hit", db;desc=x;dur=2') == {"db": 0.002}
    assert parse_server_timing(b"") == {}


def test_the_rate_counts_masks_that_arrive_while_the_window_is_open() -> None:
    figures = summarise(
        outcome(
            sample(8, 11, measured=False),  # sent in the warm-up, answered in the window
            sample(9, 9.5, measured=False),
            sample(12, 13),
            sample(13, 14),
            sample(19, 21),  # answered after it
            sample(20.5, 22, measured=False),
            sample(14, 15, status=429),
        ),
        PHOTOS,
    )
    assert figures.images_per_s == pytest.approx(3 / 10)
    assert figures.measured_s == 10
    assert (figures.sent, figures.failed) == (4, 1)


def test_failures_are_counted_by_what_they_are_and_stay_out_of_the_times_of_masks() -> None:
    figures = summarise(
        outcome(
            sample(10, 11),
            sample(11, 13),
            sample(12, 12.5, status=429),
            sample(13, 13.5, status=429),
            sample(14, 19, status=None, error="disconnected"),
        ),
        PHOTOS,
    )
    assert {name: times.count for name, times in figures.answers.items()} == {
        "200": 2,
        "429": 2,
        "disconnected": 1,
    }
    assert (figures.sent, figures.failed) == (5, 3)
    assert figures.stages["total"].p50 == pytest.approx(1500)
    assert figures.answers["disconnected"].longest == pytest.approx(5000)


def test_a_load_without_a_single_mask_has_figures_too() -> None:
    figures = summarise(outcome(sample(10, 11, status=503)), PHOTOS)
    assert (figures.images_per_s, figures.failed, figures.stages) == (0, 1, {})


def test_stages_and_the_rest_add_up_to_the_total() -> None:
    timing = b"decode;dur=1, queue;dur=2, forward;dur=30, encode;dur=4"
    figures = summarise(outcome(sample(10, 10.040, timing=timing)), PHOTOS)
    assert {stage: times.p50 for stage, times in figures.stages.items()} == pytest.approx(
        {"total": 40, "decode": 1, "queue": 2, "forward": 30, "encode": 4, "rest": 3}
    )
    assert list(figures.stages)[-1] == "rest"


def test_sizes_are_told_apart() -> None:
    figures = summarise(
        outcome(sample(10, 11), sample(10, 13, photo=1), sample(10, 14, photo=1)), PHOTOS
    )
    assert {size: stages["total"].p50 for size, stages in figures.by_size.items()} == pytest.approx(
        {"480x360": 1000, "96x96": 3500}
    )
    assert list(figures.by_size) == ["96x96", "480x360"]  # by area


def test_lateness_of_the_generator_is_told() -> None:
    figures = summarise(outcome(sample(10, 11, sent=10.5), sample(10, 11, sent=9.9)), PHOTOS)
    assert figures.late.longest == pytest.approx(500)
    assert figures.stages["total"].longest == pytest.approx(1100)


def test_medians_of_figures_know_every_name_of_any_round() -> None:
    rounds = [
        summarise(outcome(sample(10, 11), sample(10, 12, status=429)), PHOTOS),
        summarise(outcome(sample(10, 13), sample(11, 14, photo=1)), PHOTOS),
        summarise(outcome(sample(10, 15)), PHOTOS),
    ]
    figures = medians(rounds)
    assert figures.images_per_s == pytest.approx(0.1)
    assert figures.measured_s == pytest.approx(30)
    assert {name: times.count for name, times in figures.answers.items()} == {"200": 4, "429": 1}
    assert figures.by_size["480x360"]["total"].p50 == pytest.approx(3000)
    assert figures.by_size["96x96"]["total"].count == 1


def test_a_line_by_hand() -> None:
    line = fit_line([1, 2, 3], [5, 7, 9])
    assert (line.slope, line.offset, line.r_squared) == pytest.approx((2, 3, 1))
    # Means 2 and 10/3; slope 3/2, offset 1/3; residuals 1/6, -1/3, 1/6 of 14/3.
    line = fit_line([1, 2, 3], [2, 3, 5])
    assert line.slope == pytest.approx(1.5)
    assert line.offset == pytest.approx(1 / 3)
    assert line.r_squared == pytest.approx(1 - (1 / 6) / (14 / 3))
    assert fit_line([1, 2], [4, 4]).r_squared == 1


def test_a_line_needs_two_sizes() -> None:
    with pytest.raises(ValueError, match="two different sizes"):
        fit_line([1, 1], [2, 3])


def test_times_over_sizes_make_a_line() -> None:
    def figures(*sizes: str) -> Figures:
        photos = [Photo(*map(int, size.split("x")), b"", "image/jpeg", 1.0) for size in sizes]
        samples = [
            sample(0, 0.01 + photo.width * photo.height / 1e6, photo=index)
            for index, photo in enumerate(photos)
        ]
        return summarise(outcome(*samples, opened=-1, closed=20), photos)

    line = fit_sizes(figures("100x100", "1000x1000", "2000x1000"), "total")
    assert line is not None
    assert (line.slope, line.offset, line.r_squared) == pytest.approx((1000, 10, 1))
    assert fit_sizes(figures("100x100", "1000x1000"), "total") is None
    assert fit_sizes(figures("100x100", "1000x1000", "2000x1000"), "forward") is None
