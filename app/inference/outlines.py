"""The outlines of a label map's regions, along the edges of its pixels.

A region is a set of pixels of one class that are connected by their sides. Its outline is one
exterior ring and a ring for each hole, and every ring is simple: rings of one region may touch in
a point, where pixels meet at a corner only, but no ring touches or crosses itself. That is what
OGC's Simple Features (ISO 19125-1, section 6.1.11) and with it GeoJSON call a valid polygon.

All classes come from one pass over the label map. Coordinates are x to the right and y down, in
pixels from the top left corner of the image; exterior rings have a positive area by the shoelace
formula (they look clockwise on the screen, because y points down), holes a negative one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse import csgraph

from app.inference.simplify import simplify_ring
from model.classes import VOID

LabelMap = npt.NDArray[np.uint8]
Ring = npt.NDArray[np.int64]
"""Corners x, y, Nx2; the last is joined to the first, which is not repeated."""

_EAST, _SOUTH, _WEST, _NORTH = range(4)
"""Directions of the sides of rings, which have their region to the right."""


@dataclass(frozen=True, eq=False)
class Region:
    """Connected pixels of one class.

    Attributes:
        class_id: Index of the class.
        area: Number of pixels; also where the outline was simplified.
        bbox: Left, top, width and height of the tightest box around the pixels.
        exterior: The ring around it.
        holes: The rings around what is inside it and no part of it.
        rings: All of them as they are without any tolerance.
    """

    class_id: int
    area: int
    bbox: tuple[int, int, int, int]
    exterior: Ring
    holes: tuple[Ring, ...]
    rings: tuple[Ring, ...]


class _Sides(NamedTuple):
    """Straight sides of rings, one entry a side.

    Attributes:
        starts: Vertex it starts from; vertices are numbered row by row, W + 1 in a row.
        stops: Vertex it ends at.
        directions: East, south, west or north.
        labels: Class of its region.
    """

    starts: npt.NDArray[np.int64]
    stops: npt.NDArray[np.int64]
    directions: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]


def trace(label_map: LabelMap, *, tolerance: float = 0.0) -> list[Region]:
    """Return the regions of a label map by class, then from top to bottom; void has none.

    Args:
        label_map: Labels, HxW.
        tolerance: How far an outline may be from the edges of the pixels, in pixels. Neighbours
            keep their common edge: it is simplified for both alike, between the points where
            three regions or two and the border meet. What is smaller than the tolerance vanishes.
            A simplified ring may cross itself where its region is narrower than that.

    Raises:
        ValueError: Not HxW uint8, no pixels, or a tolerance below zero.
    """
    if label_map.ndim != 2 or label_map.dtype != np.uint8 or label_map.size == 0:
        raise ValueError(
            f"expected a label map, HxW uint8 with at least one pixel, got {label_map.dtype} "
            f"of shape {label_map.shape}"
        )
    if not tolerance >= 0:
        raise ValueError(f"a tolerance of {tolerance} pixels is below zero")
    # What is outside is like void: neither is a class, and no ring is wanted around it.
    padded = np.pad(label_map, 1, constant_values=VOID)
    sides = _find_sides(padded, split_at_junctions=tolerance > 0)
    rings = _link(sides, _following(sides, padded))
    corners = np.stack(np.divmod(sides.starts, label_map.shape[1] + 1)[::-1], axis=1)
    return _regions(label_map, padded, sides, rings, corners, tolerance)


def _find_sides(padded: LabelMap, *, split_at_junctions: bool) -> _Sides:
    """Find the sides of all rings, by direction and then along rows or columns.

    Args:
        padded: Label map with a border of void, (H+2)x(W+2).
        split_at_junctions: Whether a side also ends where the region beyond it does.
    """
    width = padded.shape[1] - 2
    above, below = padded[:-1, 1:-1], padded[1:, 1:-1]
    # Runs along columns are runs along the rows of the transposed map.
    left, right = (np.ascontiguousarray(part.T) for part in (padded[1:-1, :-1], padded[1:-1, 1:]))
    found = []
    for direction, inside, outside in (
        (_EAST, below, above),
        (_SOUTH, left, right),
        (_WEST, above, below),
        (_NORTH, right, left),
    ):
        lines, firsts, lasts = _runs(inside, outside, split_at_junctions)
        labels = inside[lines, firsts]
        if direction in (_EAST, _WEST):
            begin, end = lines * (width + 1) + firsts, lines * (width + 1) + lasts + 1
        else:
            begin, end = firsts * (width + 1) + lines, (lasts + 1) * (width + 1) + lines
        if direction in (_WEST, _NORTH):
            begin, end = end, begin
        found.append(_Sides(begin, end, np.full(labels.size, direction, np.uint8), labels))
    return _Sides(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _runs(
    inside: LabelMap, outside: LabelMap, split_at_junctions: bool
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return row, first and last column of the runs in which a class borders on others."""
    is_edge = (inside != outside) & (inside != VOID)
    breaks = inside[:, 1:] != inside[:, :-1]
    if split_at_junctions:
        breaks |= outside[:, 1:] != outside[:, :-1]
    begins, ends = is_edge.copy(), is_edge.copy()
    begins[:, 1:] &= breaks | ~is_edge[:, :-1]
    ends[:, :-1] &= breaks | ~is_edge[:, 1:]
    lines, firsts = np.nonzero(begins)
    return lines, firsts, np.nonzero(ends)[1]


