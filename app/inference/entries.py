"""What JSON says of each class in a photo: name, colour, size, score, run lengths."""

import math
from collections.abc import Collection, Sequence
from typing import Any

from app.inference import rle
from app.inference.engine import Segmentation
from model import ClassInfo


def describe(
    segmentation: Segmentation, classes: Sequence[ClassInfo], class_id: int, area: int
) -> dict[str, Any]:
    """Return a class's `class_id`, `class_name`, `color`, `area` and `fraction`.

    Args:
        segmentation: Where it was found.
        classes: All classes, in index order.
        class_id: Its index.
        area: Its pixels.
    """
    return {
        "class_id": class_id,
        "class_name": classes[class_id].name,
        "color": classes[class_id].hex_color,
        "area": area,
        "fraction": area / segmentation.label_map.size,
    }


def score_of(segmentation: Segmentation, class_id: int) -> dict[str, float]:
    """Return a class's mean probability as `score`; nothing if it was not computed."""
    if segmentation.scores is None or math.isnan(segmentation.scores[class_id]):
        return {}
    return {"score": round(float(segmentation.scores[class_id]), 6)}


def mask_entries(
    segmentation: Segmentation,
    classes: Sequence[ClassInfo],
    selected: Collection[int] | None = None,
    *,
    compressed: bool = True,
) -> list[dict[str, Any]]:
    """Describe each class that is present, by index: the `masks` of the JSON answer.

    Args:
        segmentation: Label map, HxW, and scores if they are wanted.
        classes: All classes, in index order.
        selected: Classes to keep; None keeps all.
        compressed: Whether counts are COCO's compressed string or a list.
    """
    masks_found = rle.encode_runs(segmentation.label_map, classes=selected)
    all_counts = [runs.counts for runs in masks_found]
    written: list[Any] = (
        rle.compress_each(all_counts) if compressed else [counts.tolist() for counts in all_counts]
    )
    return [
        {
            **describe(segmentation, classes, runs.class_id, runs.area),
            "bbox": runs.bbox,
            **score_of(segmentation, runs.class_id),
            "rle": {"size": segmentation.label_map.shape, "counts": counts},
        }
        for runs, counts in zip(masks_found, written, strict=True)
    ]
