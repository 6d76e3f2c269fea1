"""A segmentation -> what people asked for: the formats that server and command line share."""

from collections.abc import Sequence
from dataclasses import dataclass
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
from model import Card, ClassInfo

MIN_SCALE: Final = 0.25
MAX_SCALE: Final = 2.0
"""Range of the scale at which the network may see a photo."""

MAX_TOLERANCE: Final = 100.0
"""How far simplified outlines may be from the pixels, at most, in pixels."""

UNNAMED: Final = "image"
"""Name of a photo that came without one."""


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
        """Whether `Rendering.document` writes it; `Rendering.file` writes the others."""
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


@dataclass(frozen=True, slots=True)
class Rendering:
    """How a segmentation is written.

    Attributes:
        format: The format.
        selected: Indices of the classes to keep, sorted; None keeps all.
        name: File name of the photo, which some formats repeat.
        scores: Whether mean probabilities are wanted; they appear in JSON only.
        compressed: Whether JSON has run lengths as COCO's compressed string or as a list.
        tolerance: How far polygons may be from the edges of the pixels, in pixels.
    """

    format: MaskFormat
    selected: tuple[int, ...] | None = None
    name: str = UNNAMED
    scores: bool = False
    compressed: bool = True
    tolerance: float = 0.0

    def extras(self, classes: Sequence[ClassInfo]) -> Extras:
        """Return what the network must compute besides the label map, for a model's classes."""
        if self.format is MaskFormat.PROBABILITIES:
            return Extras(probabilities=tuple(self._chosen(classes)))
        return Extras(
            scores=self.scores and self.format.is_json,
            confidence=self.format is MaskFormat.CONFIDENCE,
        )

    def file(
        self,
        segmentation: Segmentation,
        photo: NDArray[np.uint8] | None,
        classes: Sequence[ClassInfo],
    ) -> bytes:
        """Encode a segmentation as an image, an archive of images, or arrays.

        Args:
            segmentation: Label map, HxW, and what `extras` told.
            photo: HxWx3 RGB; only the overlay needs it.
            classes: All classes, in index order.

        Raises:
            ValueError: For JSON, or if the photo or an extra is missing.
        """
        label_map, selected = segmentation.label_map, self.selected
        if self.format is MaskFormat.ZIP:
            return masks.zip_of_masks(label_map, classes, selected)
        if self.format is MaskFormat.CVAT:
            return cvat_zip(label_map, classes, selected, stem=PurePath(self.name).stem)
        if self.format is MaskFormat.PROBABILITIES and segmentation.probabilities is not None:
            return probabilities_npz(segmentation.probabilities, self._chosen(classes), classes)
        kept = masks.select(label_map, selected)
        if self.format is MaskFormat.PNG:
            return masks.palette_png(kept, classes)
        if self.format is MaskFormat.GREY:
            return masks.grey_png(kept)
        if self.format is MaskFormat.OVERLAY and photo is not None:
            return masks.overlay_png(photo, kept, classes)
        if self.format is MaskFormat.CONFIDENCE and segmentation.confidence is not None:
            return masks.confidence_png(segmentation.confidence, kept)
        raise ValueError(f"{self.format} cannot be made from what there is")

    def document(
        self, segmentation: Segmentation, card: Card, version: str, **about: str
    ) -> dict[str, Any]:
        """Return a segmentation as a document that is JSON.

        COCO's says in `info` where it comes from, the others at their beginning.

        Args:
            segmentation: Label map, HxW, and what `extras` told.
            card: Describes the model.
            version: The model's.
            **about: What to say before the model, such as a `request_id`.

        Raises:
            ValueError: If the format is not JSON.
        """
        classes, selected = card.classes, self.selected
        origin = {**about, "model": {"name": card.name, "version": version}}
        if self.format is MaskFormat.COCO:
            return {
                "info": {"description": "Segmentation of one photo", "version": "1.0", **origin},
                "licenses": [],
                **coco_document(
                    segmentation,
                    classes,
                    selected,
                    file_name=self.name,
                    compressed=self.compressed,
                    tolerance=self.tolerance,
                ),
            }
        height, width = segmentation.label_map.shape
        image = {"width": width, "height": height}
        if self.format is MaskFormat.POLYGONS:
            found = features(segmentation, classes, selected, tolerance=self.tolerance)
            return {"type": "FeatureCollection", **origin, "image": image, "features": found}
        if self.format is MaskFormat.RLE:
            entries = mask_entries(segmentation, classes, selected, compressed=self.compressed)
            return {**origin, "image": image, "masks": entries}
        raise ValueError(f"{self.format} is no JSON")

    def _chosen(self, classes: Sequence[ClassInfo]) -> Sequence[int]:
        return range(len(classes)) if self.selected is None else self.selected
