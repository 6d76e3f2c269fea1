"""A segmented photo -> the bytes of an answer, in every format of `POST /segment`."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
from pydantic_core import to_json

from app.inference.engine import Engine, Segmentation
from app.inference.render import MaskFormat, Rendering
from model import ClassInfo

JSON: Final = "application/json"
ZIP: Final = "application/zip"
GEOJSON: Final = "application/geo+json"
NPZ: Final = "application/x-npz"

_MEDIA_TYPES: Final = {
    MaskFormat.RLE: JSON,
    MaskFormat.COCO: JSON,
    MaskFormat.POLYGONS: GEOJSON,
    MaskFormat.ZIP: ZIP,
    MaskFormat.CVAT: ZIP,
    MaskFormat.PROBABILITIES: NPZ,
}
"""Of everything that is no PNG."""

_PROBABILITY_BYTES: Final = 4
"""Two for a number in the array, and two for the same in the answer that it is written to."""

_QUICK_PIXELS: Final = 262_144
"""A label map of 512x512 becomes a PNG in 0.2 ms, and in 0.8 ms if it is nothing but noise."""


@dataclass(frozen=True, slots=True)
class Wanted(Rendering):
    """What a client wants: how its answer is written, and at which scale its photo is seen.

    Attributes:
        scale: The network sees the photo at this scale; None for that of its checkpoint.
    """

    scale: float | None = None

    @property
    def needs_photo(self) -> bool:
        """Whether the answer shows the photo itself."""
        return self.format is MaskFormat.OVERLAY

    @property
    def is_large(self) -> bool:
        """Whether the answer is larger than its photo, by `large_bytes`."""
        return self.format is MaskFormat.PROBABILITIES

    def large_bytes(self, pixels: int, classes: Sequence[ClassInfo]) -> int:
        """Return what the answer takes while it is made, if that is more than a photo takes.

        Args:
            pixels: Of the photo.
            classes: The model's.
        """
        return _PROBABILITY_BYTES * pixels * len(self.extras(classes).probabilities)


@dataclass(frozen=True, slots=True)
class Rendered:
    """An encoded answer.

    Attributes:
        body: Its bytes.
        media_type: Their type.
        kept: Bytes of it that whoever encoded it holds elsewhere.
    """

    body: bytes
    media_type: str
    kept: int = 0


class Encode(Protocol):
    """Makes an answer of a segmented photo, as `render` does; other protocols bring their own."""

    def __call__(
        self,
        segmentation: Segmentation,
        photo: npt.NDArray[np.uint8] | None,
        wanted: Wanted,
        engine: Engine,
        *,
        request_id: str,
        stages_s: dict[str, float],
    ) -> Rendered:
        """Encode; see `render`."""


def is_quick(segmentation: Segmentation, wanted: Wanted) -> bool:
    """Whether `render` takes less time than another thread takes to hear of it."""
    plain = wanted.format in (MaskFormat.PNG, MaskFormat.GREY)
    return plain and segmentation.label_map.size <= _QUICK_PIXELS


def render(
    segmentation: Segmentation,
    photo: npt.NDArray[np.uint8] | None,
    wanted: Wanted,
    engine: Engine,
    *,
    request_id: str,
    stages_s: dict[str, float],
) -> Rendered:
    """Encode a label map.

    Args:
        segmentation: The label map, HxW, and the extras that `wanted` needs.
        photo: HxWx3 RGB, needed for the overlay only.
        wanted: Format and selection.
        engine: Whose classes the labels are.
        request_id: Repeated in JSON.
        stages_s: Seconds of the stages so far, for JSON.
    """
    media_type = _MEDIA_TYPES.get(wanted.format, "image/png")
    if not wanted.format.is_json:
        return Rendered(wanted.file(segmentation, photo, engine.card.classes), media_type)
    began = time.monotonic()
    # One of the documents of `schemas`, which a test holds it to: checking what was just made here
    # would take longer than writing it.
    document = wanted.document(segmentation, engine.card, engine.version, request_id=request_id)
    if wanted.format is not MaskFormat.COCO:
        milliseconds = {stage: round(seconds * 1e3, 3) for stage, seconds in stages_s.items()}
        milliseconds["encode"] = round((time.monotonic() - began) * 1e3, 3)
        document["timing_ms"] = milliseconds
    return Rendered(to_json(document), media_type)
