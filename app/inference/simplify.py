"""Fewer corners for an outline: Douglas and Peucker's algorithm, the same from either side.

D. H. Douglas and T. K. Peucker, Algorithms for the reduction of the number of points required to
represent a digitized line or its caricature, Cartographica 10 (2), 1973. Two regions run along
their common edge in opposite directions; both must choose the same corners, or gaps open between
them. So an edge is cut where others meet it, and each piece is simplified in one direction.
"""

import itertools

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.int64]
"""x, y, Nx2."""

_LEAST_CORNERS = 3


def simplify_ring(ring: Points, anchors: npt.NDArray[np.bool_], tolerance: float) -> Points | None:
    """Return a ring with fewer of its corners, or None if nothing is left of it.

    Args:
        ring: Corners, Nx2; the last is joined to the first, which is not repeated.
        anchors: Corners that stay, N.
        tolerance: How far a corner that is left out may be from the new outline, in pixels.
    """
    fixed = np.flatnonzero(anchors)
    # Without any, both neighbours begin at the same corner: the topmost, of those the leftmost.
    start = int(fixed[0]) if fixed.size else int(np.lexsort((ring[:, 0], ring[:, 1]))[0])
    closed = np.concatenate((np.roll(ring, -start, axis=0), ring[start : start + 1]))
    cuts = [*(fixed - start if fixed.size else [0]), len(ring)]
    pieces = [
        _simplify_piece(closed[first : last + 1], tolerance)[:-1]
        for first, last in itertools.pairwise(cuts)
    ]
    simple = np.concatenate(pieces)
    if len(simple) < _LEAST_CORNERS or signed_area(simple) * signed_area(ring) <= 0:
        return None
    return simple


def signed_area(ring: Points) -> float:
    """Return the area of a ring by the shoelace formula, in square pixels."""
    x, y = ring.T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def _simplify_piece(points: Points, tolerance: float) -> Points:
    """Simplify a line whose ends stay; they may be the same point."""
    inner = len(points) - 2
    if inner < 1:
        return points
    # Nothing but the points themselves may decide on the direction.
    ends = [(*points[0], *points[1]), (*points[-1], *points[-2])]
    if ends[1] < ends[0]:
        return _douglas_peucker(points[::-1], tolerance)[::-1]
    return _douglas_peucker(points, tolerance)


def _douglas_peucker(points: Points, tolerance: float) -> Points:
    kept = np.zeros(len(points), np.bool_)
    kept[[0, -1]] = True
    open_spans = [(0, len(points) - 1)]
    while open_spans:
        first, last = open_spans.pop()
        if last - first < 2:
            continue
        distances = _distances(points[first + 1 : last], points[first], points[last])
        farthest = int(distances.argmax())
        if distances[farthest] > tolerance**2:
            middle = first + 1 + farthest
            kept[middle] = True
            open_spans += [(first, middle), (middle, last)]
    return points[kept]


def _distances(
    points: Points, start: npt.NDArray[np.int64], stop: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return the squared distances of points to the line between two others."""
    line = stop - start
    offsets = points - start
    squared_length = int(line @ line)
    if squared_length:
        along = np.clip(offsets @ line / squared_length, 0, 1)
        offsets = offsets - along[:, None] * line
    squared: npt.NDArray[np.float64] = (offsets * offsets).sum(axis=1, dtype=np.float64)
    return squared
