import platform
import queue
import sys

import pytest

from app.inference.heap import HeapTrimmer, find_trim

NEVER = 1000.0


class System:
    """A clock, and a trim that takes some of its time."""

    def __init__(self, trim_s: float) -> None:
        self.now = 10.0
        self.trims: list[float] = []
        self._trim_s = trim_s

    def trim(self) -> None:
        self.trims.append(self.now)
        self.now += self._trim_s

    def run(self, trimmer: HeapTrimmer, *, for_s: float, step_s: float = 0.125) -> None:
        until = self.now + for_s
        while self.now < until:
            with trimmer.in_use():
                self.now += step_s


def test_it_trims_once_a_second() -> None:
    system = System(trim_s=0.0)
    system.run(HeapTrimmer(system.trim, clock=lambda: system.now, idle_s=NEVER), for_s=5.0)
    assert system.trims == [11.0, 12.0, 13.0, 14.0, 15.0]


def test_slow_trims_take_a_hundredth_of_the_time() -> None:
    system = System(trim_s=0.5)
    system.run(HeapTrimmer(system.trim, clock=lambda: system.now, idle_s=NEVER), for_s=500.0)
    assert len(system.trims) == pytest.approx(10, abs=1)


def test_once_nothing_runs_it_trims_whenever_it_did_so_last() -> None:
    trims: queue.Queue[str] = queue.Queue()
    # The clock stands still: no trim is ever due beside forwards.
    trimmer = HeapTrimmer(lambda: trims.put("trim"), clock=lambda: 0.0, idle_s=0.01)
    with trimmer.in_use():
        with trimmer.in_use():
            pass
        with pytest.raises(queue.Empty):  # one still runs
            trims.get(timeout=0.1)
    assert trims.get(timeout=10) == "trim"
    with pytest.raises(queue.Empty):  # there is nothing more to give back
        trims.get(timeout=0.1)
    with pytest.raises(ZeroDivisionError), trimmer.in_use():
        raise ZeroDivisionError
    assert trims.get(timeout=10) == "trim"


def test_where_there_is_nothing_to_call_nothing_is_called() -> None:
    system = System(trim_s=0.0)
    system.run(HeapTrimmer(None, clock=lambda: system.now), for_s=5.0)
    assert not system.trims


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_goes_back_to_the_system() -> None:
    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1])

    trim = find_trim()
    assert trim is not None
    # Small pieces, and the last of them stays: the heap cannot shrink from its end.
    pieces = [bytes(1000) for _ in range(100_000)]
    last = pieces[-1]
    held = resident()
    del pieces
    trim()
    assert held - resident() > 50_000_000 / 4096
    assert sys.getsizeof(last) > 1000
