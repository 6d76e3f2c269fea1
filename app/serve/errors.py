"""Every error a client can see: typed where it is raised, mapped to HTTP here and only here.

Answers are `application/problem+json` (RFC 9457). This table is also the documentation of the
`type` values, see `problems_as_markdown`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from app.inference.decode import BrokenImage, TooManyPixels, UnknownFormat
from app.inference.engine import DeviceLostError
from app.inference.render import UnknownClassError
from app.inference.room import PhotoDoesNotFitError
from app.serve.admission import OverloadedError, QueueFullError
from app.serve.answers import AnswersFullError, AnswerTooLargeError
from app.serve.batcher import BatcherClosedError, DeadlineExceededError
from app.serve.forecast import QueueTooLongError
from app.serve.image_form import MissingImageError, TooManyImagesError
from app.serve.parameters import InvalidParameterError, NotAcceptableError
from app.serve.problem_examples import EXAMPLES
from app.serve.record import record_of
from app.serve.schemas import ProblemDocument
from app.serve.upload_budget import UploadsFullError
from app.serve.uploads import TooManyBytesError

CLIENT_CLOSED_REQUEST: Final = 499
"""nginx's status for a client that left; only the log and the metrics ever see it."""


class NotReadyError(Exception):
    """The server is starting or draining.

    Attributes:
        retry_after_s: When to try again, in whole seconds.
    """

    def __init__(self, detail: str, retry_after_s: int) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class InputTooLargeError(Exception):
    """The scaled photo would be larger than the network takes."""


class ModelDeadError(Exception):
    """The process can never work again and waits to be restarted."""


class NoneSegmentedError(Exception):
    """None of a request's several images has an answer.

    Attributes:
        problem: The gravest of theirs, by status.
        retry_after_s: When to try again, in whole seconds; None if that is no use.
    """

    def __init__(self, problem: "Problem", detail: str, retry_after_s: int | None) -> None:
        super().__init__(detail)
        self.problem = problem
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Problem:
    """A kind of error.

    Attributes:
        status: HTTP status.
        slug: Stable name; `type` in answers and `reason` in metrics.
        title: The kind in words.
    """

    status: int
    slug: str
    title: str

    @property
    def type(self) -> str:
        """The `type` member of the answer."""
        return f"urn:fcn:{self.slug}"

    def document(self, detail: str, request_id: str) -> ProblemDocument:
        """Return the answer's body: a sentence about one request, under its id."""
        return ProblemDocument(
            type=self.type,
            title=self.title,
            status=self.status,
            detail=detail,
            request_id=request_id,
        )


INTERNAL_ERROR: Final = Problem(500, "internal-error", "Internal error")
NOT_FOUND: Final = Problem(404, "not-found", "Not found")
METHOD_NOT_ALLOWED: Final = Problem(405, "method-not-allowed", "Method not allowed")
INVALID_PARAMETER: Final = Problem(422, "invalid-parameter", "Invalid parameter")

BAD_REQUEST: Final = Problem(400, "bad-request", "Bad request")
HEAD_TOO_LARGE: Final = Problem(431, "head-too-large", "Request header fields too large")
"""This and the one before are the answers to what is no request; see `protocol`."""

MODEL_DEAD: Final = Problem(503, "model-dead", "Model dead")

PROBLEMS: Final[dict[type[Exception], Problem]] = {
    BrokenImage: Problem(400, "broken-image", "Broken image"),
    NotAcceptableError: Problem(406, "not-acceptable", "Not acceptable"),
    TooManyBytesError: Problem(413, "too-many-bytes", "Too many bytes"),
    TooManyPixels: Problem(413, "too-many-pixels", "Too many pixels"),
    PhotoDoesNotFitError: Problem(413, "out-of-memory", "Too large for the memory"),
    InputTooLargeError: Problem(413, "scaled-too-large", "Too many pixels after scaling"),
    AnswerTooLargeError: Problem(413, "answer-too-large", "Answer too large"),
    UnknownFormat: Problem(415, "unknown-image-format", "Unknown image format"),
    MissingImageError: Problem(422, "missing-image", "Missing image"),
    TooManyImagesError: Problem(422, "too-many-images", "Too many images"),
    InvalidParameterError: INVALID_PARAMETER,
    UnknownClassError: INVALID_PARAMETER,
    QueueFullError: Problem(429, "queue-full", "Queue full"),
    QueueTooLongError: Problem(429, "queue-too-long", "Queue too long"),
    UploadsFullError: Problem(429, "uploads-full", "Too many uploads"),
    AnswersFullError: Problem(429, "answers-full", "Too many large answers"),
    ClientDisconnect: Problem(CLIENT_CLOSED_REQUEST, "client-gone", "Client closed the request"),
    NotReadyError: Problem(503, "not-ready", "Not ready"),
    BatcherClosedError: Problem(503, "stopping", "Stopping"),
    ModelDeadError: MODEL_DEAD,
    DeviceLostError: MODEL_DEAD,
    DeadlineExceededError: Problem(504, "deadline-exceeded", "Deadline exceeded"),
}

