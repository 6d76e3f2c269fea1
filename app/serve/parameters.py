"""What a client asks for beside the photo: query parameters, Accept and the deadline."""

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from app.inference.render import MaskFormat

ModelT = TypeVar("ModelT", bound=BaseModel)

_MOST_PARAMETERS = 32
"""Query parameters that are looked at: each that is wrong gets a sentence in the answer."""

_OFFERED = {"image/png": MaskFormat.PNG, "application/json": MaskFormat.RLE}
"""What `Accept` can choose, in order of preference among equals."""

_Rank = tuple[float, int]


class InvalidParameterError(ValueError):
    """A parameter has an impossible value; the message says which, and what is possible."""


class NotAcceptableError(Exception):
    """None of the media types that the client accepts can be given."""


def parse_query(parameters: Mapping[str, str], model: type[ModelT]) -> ModelT:
    """Read query parameters as FastAPI does: of several with one name, the last counts.

    Raises:
        RequestValidationError: If one is not known or has an impossible value; as FastAPI's own.
        InvalidParameterError: If there are far more than can be known.
    """
    if len(parameters) > _MOST_PARAMETERS:
        raise InvalidParameterError(
            f"The query has {len(parameters):,} parameters; GET /docs lists those that are known."
        )
    try:
        return model.model_validate(dict(parameters))
    except ValidationError as error:
        problems = error.errors(include_url=False)
        raise RequestValidationError(
            [{**problem, "loc": ("query", *problem["loc"])} for problem in problems]
        ) from None


def choose_format(accept: str | None) -> MaskFormat:
    """Choose the format of the masks from an Accept header (RFC 9110, section 12.5.1).

    The type with the highest quality wins; among equals the one the client names more
    precisely, then PNG.

    Raises:
        NotAcceptableError: If neither PNG nor JSON is acceptable.
    """
    if accept is None or not accept.strip():
        return MaskFormat.PNG
    ranges = [_media_range(part) for part in accept.split(",") if part.strip()]
    best: tuple[_Rank, MaskFormat] | None = None
    for media_type, mask_format in _OFFERED.items():
        rank = _rank(media_type, ranges)
        if rank[0] > 0 and (best is None or rank > best[0]):
            best = (rank, mask_format)
    if best is None:
        raise NotAcceptableError(
            f"Accept: {accept[:200]} allows neither image/png nor application/json; name one of "
            "them, or choose with the query parameter `format`."
        )
    return best[1]


def _media_range(part: str) -> tuple[str, float]:
    media_type, *parameters = (piece.strip().lower() for piece in part.split(";"))
    quality = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                quality = 0.0
    return media_type, quality if 0 <= quality <= 1 else 0.0


def _rank(media_type: str, ranges: Sequence[tuple[str, float]]) -> _Rank:
    """Quality and precision of the most precise range that matches; (0, 0) if none does."""
    kind = media_type.partition("/")[0]
    for precision, pattern in ((3, media_type), (2, f"{kind}/*"), (1, "*/*")):
        qualities = [quality for text, quality in ranges if text == pattern]
        if qualities:
            return max(qualities), precision
    return 0.0, 0


def timeout_s(header: str | None, *, limit_s: float) -> float:
    """Return how long a request may take, in seconds: `X-Request-Timeout` within the limit.

    Raises:
        InvalidParameterError: If the header is no number above 0.
    """
    if header is None:
        return limit_s
    try:
        wanted = float(header)
    except ValueError:
        wanted = math.nan
    if not (math.isfinite(wanted) and wanted > 0):
        raise InvalidParameterError(
            f"Header `X-Request-Timeout`: {header[:60]!r} is no number of seconds above 0."
        )
    return min(wanted, limit_s)
