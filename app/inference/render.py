"""A segmentation -> what people asked for: the formats that server and command line share."""

from collections.abc import Collection, Sequence
from enum import StrEnum
from pathlib import PurePath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from app.inference import masks
from app.inference.coco import coco_document
from app.inference.cvat import cvat_zip
from app.inference.engine import Segmentation
from app.inference.entries import mask_entries
from app.inference.network import Extras
from app.inference.polygons import features
from app.inference.probabilities import probabilities_npz
from model import ClassInfo

MIN_SCALE: Final = 0.25
MAX_SCALE: Final = 2.0
"""Range of the scale at which the network may see a photo."""

MAX_TOLERANCE: Final = 100.0
"""How far simplified outlines may be from the pixels, at most, in pixels."""


class MaskFormat(StrEnum):
    """How masks are written."""

    PNG = "png"
    GREY = "grey"
    RLE = "rle"
    OVERLAY = "overlay"
    ZIP = "zip"
    POLYGONS = "polygons"
    COCO = "coco"
    CVAT = "cvat"
    PROBABILITIES = "probabilities"
    CONFIDENCE = "confidence"

    @property
    def is_json(self) -> bool:
        """Whether it is written by `render_document`; `render_file` writes the others."""
        return self in (MaskFormat.RLE, MaskFormat.POLYGONS, MaskFormat.COCO)

    @property
    def suffix(self) -> str:
        """Of its files, with the dot."""
        return _SUFFIXES.get(self, ".png")


_SUFFIXES: Final = {
    MaskFormat.RLE: ".json",
    MaskFormat.ZIP: ".zip",
    MaskFormat.POLYGONS: ".geojson",
    MaskFormat.COCO: ".json",
    MaskFormat.CVAT: ".zip",
    MaskFormat.PROBABILITIES: ".npz",
}
"""Of everything that is no PNG."""


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


def needed_extras(
    mask_format: MaskFormat,
    classes: Sequence[ClassInfo],
    selected: tuple[int, ...] | None = None,
    *,
    scores: bool = False,
) -> Extras:
    """Return what a format needs besides label maps.

    Args:
        mask_format: The format.
        classes: All classes, in index order.
        selected: Classes to keep; None keeps all.
        scores: Whether scores are wanted; only JSON shows them.
    """
    if mask_format is MaskFormat.PROBABILITIES:
        return Extras(probabilities=tuple(range(len(classes))) if selected is None else selected)
    return Extras(
        scores=scores and mask_format.is_json,
        confidence=mask_format is MaskFormat.CONFIDENCE,
    )


def render_file(
    segmentation: Segmentation,
    photo: NDArray[np.uint8] | None,
    mask_format: MaskFormat,
    classes: Sequence[ClassInfo],
    selected: tuple[int, ...] | None = None,
    *,
    name: str,
) -> bytes:
    """Encode a segmentation as an image, an archive of images, or arrays.

    Args:
        segmentation: Label map, HxW, and what `needed_extras` told.
        photo: HxWx3 RGB; only the overlay needs it.
        mask_format: Any that is not JSON.
        classes: All classes, in index order.
        selected: Classes to keep, sorted; None keeps all.
        name: File name of the photo.

    Raises:
        ValueError: For JSON, or if the photo or an extra is missing.
    """
    label_map = segmentation.label_map
    if mask_format is MaskFormat.ZIP:
        return masks.zip_of_masks(label_map, classes, selected)
    if mask_format is MaskFormat.CVAT:
        return cvat_zip(label_map, classes, selected, stem=PurePath(name).stem)
    if mask_format is MaskFormat.PROBABILITIES and segmentation.probabilities is not None:
        class_ids = range(len(classes)) if selected is None else selected
        return probabilities_npz(segmentation.probabilities, class_ids, classes)
    kept = masks.select(label_map, selected)
    if mask_format is MaskFormat.PNG:
        return masks.palette_png(kept, classes)
    if mask_format is MaskFormat.GREY:
        return masks.grey_png(kept)
    if mask_format is MaskFormat.OVERLAY and photo is not None:
        return masks.overlay_png(photo, kept, classes)
    if mask_format is MaskFormat.CONFIDENCE and segmentation.confidence is not None:
        return masks.confidence_png(segmentation.confidence, kept)
    raise ValueError(f"{mask_format} cannot be made from what there is")


def render_document(
    segmentation: Segmentation,
    mask_format: MaskFormat,
    classes: Sequence[ClassInfo],
    selected: Collection[int] | None = None,
    *,
    name: str,
    compressed: bool = True,
    tolerance: float = 0.0,
) -> dict[str, Any]:
    """Return the part of a JSON answer that tells of the masks.

    Args:
        segmentation: Label map, HxW, and scores if they are wanted.
        mask_format: One that is JSON.
        classes: All classes, in index order.
        selected: Classes to keep; None keeps all.
        name: File name of the photo.
        compressed: Whether run lengths are COCO's compressed string or a list.
        tolerance: How far polygons may be from the edges of the pixels, in pixels.

    Raises:
        ValueError: If the format is not JSON.
    """
    if mask_format is MaskFormat.RLE:
        return {"masks": mask_entries(segmentation, classes, selected, compressed=compressed)}
    if mask_format is MaskFormat.POLYGONS:
        return {"features": features(segmentation, classes, selected, tolerance=tolerance)}
    if mask_format is MaskFormat.COCO:
        return coco_document(
            segmentation,
            classes,
            selected,
            file_name=name,
            compressed=compressed,
            tolerance=tolerance,
        )
    raise ValueError(f"{mask_format} is no JSON")
