"""The event loop's own queue, measured on a loop whose time the test makes."""

import pytest

from app.serve import loop_lag as module
from app.serve.loop_lag import LoopLag


class Loop:
    """Runs its one callback late by as much as it is told."""

    def __init__(self):
        self.now = 100.0
        self.callback = None

    def time(self):
        return self.now

    def call_at(self, when, callback):
        self.when, self.callback = when, callback
        return self

    def cancel(self):
        self.callback = None

    def turn(self, late):
        self.now = self.when + late
        self.callback()


@pytest.fixture
def loop(monkeypatch):
    loop = Loop()
    monkeypatch.setattr(module.asyncio, "get_running_loop", lambda: loop)
    return loop


def test_a_loop_that_is_kept_busy_is_late_and_recovers(loop):
    lag = LoopLag()
    assert lag.seconds == 0
    for _ in range(8):
        loop.turn(0.25)
    assert lag.seconds == pytest.approx(0.25)
    for _ in range(8):
        loop.turn(0.0)
    assert lag.seconds == pytest.approx(0)


def test_one_stall_is_not_a_queue(loop):
    lag = LoopLag()
    loop.turn(5.0)
    assert lag.seconds == 0


def test_long_and_short_turns_count_by_their_mean(loop):
    lag = LoopLag()
    for late in (0.5, 0.1) * 4:
        loop.turn(late)
    assert lag.seconds == pytest.approx((3 * 0.5 + 4 * 0.1) / 7)


def test_once_closed_it_asks_no_more(loop):
    LoopLag().close()
    assert loop.callback is None
