"""How long the device needs for a batch, learnt from the batches it has run.

Knows no torch. The line `a * megapixels + b` is what a convolutional network costs: every pixel
takes the same work, and every batch the same overhead (BentoML fits the same line, over the
number of items).
"""

import math
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

_RECENT: Final = 32
"""Batches that are looked back on: enough for a line, few enough to follow a machine that has
become slower within seconds."""

_LEFT_OUT: Final = 8
"""One batch in so many, the one that fits worst, is left out: the first of a new shape, a stall."""

_OVERHEAD_DOUBT: Final = 0.1
"""Weight, in batches, of the belief that a batch has no overhead. Where the sizes tell overhead
and pixels apart it vanishes beside them; where they do not (all alike, or nearly), it keeps the
noise from inventing an overhead, and time becomes proportional to pixels."""

_SHORTEST_S: Final = 1e-6
"""Shorter times are taken for this one, so that times can be compared by their ratio."""


class Line(NamedTuple):
    """Seconds of a batch = `per_megapixel_s` * megapixels + `per_batch_s`, neither negative."""

    per_megapixel_s: float
    per_batch_s: float

    def at(self, megapixels: float) -> float:
        """Seconds of one batch of so many megapixels."""
        return self.per_megapixel_s * megapixels + self.per_batch_s


class _Batch(NamedTuple):
    images: int
    megapixels: float
    seconds: float


class CostModel:
    """The line through the most recent batches, and what follows from it.

    As long as nothing has run, everything is expected to cost nothing: nobody is turned away on
    the ground of a guess. Holds no lock: callers serialise the calls.
    """

    def __init__(self) -> None:
        self._recent: deque[_Batch] = deque(maxlen=_RECENT)
        self._line: Line | None = None
        self._photo_s = 0.0
        self._new = 0

    def add(self, *, images: int, pixels: int, seconds: float) -> None:
        """Learn from a batch that has run."""
        self._recent.append(_Batch(images, pixels / 1e6, max(seconds, _SHORTEST_S)))
        self._new += 1

    @property
    def line(self) -> Line | None:
        """The line as it is now; None before the first batch."""
        self._refresh()
        return self._line

    def _refresh(self) -> None:
        # One batch more or less moves a line through many very little, and a network that takes
        # a millisecond would have it fitted a thousand times a second.
        if self._new and self._new * _LEFT_OUT >= len(self._recent):
            line = fit_line([(batch.megapixels, batch.seconds) for batch in self._recent])
            seconds = sum(line.at(batch.megapixels) for batch in self._recent)
            self._line = line
            self._photo_s = seconds / sum(batch.images for batch in self._recent)
            self._new = 0

    def seconds(self, pixels: int, batches: int = 1) -> float:
        """Expected seconds of so many batches with so many pixels together."""
        line = self.line
        return line.per_megapixel_s * pixels / 1e6 + line.per_batch_s * batches if line else 0.0

    def seconds_of_photos(self, photos: int) -> float:
        """Expected seconds of photos of unknown size, if they are like those of late."""
        self._refresh()
        return photos * self._photo_s


def fit_line(points: Sequence[tuple[float, float]]) -> Line:
    """Fit seconds over megapixels by least squares of the relative error, without the worst.

    Relative, because a queue holds a hundred small photos or a few large ones: a second more or
    less is nothing for a photo that takes ten and absurd for one that takes ten milliseconds.

    Args:
        points: At least one of (megapixels, seconds), all positive.
    """
    # Errors relative to what was measured pay little heed to what was far too slow ...
    rough = _least_squares(points, [1 / seconds**2 for _, seconds in points])
    if len(points) < 3:
        return rough
    # ... so they tell well which points to leave out. What is left is weighted by what the line
    # says, not by what was measured: that would favour the points that happened to be fast.
    kept = sorted(points, key=lambda point: abs(math.log(point[1] / rough.at(point[0]))))
    del kept[len(kept) - max(1, len(kept) // _LEFT_OUT) :]
    line = _least_squares(kept, [1 / rough.at(megapixels) ** 2 for megapixels, _ in kept])
    # Times that contradict each other wildly tilt it out of all proportion. The rough line cannot
    # be: a line of nothing has a relative error of 1 in each point, so the best is nowhere off by
    # more than the root of their number.
    largest = max(megapixels for megapixels, _ in points)
    longest = max(seconds for _, seconds in points)
    sane = line.at(largest) <= longest * (1 + math.sqrt(len(points)))
    return line if sane else rough


def _least_squares(points: Sequence[tuple[float, float]], weights: Sequence[float]) -> Line:
    """Minimise the weighted squares of `a x + b - t`, with a and b not negative."""
    total = sum(weights)
    x = sum(weight * x for weight, (x, _) in zip(weights, points, strict=True))
    xx = sum(weight * x * x for weight, (x, _) in zip(weights, points, strict=True))
    t = sum(weight * t for weight, (_, t) in zip(weights, points, strict=True))
    xt = sum(weight * x * t for weight, (x, t) in zip(weights, points, strict=True))
    doubting = total * (1 + _OVERHEAD_DOUBT / len(points))
    # The normal equations' determinant: positive, because xx * total >= x * x.
    determinant = xx * doubting - x * x
    a = (xt * doubting - x * t) / determinant
    b = (xx * t - x * xt) / determinant
    # The optimum within bounds lies on the bound that the free optimum passes.
    if b < 0:
        return Line(xt / xx, 0.0)
    if a < 0:
        return Line(0.0, t / total)
    return Line(a, b)
