"""The image-segmentation task of Hugging Face's inference API.

https://huggingface.co/docs/inference-providers/tasks/image-segmentation: a photo as the raw body,
or in base64 within JSON beside parameters; masks as black and white PNGs in base64 within JSON.
"""

import base64
import math
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field
from pydantic_core import to_json

from app.inference.engine import Engine, Segmentation
from app.inference.masks import LabelMap
from app.inference.png import encode_grey_png
from app.serve.render import Rendered, Wanted


class SegmentationParameters(BaseModel):
    """Parameters of the task; unknown ones are ignored, as Hugging Face's servers do."""

    threshold: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Leave out classes whose mean probability over their mask is below it.",
    )
    subtask: Literal["semantic"] | None = Field(
        None, description="`semantic`, the only one that this network does."
    )
    mask_threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Without effect: every pixel has exactly one class, as in Hugging Face's own "
        "semantic segmentation.",
    )
    overlap_mask_area_threshold: float | None = Field(
        None, ge=0, le=1, description="Without effect: masks do not overlap."
    )


class SegmentationInput(BaseModel):
    """A photo and how to segment it."""

    inputs: str = Field(
        min_length=1,
        json_schema_extra={"format": "byte"},
        description="The photo in base64, or as a data URI. No URL: nothing is fetched.",
    )
    parameters: SegmentationParameters | None = None


class SegmentationOutputElement(BaseModel):
    """One class that is present in the photo."""

    label: str = Field(description="Name of the class.", examples=["road"])
    score: float = Field(
        description="Mean probability of the class over its mask.", examples=[0.981]
    )
    mask: str = Field(
        description="The mask, of the photo's own size: a grey PNG in base64, 255 where the class "
        "is, 0 elsewhere."
    )


class SegmentEncoder:
    """Makes the answer of the task; stands in for `app.serve.render.render`.

    Args:
        threshold: Classes of a lower mean probability are left out.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold

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
        """Encode; see `app.serve.render.Encode`."""
        assert segmentation.scores is not None  # `wanted` asked for them
        elements = []
        for class_id, info in enumerate(engine.card.classes):
            score = round(float(segmentation.scores[class_id]), 6)
            if math.isnan(score) or score < self._threshold:
                continue
            mask = _mask(segmentation.label_map, class_id)
            if mask is not None:
                elements.append({"label": info.name, "score": score, "mask": mask})
        return Rendered(to_json(elements), "application/json")


def _mask(label_map: LabelMap, class_id: int) -> str | None:
    found = label_map == class_id
    if not found.any():
        return None
    # 0 stays 0, and -1 is 255.
    return base64.b64encode(encode_grey_png(np.negative(found.view(np.uint8)))).decode()
