"""What an inference request of the Open Inference Protocol wants, and the body of its answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic_core import to_json

from app.inference import masks
from app.inference.engine import Engine, Segmentation
from app.inference.render import MaskFormat, class_ids
from app.serve.protocols.open_inference import (
    DATATYPES,
    LABEL_MAP,
    OUTPUTS,
    SCORES,
    InferenceRequest,
    model_version,
    refuse_extensions,
)
from app.serve.protocols.tensors import label_map_as_json
from app.serve.render import Rendered, Wanted
from model import ClassInfo


@dataclass(frozen=True)
class WantedTensors:
    """Which outputs a request wants, and how.

    Attributes:
        binary: Name -> whether it stands behind the JSON; in the wanted order.
    """

    binary: dict[str, bool]

    @classmethod
    def of(cls, request: InferenceRequest) -> "WantedTensors":
        """Read a request.

        Raises:
            InvalidRequestError: If it wants what is not offered.
        """
        default = request.parameters.binary_data_output
        if not request.outputs:
            return cls(dict.fromkeys(OUTPUTS, default))
        binary: dict[str, bool] = {}
        for output in request.outputs:
            refuse_extensions(output.name, output.parameters)
            given = output.parameters.binary_data
            binary[output.name] = default if given is None else given
        return cls(binary)


def wanted_of(
    request: InferenceRequest, tensors: WantedTensors, classes: Sequence[ClassInfo]
) -> Wanted:
    """Return what the pipeline is asked for.

    Raises:
        UnknownClassError: If a class is wanted that the model does not have.
    """
    scores = SCORES in tensors.binary
    return Wanted(
        format=MaskFormat.RLE if scores else MaskFormat.GREY,
        selected=class_ids(request.parameters.classes, classes),
        scale=request.parameters.scale,
        scores=scores,
    )


class TensorEncoder:
    """Makes one photo's part of each output; stands in for `app.serve.render.render`.

    Args:
        tensors: Which outputs are wanted, and how.

    Attributes:
        size: Height and width of the photo, once it is segmented.
        parts: Name -> the photo's part of an output: bytes, or JSON numbers with commas between.
    """

    def __init__(self, tensors: WantedTensors) -> None:
        self._tensors = tensors
        self.size = (0, 0)
        self.parts: dict[str, bytes] = {}

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
        """Encode; see `app.serve.render.Encode`. What is returned is of no use alone."""
        height, width = segmentation.label_map.shape
        self.size = (height, width)
        for name, binary in self._tensors.binary.items():
            if name == LABEL_MAP:
                labels = masks.select(segmentation.label_map, wanted.selected)
                self.parts[name] = labels.tobytes() if binary else label_map_as_json(labels)
            else:
                assert segmentation.scores is not None  # `wanted` asked for them
                # A class without pixels has no mean, and JSON no `nan`.
                scores = np.nan_to_num(segmentation.scores).astype("<f4")
                self.parts[name] = scores.tobytes() if binary else to_json(scores.tolist())[1:-1]
        kept = sum(map(len, self.parts.values()))
        return Rendered(b"", "application/octet-stream", kept)


def response_body(
    request: InferenceRequest,
    tensors: WantedTensors,
    photos: Sequence[TensorEncoder],
    engine: Engine,
) -> tuple[bytes, int | None]:
    """Put an answer together.

    Args:
        request: What is answered.
        tensors: Which outputs it wants, and how.
        photos: Every photo's parts of them, in order; photos of one size, see `check_sizes`.
        engine: The model.

    Returns:
        The body, and how long its JSON is, None if nothing stands behind that.
    """
    described = []
    behind = []
    for name, binary in tensors.binary.items():
        parts = [photo.parts[name] for photo in photos]
        shape = photos[0].size if name == LABEL_MAP else (len(engine.card.classes),)
        entry: dict[str, Any] = {
            "name": name,
            "shape": [len(photos), *shape],
            "datatype": DATATYPES[name],
        }
        if binary:
            entry["parameters"] = {"binary_data_size": sum(map(len, parts))}
            behind += parts
            described.append(to_json(entry))
        else:
            described.append(b'%b,"data":[%b]}' % (to_json(entry)[:-1], b",".join(parts)))
    head: dict[str, Any] = {
        "model_name": engine.card.name,
        "model_version": model_version(engine),
    }
    if request.id is not None:
        head["id"] = request.id
    document = b'%b,"outputs":[%b]}' % (to_json(head)[:-1], b",".join(described))
    if not behind:
        return document, None
    return b"".join((document, *behind)), len(document)
