"""Label Studio's protocol for machine learning backends: pre-annotations by brush masks.

https://labelstud.io/guide/ml_create: Label Studio posts tasks together with the project's labelling
configuration; the answer has a prediction for each task, in the order of the tasks.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json

from app.inference.brush_rle import encode_brush_masks
from app.inference.engine import Engine, Segmentation
from app.serve.protocols.errors import InvalidRequestError
from app.serve.render import Rendered, Wanted
from model import ClassInfo

MOST_TASKS: Final = 100
"""In one request; what Label Studio sends at a time, `MLBackendPredictionJob.batch_size`."""

_CONTROL: Final = "BrushLabels"
_OBJECT: Final = "Image"
_ID_BYTES: Final = 5


class Task(BaseModel):
    """A task of a project; what else Label Studio says of it plays no role."""

    id: int | str | None = None
    data: dict[str, Any] = Field(
        examples=[{"image": "/data/local-files/?d=street/0001.jpg"}],
        description="The image is a data URI, or a file of Label Studio's local storage if "
        "`FCN_LABEL_STUDIO_FILES` is set.",
    )


class PredictRequest(BaseModel):
    """Tasks to segment, and what their project labels."""

    tasks: list[Task] = Field(min_length=1, max_length=MOST_TASKS)
    label_config: str = Field(
        max_length=262_144,
        description="The project's labelling configuration: an `Image` and `BrushLabels` for it.",
        examples=[
            '<View><Image name="image" value="$image"/><BrushLabels name="tag" toName="image">'
            '<Label value="road"/></BrushLabels></View>'
        ],
    )


class Prediction(BaseModel):
    """The masks of one task."""

    model_config = ConfigDict(protected_namespaces=())

    model_version: str
    score: float = Field(description="Mean probability over all pixels of the masks.")
    result: list[dict[str, Any]] = Field(description="Regions of type `brushlabels`.")
    error: str | None = Field(
        None, description="Why there are no masks, if this task failed and others did not."
    )


class PredictResponse(BaseModel):
    """A prediction for each task."""

    model_config = ConfigDict(protected_namespaces=())

    results: list[Prediction]
    model_version: str


class SetupResponse(BaseModel):
    """Which model serves."""

    model_config = ConfigDict(protected_namespaces=())

    model_version: str


class BackendHealth(BaseModel):
    """Whether new work is taken."""

    model_config = ConfigDict(protected_namespaces=())

    status: str = Field(examples=["UP"])
    model_class: str = Field(examples=["camvid-fcn8s-vgg16_bn"])


@dataclass(frozen=True)
class BrushControl:
    """What a labelling configuration asks for.

    Attributes:
        from_name: Name of its `BrushLabels`.
        to_name: Name of the `Image` they are for.
        data_key: Where a task's data have the image.
        labels: Class index -> the label that stands for it.
    """

    from_name: str
    to_name: str
    data_key: str
    labels: dict[int, str]


def parse_label_config(config: str, classes: Sequence[ClassInfo]) -> BrushControl:
    """Find the brush labels of a project and which classes of the model they stand for.

    A label stands for the class of its `value` or `alias`, or for those that its attribute
    `predicted_values` lists, separated by commas. Upper and lower case are the same.

    Raises:
        InvalidRequestError: If it is no XML, has no brush labels for an image, or no label that is
            a class of the model.
    """
    root = _parse_xml(config)
    images = {tag.get("name"): tag.get("value", "") for tag in root.iter() if _is(tag, _OBJECT)}
    controls = [tag for tag in root.iter() if _is(tag, _CONTROL) and tag.get("toName") in images]
    if not controls:
        raise InvalidRequestError(
            f"The labelling configuration has no {_CONTROL} for an {_OBJECT}; masks need them."
        )
    control = controls[0]
    to_name = control.get("toName", "")
    value = images[to_name]
    if not value.startswith("$"):
        raise InvalidRequestError(
            f"The {_OBJECT} {to_name[:60]!r} has the value {value[:60]!r}; it must name a field of "
            "the tasks, like $image."
        )
    labels = _labels(control, classes)
    if not labels:
        known = ", ".join(info.name for info in classes)
        raise InvalidRequestError(
            f"No label of {control.get('name', '')[:60]!r} is a class of this model; its classes: "
            f"{known}. A label of another name needs predicted_values with theirs."
        )
    return BrushControl(control.get("name", ""), to_name, value[1:], labels)


class BrushEncoder:
    """Makes a `Prediction` in JSON; stands in for `app.serve.render.render`.

    Args:
        control: What the project labels.
        version: The `model_version` that it says.
    """

    def __init__(self, control: BrushControl, version: str) -> None:
        self._control = control
        self._version = version

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
        height, width = segmentation.label_map.shape
        found = encode_brush_masks(segmentation.label_map, classes=self._control.labels)
        scores = [round(float(segmentation.scores[mask.class_id]), 6) for mask in found]
        regions = [
            {
                "id": secrets.token_hex(_ID_BYTES),
                "from_name": self._control.from_name,
                "to_name": self._control.to_name,
                "type": "brushlabels",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "score": score,
                "value": {
                    "format": "rle",
                    "rle": list(mask.rle),
                    "brushlabels": [self._control.labels[mask.class_id]],
                },
            }
            for mask, score in zip(found, scores, strict=True)
        ]
        area = sum(mask.area for mask in found)
        total = sum(score * mask.area for mask, score in zip(found, scores, strict=True))
        score = round(total / area, 6) if area else 0.0
        prediction = {"model_version": self._version, "score": score, "result": regions}
        return Rendered(to_json(prediction), "application/json")


def failed_prediction(version: str, error: Exception) -> bytes:
    """Return the JSON of a `Prediction` for a task that could not be segmented."""
    return to_json({"model_version": version, "score": 0.0, "result": [], "error": str(error)})


def predictions(results: Sequence[bytes], version: str) -> bytes:
    """Put the JSON of several `Prediction`s into that of a `PredictResponse`."""
    return b'{"results":[%b],"model_version":%b}' % (b",".join(results), to_json(version))


def _parse_xml(config: str) -> ElementTree.Element:
    # Entities could expand without end, or name files; no labelling configuration has them.
    if "<!" in config.replace("<!--", ""):
        raise InvalidRequestError("The labelling configuration must not declare anything (`<!`).")
    try:
        return ElementTree.fromstring(config)
    except (ElementTree.ParseError, ValueError) as error:
        raise InvalidRequestError(f"The labelling configuration is no XML: {error}.") from None


def _is(tag: ElementTree.Element, name: str) -> bool:
    return tag.tag.lower() == name.lower() and bool(tag.get("name"))


def _labels(control: ElementTree.Element, classes: Sequence[ClassInfo]) -> dict[int, str]:
    index_of = {info.name.casefold(): index for index, info in enumerate(classes)}
    labels: dict[int, str] = {}
    for tag in control.iter("Label"):
        # The alias is what annotations say, if there is one.
        shown = tag.get("alias") or tag.get("value") or ""
        names = tag.get("predicted_values", "").split(",")
        for name in (*names, tag.get("value", ""), tag.get("alias", "")):
            index = index_of.get(name.strip().casefold())
            if index is not None:
                labels.setdefault(index, shown)
    return labels
