"""The line through recent batches: what it finds, and what must not lead it astray."""

import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.serve.cost import CostModel, Line, fit_line

SIZES = (0.009, 0.05, 0.17, 0.9, 2.8)


def times(line, sizes=SIZES * 4, noise=0.0, seed=0):
    generator = random.Random(seed)
    return [(x, line.at(x) * (1 + generator.uniform(-noise, noise))) for x in sizes]


def model(points):
    cost = CostModel()
    for megapixels, seconds in points:
        cost.add(images=1, pixels=round(megapixels * 1e6), seconds=seconds)
    return cost


def assert_near(found, expected, tolerance, sizes=SIZES):
    for x in sizes:
        assert found.at(x) == pytest.approx(expected.at(x), rel=tolerance), x


@pytest.mark.parametrize("line", [Line(0.9, 0.004), Line(0.01, 0.003), Line(0.8, 0.0)])
def test_a_line_is_found_through_noise(line):
    assert_near(fit_line(times(line)), line, 0.02)
    assert_near(fit_line(times(line, noise=0.2)), line, 0.1)


@pytest.mark.parametrize("where", range(len(SIZES)))
@pytest.mark.parametrize("factor", [30, 1000])
def test_one_stall_among_many_batches_changes_little(where, factor):
    line = Line(0.9, 0.004)
    points = times(line, noise=0.1)
    points[where] = (points[where][0], points[where][1] * factor)
    assert_near(fit_line(points), line, 0.1)


def test_a_slow_first_batch_is_outweighed_by_the_two_after_it():
    slow = [(0.17, 3.0), (0.17, 0.15), (0.17, 0.15)]
    assert fit_line(slow).at(0.17) == pytest.approx(0.15)


def test_with_batches_of_one_size_time_is_proportional_to_pixels():
    line = fit_line([(0.2, 0.1)] * 9)
    assert line.per_megapixel_s == pytest.approx(0.5)
    assert line.per_batch_s == pytest.approx(0, abs=1e-9)


def test_sizes_that_differ_by_less_than_the_noise_do_not_invent_an_overhead():
    generator = random.Random(1)
    points = [
        (0.17 + generator.uniform(-0.001, 0.001), 0.15 * generator.uniform(0.9, 1.1))
        for _ in range(32)
    ]
    assert fit_line(points).at(17.0) == pytest.approx(15, rel=0.2)


def test_neither_part_of_the_cost_is_negative():
    growing_faster = fit_line([(x, x * x) for x in (1, 2, 3, 4, 5)])
    assert growing_faster.per_batch_s == 0
    falling = fit_line([(x, 1 / x) for x in (1, 2, 3, 4, 5)])
    assert falling.per_megapixel_s == 0
    assert falling.per_batch_s > 0


@given(st.lists(st.tuples(st.floats(1e-6, 300), st.floats(1e-6, 3600)), min_size=1, max_size=40))
@example([(1.0, 0.00390625), (145.0, 1.0), (1e-06, 435.0), (1e-06, 435.0)])
def test_any_times_give_a_line_that_costs_something(points):
    line = fit_line(points)
    assert line.per_megapixel_s >= 0
    assert line.per_batch_s >= 0
    assert all(0 < line.at(x) < 1e9 for x, _ in points)


def test_before_the_first_batch_nothing_costs_anything():
    cost = CostModel()
    assert cost.line is None
    assert cost.seconds(10**7) == cost.seconds_of_photos(100) == 0


def test_a_time_of_nothing_is_no_error():
    assert model([(0.1, 0.0)] * 3).seconds(10**6) < 1e-3


def test_several_batches_pay_the_overhead_each():
    cost = model(times(Line(0.5, 0.01)))
    assert cost.seconds(2_000_000, batches=3) == pytest.approx(1.03, rel=0.02)


def test_photos_of_unknown_size_cost_what_those_of_late_did():
    cost = CostModel()
    for _ in range(3):
        cost.add(images=4, pixels=400_000, seconds=0.4)
        cost.add(images=1, pixels=600_000, seconds=0.6)
    assert cost.seconds_of_photos(10) == pytest.approx(10 * 3.0 / 15)


def test_a_machine_that_became_slower_is_followed():
    before, after = Line(0.9, 0.004), Line(2.7, 0.012)
    cost = model(times(before, SIZES * 10))
    for megapixels, seconds in times(after, SIZES * 3):
        cost.add(images=1, pixels=round(megapixels * 1e6), seconds=seconds)
    assert cost.seconds(10**6) > 1.2 * before.at(1)
    for megapixels, seconds in times(after, SIZES * 4):
        cost.add(images=1, pixels=round(megapixels * 1e6), seconds=seconds)
    assert_near(cost.line, after, 0.05)
