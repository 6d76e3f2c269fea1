"""Errors in the shape that other tools' clients read: `{"error": "what happened"}`.

Status, `reason` in the metrics, `Retry-After` and the sentence are those of every other route; only
the document is another one. Hugging Face's client, the Open Inference Protocol and Label Studio
agree on it.
"""

import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.serve import errors
from app.serve.errors import INTERNAL_ERROR, PROBLEMS, Problem
from app.serve.record import record_of

logger = logging.getLogger(__name__)


class InvalidRequestError(Exception):
    """The request is not what the protocol asks for; the message says where."""


class UnknownModelError(Exception):
    """Another model, or another version of it, is asked for than the one that is served."""


class JsonTooLargeError(Exception):
    """A JSON document would take more memory than the server has for requests."""


class UnreachableImageError(Exception):
    """An image is named instead of sent, and lies where the server does not look."""


_PROBLEMS: Final[dict[type[Exception], Problem]] = {
    **PROBLEMS,
    InvalidRequestError: Problem(400, "invalid-request", "Invalid request"),
    UnknownModelError: Problem(404, "unknown-model", "Unknown model"),
    JsonTooLargeError: Problem(413, "json-too-large", "JSON too large"),
    UnreachableImageError: Problem(422, "unreachable-image", "Unreachable image"),
}


class ErrorDocument(BaseModel):
    """An error, as other tools' clients expect it."""

    error: str = Field(
        description="What happened to this request and what to do about it.",
        examples=["The queue is full: 256 requests are waiting for their masks."],
    )


class ErrorMemberRoute(APIRoute):
    """A route whose errors are `ErrorDocument`s: `APIRouter(route_class=ErrorMemberRoute)`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except tuple(_PROBLEMS) as error:
                return _error_response(request, error)
            except Exception:
                logger.exception("request %s failed", record_of(request).id)
                return _response(request, INTERNAL_ERROR, "The server failed on this request.")

        return answer


def problem_of(error: Exception) -> Problem:
    """Return which kind of problem one of the errors is that other clients are told of."""
    problem = errors.problem_of(error, _PROBLEMS)
    assert problem is not None  # called for nothing else
    return problem


def openapi_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe error statuses for the OpenAPI entry of an `ErrorMemberRoute`."""
    kinds = [*dict.fromkeys(_PROBLEMS.values()), INTERNAL_ERROR]
    return {
        status: {
            "description": " or ".join(kind.title for kind in kinds if kind.status == status),
            "model": ErrorDocument,
        }
        for status in statuses
    }


def _error_response(request: Request, error: Exception) -> Response:
    return _response(request, problem_of(error), str(error), errors.retry_headers(error))


def _response(
    request: Request, problem: Problem, detail: str, headers: dict[str, str] | None = None
) -> Response:
    record_of(request).problem = problem.slug
    return JSONResponse({"error": detail}, problem.status, headers)
