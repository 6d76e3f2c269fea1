"""The server's answers -> results, or a typed error; believes nothing that it has not checked."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import httpx
import numpy as np

from app.client.errors import ProtocolError, SegmentationError, error_class
from app.client.results import VOID, ClassInfo, Health, Model, Segmentation, paint
from app.client.retries import Clock, retry_after_s

MAX_PIXELS: Final = 2**30
"""Larger label maps are refused: no photo is, and garbage must not take all memory."""

T = TypeVar("T")


@dataclass(frozen=True)
class Reply:
    """A whole HTTP answer."""

    status: int
    headers: httpx.Headers
    body: bytes

    @property
    def media_type(self) -> str:
        """The content type without its parameters, in lower case."""
        content_type: str = self.headers.get("content-type", "")
        return content_type.partition(";")[0].strip().lower()


def read_json(reply: Reply) -> Any:
    """Return what the body of an answer says.

    Raises:
        ValueError: If it is no JSON.
    """
    try:
        return json.loads(reply.body)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def failure(reply: Reply, what: str, request_id: str, clock: Clock) -> SegmentationError:
    """Return the error that an answer with another status than 200 stands for.

    Args:
        reply: The answer.
        what: The request, as in `POST http://host/segment`.
        request_id: That it was sent with.
        clock: To read Retry-After by.
    """
    problem: Mapping[str, Any] = {}
    if reply.media_type == "application/problem+json":
        try:
            problem = _object(read_json(reply))
        except (ValueError, TypeError):
            problem = {}  # as good as none
    kind, detail = problem.get("type"), problem.get("detail")
    kind = kind if isinstance(kind, str) else None
    if not isinstance(detail, str):
        detail = f"{what} was answered with status {reply.status}"
        if 300 <= reply.status < 400 and "location" in reply.headers:
            detail += f", which leads to {reply.headers['location']}: use that address"
    return error_class(reply.status, kind)(
        detail,
        status=reply.status,
        type=kind,
        request_id=reply.headers.get("x-request-id", request_id),
        retry_after_s=retry_after_s(reply.headers, clock),
    )


@dataclass(frozen=True)
class Masks:
    """The JSON of a segmented photo, checked: everything of it but the model's other classes."""

    size: tuple[int, int]
    model: str
    version: str
    request_id: str
    timing: Mapping[str, float]
    runs: list[tuple[int, list[int]]]
    present: tuple[ClassInfo, ...]
    scores: Mapping[str, float]

    def segmentation(
        self, photo: bytes, model: Model, classes: str | None, *, scores: bool
    ) -> Segmentation:
        """Make the result of it.

        Args:
            photo: The image file that was sent.
            model: What the server says it serves; of no use if that is another by now.
            classes: The selection that was sent.
            scores: Whether scores were asked for.

        Raises:
            ProtocolError: If the run lengths make no label map.
        """
        known = model.classes if model.version == self.version else self.present
        try:
            label_map = paint(self.size, self.runs)
        except ValueError as error:
            raise self._protocol_error(str(error)) from None
        selected = _selected(classes, known)
        if classes is None and (label_map == VOID).any():
            raise self._protocol_error("the masks leave pixels out")
        return Segmentation(
            label_map=label_map,
            classes=known,
            scores=self.scores if scores else None,
            model=self.model,
            model_version=self.version,
            request_id=self.request_id,
            timing=self.timing,
            _selected=selected,
            _photo=photo,
        )

    def _protocol_error(self, what: str) -> ProtocolError:
        return ProtocolError(
            f"the answer cannot be right: {what}", status=200, request_id=self.request_id
        )


