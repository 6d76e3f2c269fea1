"""Outlines as rings: simple, rightly oriented, and simplified without gaps between neighbours."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from app.inference.outlines import trace

LABEL_MAPS = arrays(
    np.uint8,
    array_shapes(min_dims=2, max_dims=2, max_side=10),
    elements=st.sampled_from([0, 1, 2, 254, 255]),
)


def sides(ring):
    """Return a ring's sides as ((x, y), (x, y))."""
    points = [tuple(point) for point in ring.tolist()]
    return list(zip(points, [*points[1:], points[0]], strict=True))


def area(ring):
    return sum(x * next_y - next_x * y for (x, y), (next_x, next_y) in sides(ring)) / 2


def cells(height, width, classes, seed=0):
    """Return a label map of convex segments, HxW: each pixel has the class of the nearest point."""
    points = np.random.default_rng(seed).uniform((0, 0), (height, width), (classes, 2))
    y, x = np.mgrid[:height, :width]
    distances = [np.hypot(y - top, x - left) for top, left in points]
    return np.argmin(distances, axis=0).astype(np.uint8)


@settings(deadline=None)
@given(LABEL_MAPS)
def test_rings_are_simple_and_their_areas_are_the_pixels(label_map):
    regions = trace(label_map)
    assert [region.class_id for region in regions] == sorted(r.class_id for r in regions)
    for region in regions:
        rings = [region.exterior, *region.holes]
        for ring in rings:
            points = [tuple(point) for point in ring.tolist()]
            assert len(set(points)) == len(points) >= 4
            # Horizontal and vertical in turn: no corner is one too many.
            horizontal = [start[1] == stop[1] for start, stop in sides(ring)]
            assert all(horizontal[i] != horizontal[i - 1] for i in range(len(ring)))
        assert area(region.exterior) > 0
        assert all(area(hole) < 0 for hole in region.holes)
        assert sum(map(area, rings)) == region.area
        (left, top), (right, bottom) = region.exterior.min(0), region.exterior.max(0)
        assert region.bbox == (left, top, right - left, bottom - top)
    for class_id in (0, 1, 2, 254):
        found = sum(region.area for region in regions if region.class_id == class_id)
        assert found == np.count_nonzero(label_map == class_id)


def test_pixels_that_meet_at_a_corner_are_two_regions():
    regions = trace(np.array([[1, 0], [0, 1]], np.uint8))
    assert [(region.class_id, region.area) for region in regions] == [
        (0, 1),
        (0, 1),
        (1, 1),
        (1, 1),
    ]


def test_a_region_that_meets_itself_at_a_corner_has_a_hole_there():
    ring = np.zeros((4, 4), np.uint8)
    ring[1, 1] = ring[0, 0] = 255  # the two meet at a corner; one is on the border
    (region,) = trace(ring)
    assert len(region.holes) == 1
    assert region.area == 14


def test_what_is_in_a_hole_is_a_region_of_its_own():
    label_map = np.full((7, 7), 255, np.uint8)
    label_map[1:6, 1:6] = 3
    label_map[2:5, 2:5] = 255
    label_map[3, 3] = 3
    outer, inner = trace(label_map)
    assert (outer.area, len(outer.holes), inner.area, inner.holes) == (16, 1, 1, ())


def test_simplified_neighbours_keep_their_common_edges():
    label_map = cells(120, 160, 6)
    exact, simple = trace(label_map), trace(label_map, tolerance=2.0)
    assert len(simple) == len(exact)  # else something vanished, and left a gap

    found = {side for r in simple for ring in (r.exterior, *r.holes) for side in sides(ring)}
    height, width = label_map.shape
    for start, stop in found:
        on_border = (start[0] == stop[0] and start[0] in (0, width)) or (
            start[1] == stop[1] and start[1] in (0, height)
        )
        assert on_border != ((stop, start) in found)
    corners = [sum(len(r.exterior) for r in regions) for regions in (exact, simple)]
    assert corners[1] < corners[0] / 5
    assert [region.area for region in simple] == [region.area for region in exact]


@pytest.mark.parametrize("tolerance", [0.5, 1.5, 4.0])
def test_no_corner_is_farther_from_the_simplified_outline_than_the_tolerance(tolerance):
    label_map = cells(60, 80, 3)
    for exact, simple in zip(trace(label_map), trace(label_map, tolerance=tolerance), strict=True):
        starts = simple.exterior.astype(float)
        lines = np.roll(starts, -1, axis=0) - starts
        for point in exact.exterior:
            offsets = point - starts
            along = np.clip((offsets * lines).sum(1) / (lines * lines).sum(1), 0, 1)
            distances = np.hypot(*(offsets - along[:, None] * lines).T)
            assert distances.min() <= tolerance + 1e-9


def test_what_is_smaller_than_the_tolerance_vanishes_and_corners_of_the_image_stay():
    label_map = np.zeros((20, 20), np.uint8)
    label_map[10, 10] = 1
    (region,) = trace(label_map, tolerance=3.0)
    assert region.holes == ()
    assert sorted(region.exterior.tolist()) == [[0, 0], [0, 20], [20, 0], [20, 20]]
    assert region.area == 399


@pytest.mark.parametrize("tolerance", [0.0, 1.0])
def test_void_alone_has_no_outlines(tolerance):
    assert trace(np.full((3, 4), 255, np.uint8), tolerance=tolerance) == []


@pytest.mark.parametrize(
    ("label_map", "tolerance", "message"),
    [
        (np.zeros((2, 2), np.int64), 0.0, "int64"),
        (np.zeros((0, 2), np.uint8), 0.0, "at least one pixel"),
        (np.zeros((2, 2), np.uint8), -1.0, "below zero"),
        (np.zeros((2, 2), np.uint8), float("nan"), "nan"),
    ],
)
def test_what_cannot_be_traced_is_refused(label_map, tolerance, message):
    with pytest.raises(ValueError, match=message):
        trace(label_map, tolerance=tolerance)