def _around(
    padded: LabelMap, vertices: npt.NDArray[np.int64]
) -> tuple[LabelMap, LabelMap, LabelMap, LabelMap]:
    """Return the labels north-west, north-east, south-east and south-west of vertices."""
    y, x = np.divmod(vertices, padded.shape[1] - 1)
    return padded[y, x], padded[y, x + 1], padded[y + 1, x + 1], padded[y + 1, x]


def _following(sides: _Sides, padded: LabelMap) -> npt.NDArray[np.int64]:
    """Return for each side the one that follows it around its region."""
    corners = np.stack(_around(padded, sides.stops))
    everyone = np.arange(sides.labels.size)
    # The two pixels ahead: to the right, where the region is, and to the left. Going east the
    # right one is the south-east, third of the corners, and each turn moves it on by one.
    ahead_right = corners[(sides.directions + 2) % 4, everyone] == sides.labels
    ahead_left = corners[(sides.directions + 1) % 4, everyone] == sides.labels
    # Pixels that meet at a corner only are not connected: the ring stays with its own.
    turns = np.where(ahead_right, np.where(ahead_left, 3, 0), 1)
    keys = sides.starts * 4 + sides.directions
    order = np.argsort(keys)
    wanted = sides.stops * 4 + (sides.directions + turns) % 4
    following: npt.NDArray[np.int64] = order[np.searchsorted(keys[order], wanted)]
    return following


def _link(sides: _Sides, following: npt.NDArray[np.int64]) -> list[list[int]]:
    """Return simple rings, each as its sides in order; the first are those that start highest."""
    after = following.tolist()
    seen = bytearray(len(after))
    # Where a class meets itself at a corner, a ring may come by twice.
    places = sides.starts * 256 + sides.labels
    _, inverse, counts = np.unique(places, return_inverse=True, return_counts=True)
    pinched = (counts[inverse.ravel()] > 1).tolist()
    starts = sides.starts.tolist()
    rings: list[list[int]] = []
    for first in range(len(after)):
        if seen[first]:
            continue
        ring: list[int] = []
        may_touch_itself = False
        side = first
        while not seen[side]:
            seen[side] = True
            may_touch_itself |= pinched[side]
            ring.append(side)
            side = after[side]
        rings.extend(_split(ring, starts) if may_touch_itself else [ring])
    return rings


def _split(ring: list[int], starts: list[int]) -> Iterator[list[int]]:
    """Cut a ring into rings that come by no vertex twice."""
    path: list[int] = []
    depth: dict[int, int] = {}
    for side in ring:
        vertex = starts[side]
        if vertex in depth:
            loop = path[depth[vertex] :]
            del path[depth[vertex] :]
            for cut in loop:
                del depth[starts[cut]]
            yield loop
        depth[vertex] = len(path)
        path.append(side)
    yield path


