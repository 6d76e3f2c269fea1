"""GeoJSON (RFC 7946) of a label map: a feature with a MultiPolygon for each class.

Coordinates are pixels, x to the right and y down from the top left corner, and follow the edges of
the pixels: filling the polygons gives back the mask. RFC 7946 knows geographic coordinates only,
but its readers (shapely, GeoPandas, QGIS, QuPath) take any; its rules on rings hold for the
numbers as they are: the first ring of a polygon is the exterior and counterclockwise where y points
up, the others are holes and clockwise, and the last position of each repeats the first.
"""

import itertools
from collections.abc import Collection, Sequence
from typing import Any

from app.inference import masks
from app.inference.engine import Segmentation
from app.inference.entries import describe, score_of
from app.inference.outlines import Region, Ring, trace
from model import ClassInfo


def features(
    segmentation: Segmentation,
    classes: Sequence[ClassInfo],
    selected: Collection[int] | None = None,
    *,
    tolerance: float = 0.0,
) -> list[dict[str, Any]]:
    """Return the classes that are present, by index: the `features` of a FeatureCollection.

    Args:
        segmentation: Label map, HxW, and scores if they are wanted.
        classes: All classes, in index order.
        selected: Classes to keep; None keeps all.
        tolerance: How far outlines may be from the edges of the pixels; see `outlines.trace`. The
            area stays that of the pixels. Of a class that vanishes nothing is told.
    """
    kept = masks.select(segmentation.label_map, selected)
    regions = trace(kept, tolerance=tolerance)
    return [
        _feature(segmentation, classes, class_id, list(members))
        for class_id, members in itertools.groupby(regions, lambda region: region.class_id)
    ]


def _feature(
    segmentation: Segmentation, classes: Sequence[ClassInfo], class_id: int, regions: list[Region]
) -> dict[str, Any]:
    boxes = [region.bbox for region in regions]
    return {
        "type": "Feature",
        "id": class_id,
        "bbox": [
            min(left for left, _, _, _ in boxes),
            min(top for _, top, _, _ in boxes),
            max(left + width for left, _, width, _ in boxes),
            max(top + height for _, top, _, height in boxes),
        ],
        "properties": {
            **describe(segmentation, classes, class_id, sum(region.area for region in regions)),
            **score_of(segmentation, class_id),
        },
        "geometry": {
            "type": "MultiPolygon",
            "coordinates": [
                [_closed(ring) for ring in (region.exterior, *region.holes)] for region in regions
            ],
        },
    }


def _closed(ring: Ring) -> list[list[int]]:
    positions: list[list[int]] = ring.tolist()
    return [*positions, positions[0]]