_ALL_KINDS: Final = tuple(
    dict.fromkeys(
        [
            *PROBLEMS.values(),
            INTERNAL_ERROR,
            NOT_FOUND,
            METHOD_NOT_ALLOWED,
            BAD_REQUEST,
            HEAD_TOO_LARGE,
        ]
    )
)


def problem_response(
    request: Request, problem: Problem, detail: str, headers: dict[str, str] | None = None
) -> Response:
    """Build the answer to a request that failed, and note the problem in its record."""
    record = record_of(request)
    record.problem = problem.slug
    return JSONResponse(
        problem.document(detail, record.id).model_dump(),
        status_code=problem.status,
        headers=headers,
        media_type="application/problem+json",
    )


def install_error_handlers(app: FastAPI) -> None:
    """Let every typed error, and FastAPI's own, become a problem document."""
    for error_type in PROBLEMS:
        app.add_exception_handler(error_type, _on_typed_error)
    app.add_exception_handler(NoneSegmentedError, _on_none_segmented)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)


def problem_of(
    error: Exception, kinds: Mapping[type[Exception], Problem] = PROBLEMS
) -> Problem | None:
    """Return which kind of problem an error is; None if it is a bug."""
    return next((kinds[kind] for kind in type(error).__mro__ if kind in kinds), None)


def retry_after_s(error: Exception) -> int | None:
    """Return when a request that failed so may be sent again, in whole seconds; None if never."""
    if isinstance(error, OverloadedError | NotReadyError | NoneSegmentedError):
        return error.retry_after_s
    return 1 if isinstance(error, BatcherClosedError) else None


def retry_headers(error: Exception) -> dict[str, str]:
    """Return the header that says so, if there is anything to say."""
    wait = retry_after_s(error)
    return {} if wait is None else {"Retry-After": str(wait)}


async def _on_typed_error(request: Request, error: Exception) -> Response:
    problem = problem_of(error)
    assert problem is not None  # registered for nothing else
    return problem_response(request, problem, str(error), retry_headers(error))


async def _on_none_segmented(request: Request, error: Exception) -> Response:
    assert isinstance(error, NoneSegmentedError)  # registered for nothing else
    return problem_response(request, error.problem, str(error), retry_headers(error))


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # registered for nothing else
    sentences = [_sentence(problem) for problem in error.errors()]
    return problem_response(request, INVALID_PARAMETER, " ".join(sentences))


def _sentence(problem: dict[str, Any]) -> str:
    location: Sequence[Any] = problem["loc"]
    where = "Header" if location[0] == "header" else "Query parameter"
    name = str(location[-1])[:60]
    if problem["type"] == "extra_forbidden":
        return f"{where} `{name}` is not known; GET /docs lists those that are."
    given = str(problem.get("input"))[:60]
    message = str(problem["msg"])
    return f"{where} `{name}`: {message[:1].lower()}{message[1:]}, not {given!r}."


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # registered for nothing else
    headers = dict(error.headers or {})
    path = request.url.path[:200]
    if error.status_code == NOT_FOUND.status:
        return problem_response(
            request, NOT_FOUND, f"There is nothing at {path}; GET /docs lists what there is."
        )
    if error.status_code == METHOD_NOT_ALLOWED.status:
        allowed = headers.get("allow") or headers.get("Allow") or "other methods"
        return problem_response(
            request,
            METHOD_NOT_ALLOWED,
            f"{path} does not take {request.method}; it takes {allowed}.",
            headers,
        )
    title = HTTPStatus(error.status_code).phrase
    problem = Problem(error.status_code, title.lower().replace(" ", "-"), title)
    return problem_response(request, problem, str(error.detail), headers)


def openapi_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe error statuses for a route's OpenAPI entry, with an example of each kind."""
    responses: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        kinds = [kind for kind in _ALL_KINDS if kind.status == status]
        responses[status] = {
            "description": " or ".join(f"{kind.title} (`{kind.type}`)" for kind in kinds),
            "content": {
                "application/problem+json": {
                    "schema": {"$ref": "#/components/schemas/ProblemDocument"},
                    "examples": {kind.slug: _example(kind) for kind in kinds},
                }
            },
        }
    return responses


def _example(kind: Problem) -> dict[str, Any]:
    document = kind.document(EXAMPLES[kind.slug], "7d9f3c1a5b8e4f60a2c4e6f8091b3d5f")
    return {"summary": kind.title, "value": document.model_dump()}


def problems_as_markdown() -> str:
    """Return a table of every kind of problem, for the OpenAPI document."""
    rows = sorted(
        (kind.status, kind.type, kind.title)
        for kind in set(_ALL_KINDS)
        if kind.status != CLIENT_CLOSED_REQUEST
    )
    lines = ["| status | type | meaning |", "|---|---|---|"]
    lines += [f"| {status} | `{kind}` | {title} |" for status, kind, title in rows]
    return "\n".join(lines)