def _regions(
    label_map: LabelMap,
    padded: LabelMap,
    sides: _Sides,
    rings: list[list[int]],
    corners: npt.NDArray[np.int64],
    tolerance: float,
) -> list[Region]:
    """Give each hole to the region that it is in, and describe the regions."""
    if not rings:
        return []
    members = np.concatenate([np.asarray(ring) for ring in rings])
    lengths = np.array([len(ring) for ring in rings])
    offsets = np.cumsum(lengths) - lengths
    x, y = corners[members].T
    stops_y, stops_x = np.divmod(sides.stops[members], label_map.shape[1] + 1)
    doubled_areas = np.add.reduceat(x * stops_y - stops_x * y, offsets)
    firsts = members[offsets]
    components = _components(label_map, _pixel_of(sides, firsts, label_map.shape[1]))
    total_areas = np.zeros(components.max() + 1, np.int64)
    np.add.at(total_areas, components, doubled_areas // 2)
    boxes = [
        np.minimum.reduceat(x, offsets),
        np.minimum.reduceat(y, offsets),
        np.maximum.reduceat(x, offsets),
        np.maximum.reduceat(y, offsets),
    ]

    points: list[Ring | None]
    cut = [corners[members[start : start + n]] for start, n in zip(offsets, lengths, strict=True)]
    if tolerance > 0:
        anchors = _anchors(padded, sides.starts[members])
        points = [
            simplify_ring(ring, anchors[start : start + len(ring)], tolerance)
            for ring, start in zip(cut, offsets, strict=True)
        ]
    else:
        points = list(cut)
    holes: dict[int, list[Ring]] = {}
    exact: dict[int, list[Ring]] = {}
    exteriors = []
    for index, (component, doubled) in enumerate(
        zip(components.tolist(), doubled_areas.tolist(), strict=True)
    ):
        exact.setdefault(component, []).append(cut[index])
        ring = points[index]
        if ring is None:
            continue
        if doubled > 0:
            exteriors.append((int(sides.labels[firsts[index]]), index, component))
        else:
            holes.setdefault(component, []).append(ring)
    regions = []
    for label, index, component in sorted(exteriors):
        left, top, right, bottom = (int(edge[index]) for edge in boxes)
        exterior = points[index]
        assert exterior is not None  # left out above
        regions.append(
            Region(
                label,
                int(total_areas[component]),
                (left, top, right - left, bottom - top),
                exterior,
                tuple(holes.get(component, ())),
                tuple(exact[component]),
            )
        )
    return regions


_PIXEL_OFFSETS: Final = np.array([(0, 0), (0, -1), (-1, -1), (-1, 0)])
"""(y, x) of the pixel to the right of a side, from the vertex it starts from, by direction."""


def _pixel_of(sides: _Sides, chosen: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.int64]:
    """Return the flat index of a pixel inside the region of each chosen side."""
    y, x = np.divmod(sides.starts[chosen], width + 1)
    offset_y, offset_x = _PIXEL_OFFSETS[sides.directions[chosen]].T
    pixels: npt.NDArray[np.int64] = (y + offset_y) * width + x + offset_x
    return pixels


def _components(label_map: LabelMap, pixels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return which region each of the given pixels belongs to.

    Regions are made of runs along rows: those of one class that touch are connected.

    Args:
        label_map: Labels, HxW.
        pixels: Flat indices.
    """
    begins = np.ones(label_map.shape, np.bool_)
    np.not_equal(label_map[:, 1:], label_map[:, :-1], out=begins[:, 1:])
    run_starts = np.flatnonzero(begins)
    # Two runs that overlap do so from where one of them begins.
    touching = (label_map[1:] == label_map[:-1]) & (begins[1:] | begins[:-1])
    upper = np.flatnonzero(touching)

    def run_of(places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.searchsorted(run_starts, places, side="right") - 1

    links = run_of(upper), run_of(upper + label_map.shape[1])
    graph = sparse.coo_array(
        (np.ones(upper.size, np.bool_), links), shape=(run_starts.size, run_starts.size)
    )
    _, component_of_run = csgraph.connected_components(graph, directed=False)
    components: npt.NDArray[np.int64] = component_of_run[run_of(pixels)].astype(np.int64)
    return components


def _anchors(padded: LabelMap, vertices: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return which vertices no simplification may move.

    Those are where more than two regions meet, two of them meet twice, or the image has a corner.
    """
    north_west, north_east, south_east, south_west = _around(padded, vertices)
    # Around the vertex two regions change twice.
    changes = (
        (north_west != north_east).astype(np.uint8)
        + (north_east != south_east)
        + (south_east != south_west)
        + (south_west != north_west)
    )
    y, x = np.divmod(vertices, padded.shape[1] - 1)
    at_corner = np.isin(y, (0, padded.shape[0] - 2)) & np.isin(x, (0, padded.shape[1] - 2))
    anchors: npt.NDArray[np.bool_] = (changes > 2) | at_corner
    return anchors
