"""Which batch has how much of the device while several run side by side. Knows no torch."""

import math
from dataclasses import dataclass

_IDLE = -math.inf


@dataclass(slots=True)
class _Running:
    """One batch; `until` is when it should end."""

    parts: int
    pixels: int
    until: float


class DeviceShares:
    """A device of equal parts, of which each batch that runs has some.

    Holds no clock and no lock: callers pass the time and serialise the calls.

    Args:
        parts: How many there are, and with them the most batches at a time.
        max_pixels: Most pixels of all that run together, which bounds their memory; a batch with
            more runs alone.
    """

    def __init__(self, parts: int, *, max_pixels: int) -> None:
        self._parts = parts
        self._max_pixels = max_pixels
        self._running: dict[int, _Running] = {}

    @property
    def free(self) -> int:
        """Parts that no batch has."""
        return self._parts - sum(running.parts for running in self._running.values())

    @property
    def running(self) -> int:
        """Batches that have any."""
        return len(self._running)

    @property
    def room(self) -> float:
        """Most pixels that may run beside what runs; infinite if nothing does."""
        if not self._running:
            return math.inf
        return self._max_pixels - sum(running.pixels for running in self._running.values())

    def begin(self, lane: int, *, pixels: int, others: int, next_pixels: int | None) -> None:
        """Give a batch its share of what is free: all of it if no other could use any.

        Args:
            lane: Who runs it; nothing else of theirs runs. There must be a free part.
            pixels: Of the batch.
            others: Batches that wait.
            next_pixels: Pixels of the least that could run beside it; None if nothing can yet.
        """
        self._running[lane] = running = _Running(0, pixels, _IDLE)
        if next_pixels is None or next_pixels > self.room:
            others = 0
        running.parts = max(1, self.free // (1 + others))

    def expect(self, lane: int, until: float) -> None:
        """Note when a lane's batch should end."""
        self._running[lane].until = until

    def expect_no_more(self, lane: int) -> None:
        """Note that a lane's batch has run, or is about to begin with a part of what failed."""
        self._running[lane].until = _IDLE

    def share(self, lane: int) -> float:
        """Return the share of a lane whose batch runs."""
        return self._running[lane].parts / self._parts

    def end(self, lane: int) -> None:
        """Take back what a lane has, if it has any."""
        self._running.pop(lane, None)

    def left_s(self, now: float) -> float:
        """Seconds of the whole device that what runs should still take."""
        return sum(
            max(0.0, running.until - now) * running.parts / self._parts
            for running in self._running.values()
        )