def masks(reply: Reply) -> Masks:
    """Read the answer of `POST /segment?format=rle&rle=uncompressed`.

    Raises:
        ProtocolError: If it is none.
    """
    with_id = reply.headers.get("x-request-id")
    try:
        document = _document(reply)
        image, model = _object(document["image"]), _object(document["model"])
        size = _whole(image["height"], 1), _whole(image["width"], 1)
        if size[0] * size[1] > MAX_PIXELS:
            raise ValueError(f"{size[1]} x {size[0]} pixels")
        runs, present, scores = [], [], {}
        for entry in map(_object, _list(document["masks"])):
            info = ClassInfo(
                _whole(entry["class_id"], 0, VOID - 1),
                _text(entry["class_name"]),
                _color(entry["color"]),
            )
            counts = [_whole(count, 0) for count in _list(_object(entry["rle"])["counts"])]
            runs.append((info.index, counts))
            present.append(info)
            if "score" in entry:
                scores[info.name] = _number(entry["score"])
        return Masks(
            size=size,
            model=_text(model["name"]),
            version=_text(model["version"]),
            request_id=_text(document["request_id"]),
            timing=_timing(document["timing_ms"]),
            runs=runs,
            present=tuple(present),
            scores=scores,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _not_it(reply, "masks", error, with_id) from None


def model(reply: Reply) -> Model:
    """Read the answer of `GET /model`.

    Raises:
        ProtocolError: If it is none.
    """
    try:
        document = _document(reply)
        classes = tuple(
            ClassInfo(
                _whole(entry["index"], 0, VOID - 1), _text(entry["name"]), _color(entry["color"])
            )
            for entry in map(_object, _list(document["classes"]))
        )
        return Model(
            name=_text(document["name"]),
            version=_text(document["version"]),
            classes=classes,
            architecture=_object(document["architecture"]),
            training=document.get("training"),
            temperature=_number(document["temperature"]),
            scale=_number(document["scale"]),
            device=_text(document["device"]),
            precision=_text(document["precision"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _not_it(reply, "a model", error, reply.headers.get("x-request-id")) from None


def health(reply: Reply) -> Health:
    """Read the answer of `GET /health`.

    Raises:
        ProtocolError: If it is none.
    """
    try:
        document = _document(reply)
        loaded, queue = document.get("model"), document.get("queue")
        return Health(
            status=_text(document["status"]),
            version=_text(document["version"]),
            uptime_s=_number(document["uptime_s"]),
            model=None if loaded is None else _text(_object(loaded)["name"]),
            device=document.get("device"),
            precision=document.get("precision"),
            notice=document.get("notice"),
            waiting=None if queue is None else _whole(_object(queue)["requests"], 0),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _not_it(reply, "health", error, reply.headers.get("x-request-id")) from None


def check_media_type(reply: Reply, expected: str) -> None:
    """Refuse an answer of another kind than was asked for.

    Raises:
        ProtocolError: If it is one.
    """
    if reply.media_type != expected:
        raise ProtocolError(
            f"the answer is {reply.media_type or 'of no type'}, not {expected}",
            status=reply.status,
            request_id=reply.headers.get("x-request-id"),
        )


def _not_it(reply: Reply, what: str, error: Exception, request_id: str | None) -> ProtocolError:
    reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    return ProtocolError(
        f"the answer does not tell {what}: {reason}", status=reply.status, request_id=request_id
    )


def _selected(spec: str | None, classes: tuple[ClassInfo, ...]) -> frozenset[int]:
    """Return the indices that `classes=` names; a word is a name if a class has it."""
    if spec is None:
        return frozenset(info.index for info in classes)
    words = {word.strip() for word in spec.split(",")}
    named = {info.name for info in classes}
    return frozenset(
        info.index
        for info in classes
        if info.name in words
        or any(
            word not in named and word.isascii() and word.isdecimal() and int(word) == info.index
            for word in words
        )
    )


def _document(reply: Reply) -> dict[str, Any]:
    if reply.media_type != "application/json":
        raise ValueError(f"it is {reply.media_type or 'of no type'}, not application/json")
    return _object(read_json(reply))


def _object(value: Any) -> dict[str, Any]:
    return _typed(value, dict, "an object")


def _list(value: Any) -> list[Any]:
    return _typed(value, list, "a list")


def _text(value: Any) -> str:
    return _typed(value, str, "a string")


def _typed(value: Any, kind: type[T], name: str) -> T:
    if not isinstance(value, kind):
        raise TypeError(f"{_short(value)} is not {name}")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise TypeError(f"{_short(value)} is no number")
    return float(value)


def _whole(value: Any, low: int, high: int = MAX_PIXELS) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise TypeError(f"{_short(value)} is no whole number from {low} to {high}")
    return value


def _color(value: Any) -> tuple[int, int, int]:
    if not re.fullmatch("#[0-9a-fA-F]{6}", _text(value)):
        raise ValueError(f"{_short(value)} is no colour")
    red, green, blue = bytes.fromhex(value[1:])
    return red, green, blue


def _timing(value: Any) -> dict[str, float]:
    return {stage: _number(milliseconds) for stage, milliseconds in _object(value).items()}


def _short(value: Any) -> str:
    return repr(value)[:60]
