"""A segmented photo -> the bytes of an answer, in every format of `POST /segment`."""

import time
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
from pydantic_core import to_json

from app.inference.engine import Engine, Segmentation
from app.inference.render import MaskFormat, mask_entries, render_file
from app.serve.schemas import RleCounts

_MEDIA_TYPES: Final = {MaskFormat.ZIP: "application/zip"}
"""Of everything that is no PNG and no JSON."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a client wants to get for its photo.

    Attributes:
        format: Format of the answer.
        class_ids: Classes to keep, sorted; None keeps all.
        counts: How run lengths are written in JSON.
        scale: The network sees the photo at this scale.
        scores: Whether mean probabilities are wanted; they appear in JSON only.
    """

    format: MaskFormat
    class_ids: tuple[int, ...] | None = None
    counts: RleCounts = RleCounts.COMPRESSED
    scale: float = 1.0
    scores: bool = False

    @property
    def needs_photo(self) -> bool:
        """Whether the answer shows the photo itself."""
        return self.format is MaskFormat.OVERLAY

    @property
    def needs_scores(self) -> bool:
        """Whether the network must compute scores."""
        return self.scores and self.format is MaskFormat.RLE


@dataclass(frozen=True, slots=True)
class Rendered:
    """An encoded answer.

    Attributes:
        body: Its bytes.
        media_type: Their type.
    """

    body: bytes
    media_type: str


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
        segmentation: The label map, HxW, and scores if they are wanted.
        photo: HxWx3 RGB, needed for the overlay only.
        wanted: Format and selection.
        engine: Whose classes the labels are.
        request_id: Repeated in JSON.
        stages_s: Seconds of the stages so far, for JSON.
    """
    classes = engine.card.classes
    if wanted.format is not MaskFormat.RLE:
        body = render_file(segmentation.label_map, photo, wanted.format, classes, wanted.class_ids)
        return Rendered(body, _MEDIA_TYPES.get(wanted.format, "image/png"))
    began = time.monotonic()
    entries = mask_entries(
        segmentation,
        classes,
        wanted.class_ids,
        compressed=wanted.counts is RleCounts.COMPRESSED,
    )
    height, width = segmentation.label_map.shape
    milliseconds = {stage: round(seconds * 1e3, 3) for stage, seconds in stages_s.items()}
    milliseconds["encode"] = round((time.monotonic() - began) * 1e3, 3)
    # A `SegmentationDocument`, which a test holds it to: checking what was just made here would
    # take longer than writing it.
    document = {
        "request_id": request_id,
        "model": {"name": engine.card.name, "version": engine.version},
        "image": {"width": width, "height": height},
        "masks": entries,
        "timing_ms": milliseconds,
    }
    return Rendered(to_json(document), "application/json")
