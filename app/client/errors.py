"""Everything that a call can end with instead of an answer, under one base class."""

from typing import Final


class SegmentationError(Exception):
    """A call failed.

    Attributes:
        detail: What happened and what to do about it, in a sentence; the server's if it gave one.
        status: HTTP status; None if there was no answer.
        type: Kind of problem for programs, such as `urn:fcn:queue-full`; None if the answer named
            none.
        request_id: Of the last try: what to look for in the server's log.
        retry_after_s: When the server expects to have room again, in seconds, if it said so.
    """

    def __init__(
        self,
        detail: str,
        *,
        status: int | None = None,
        type: str | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.type = type
        self.request_id = request_id
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        known = [str(self.status)] if self.status is not None else []
        known += [self.type] if self.type is not None else []
        known += [f"request {self.request_id}"] if self.request_id is not None else []
        return f"{self.detail} ({', '.join(known)})" if known else self.detail


class BadImageError(SegmentationError):
    """The photo is no image that the server reads (415), a broken one (400), or empty."""


class TooLargeError(SegmentationError):
    """The photo has too many bytes or pixels (413)."""


class InvalidRequestError(SegmentationError):
    """A parameter is wrong, such as an unknown class, or there was no photo (406, 422)."""


class BusyError(SegmentationError):
    """The server's queue stayed full (429)."""


class UnavailableError(SegmentationError):
    """The server is starting, stopping or broken, or its proxy cannot reach it (502, 503)."""


class DeadlineError(SegmentationError):
    """There was no answer in time: by the server's clock (504, 408) or by the client's."""


class ServerError(SegmentationError):
    """The server failed on this request (500 and everything else from there up)."""


class ConnectionFailedError(SegmentationError):
    """The server could not be reached, or the connection broke before a whole answer had come."""


class ProtocolError(SegmentationError):
    """The answer is not what the service answers: probably something else is at this URL."""


BROKEN_IMAGE: Final = "urn:fcn:broken-image"
INVALID_PARAMETER: Final = "urn:fcn:invalid-parameter"
"""Of the server's kinds of problem, those that are told apart here."""

_BY_STATUS: Final[dict[int, type[SegmentationError]]] = {
    406: InvalidRequestError,
    408: DeadlineError,
    413: TooLargeError,
    415: BadImageError,
    422: InvalidRequestError,
    429: BusyError,
    502: UnavailableError,
    503: UnavailableError,
    504: DeadlineError,
}


def error_class(status: int, problem_type: str | None) -> type[SegmentationError]:
    """Return the error that an answer with any status but 200 stands for."""
    if status == 400 and problem_type == BROKEN_IMAGE:  # else it is HTTP itself that was broken
        return BadImageError
    return _BY_STATUS.get(status, ServerError if status >= 500 else ProtocolError)
