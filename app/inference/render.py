"""A segmentation -> what people asked for: the formats that server and command line share."""

import math
from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from app.inference import masks, rle
from app.inference.engine import Segmentation
from model import ClassInfo

MIN_SCALE: Final = 0.25
MAX_SCALE: Final = 2.0
"""Range of the scale at which the network may see a photo."""


class MaskFormat(StrEnum):
    """How masks are written."""

    PNG = "png"
    GREY = "grey"
    RLE = "rle"
    OVERLAY = "overlay"
    ZIP = "zip"


class UnknownClassError(ValueError):
    """A class is asked for that the model does not have; the message lists those it has."""


def class_ids(spec: str | None, classes: Sequence[ClassInfo]) -> tuple[int, ...] | None:
    """Turn `car,road,7` into class indices, sorted and without repeats; None selects all.

    A word is a name if a class has it, else an index.

    Raises:
        UnknownClassError: If a word is neither.
    """
    if spec is None:
        return None
    index_of = {info.name: index for index, info in enumerate(classes)}
    chosen: set[int] = set()
    unknown: list[str] = []
    for word in (part.strip() for part in spec.split(",")):
        if word in index_of:
            chosen.add(index_of[word])
        elif word.isascii() and word.isdecimal() and len(word) <= 3 and int(word) < len(classes):
            chosen.add(int(word))
        else:
            unknown.append(word)
    if unknown:
        known = ", ".join(f"{info.name} ({index})" for index, info in enumerate(classes))
        named = ", ".join(repr(word[:60]) for word in unknown[:5])
        raise UnknownClassError(
            f"Unknown class {named}; the classes of this model, by name (or index): {known}."
        )
    return tuple(sorted(chosen))


def render_file(
    label_map: NDArray[np.uint8],
    photo: NDArray[np.uint8] | None,
    mask_format: MaskFormat,
    classes: Sequence[ClassInfo],
    selected: Collection[int] | None = None,
) -> bytes:
    """Encode a label map as an image or a zip of images.

    Args:
        label_map: HxW.
        photo: HxWx3 RGB; only the overlay needs it.
        mask_format: Any but `RLE`, which is no file but JSON: see `mask_entries`.
        classes: All classes, in index order.
        selected: Classes to keep; None keeps all.

    Raises:
        ValueError: For `RLE`, or an overlay without its photo.
    """
    if mask_format is MaskFormat.ZIP:
        return masks.zip_of_masks(label_map, classes, selected)
    kept = masks.select(label_map, selected)
    if mask_format is MaskFormat.PNG:
        return masks.palette_png(kept, classes)
    if mask_format is MaskFormat.GREY:
        return masks.grey_png(kept)
    if mask_format is MaskFormat.OVERLAY and photo is not None:
        return masks.overlay_png(photo, kept, classes)
    raise ValueError(f"{mask_format} cannot be made from a label map alone")


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
    height, width = segmentation.label_map.shape
    masks_found = rle.encode_runs(segmentation.label_map, classes=selected)
    all_counts = [runs.counts for runs in masks_found]
    written: list[Any] = (
        rle.compress_each(all_counts) if compressed else [counts.tolist() for counts in all_counts]
    )
    entries = []
    for runs, counts in zip(masks_found, written, strict=True):
        info = classes[runs.class_id]
        entry: dict[str, Any] = {
            "class_id": runs.class_id,
            "class_name": info.name,
            "color": info.hex_color,
            "area": runs.area,
            "fraction": runs.area / (height * width),
            "bbox": runs.bbox,
        }
        if segmentation.scores is not None and not math.isnan(segmentation.scores[runs.class_id]):
            entry["score"] = round(float(segmentation.scores[runs.class_id]), 6)
        entry["rle"] = {"size": (height, width), "counts": counts}
        entries.append(entry)
    return entries
