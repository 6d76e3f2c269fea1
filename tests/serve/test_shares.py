"""Who has how much of the device."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.serve.shares import DeviceShares


def test_a_batch_with_nothing_beside_it_has_the_whole_device():
    shares = DeviceShares(4, max_pixels=100)
    assert (shares.free, shares.running, shares.room) == (4, 0, math.inf)
    shares.begin(0, pixels=30, others=0, next_pixels=None)
    assert shares.share(0) == 1
    assert (shares.free, shares.running, shares.room) == (0, 1, 70)
    shares.end(0)
    assert (shares.free, shares.running) == (4, 0)


@pytest.mark.parametrize(
    ("parts", "others", "share"), [(2, 1, 1 / 2), (2, 9, 1 / 2), (4, 1, 1 / 2), (4, 3, 1 / 4)]
)
def test_what_is_free_is_divided_among_those_that_wait(parts, others, share):
    shares = DeviceShares(parts, max_pixels=100)
    shares.begin(0, pixels=1, others=others, next_pixels=1)
    assert shares.share(0) == share


def test_what_has_no_room_beside_a_batch_is_given_no_share():
    shares = DeviceShares(2, max_pixels=100)
    shares.begin(0, pixels=60, others=3, next_pixels=41)
    assert shares.share(0) == 1


def test_a_batch_above_the_bound_has_the_whole_device():
    shares = DeviceShares(2, max_pixels=100)
    shares.begin(0, pixels=160, others=3, next_pixels=1)
    assert shares.share(0) == 1
    assert shares.room < 0


def test_what_is_left_counts_by_its_share():
    shares = DeviceShares(2, max_pixels=100)
    for lane in (0, 1):
        shares.begin(lane, pixels=1, others=1 - lane, next_pixels=1)
    shares.expect(0, 10.0)
    shares.expect(1, 14.0)
    assert shares.left_s(6.0) == 4 / 2 + 8 / 2
    assert shares.left_s(12.0) == 2 / 2  # the first takes longer than expected: who knows how much
    shares.expect_no_more(1)
    assert shares.left_s(12.0) == 0


@given(
    parts=st.integers(1, 8),
    steps=st.lists(
        st.tuples(st.integers(0, 7), st.integers(1, 60), st.integers(0, 9)), max_size=40
    ),
)
def test_no_more_is_given_than_there_is(parts, steps):
    shares = DeviceShares(parts, max_pixels=100)
    running = {}
    for lane, pixels, others in steps:
        if lane in running:
            shares.end(lane)
            del running[lane]
        elif shares.free and pixels <= shares.room:
            shares.begin(lane, pixels=pixels, others=others, next_pixels=1 if others else None)
            running[lane] = pixels
        total = sum(shares.share(lane) for lane in running)
        assert total == pytest.approx(1 - shares.free / parts)
        assert sum(running.values()) <= 100
        assert shares.free >= 0
