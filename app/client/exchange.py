"""What is sent, in which order, and how answers are judged; without sending anything.

Each call is a generator of steps: it yields what to send or how long to sleep and is given the
answer, or thrown what sending ended with. `Client` and `AsyncClient` differ only in how they carry
the steps out, so neither can know a retry, a deadline or a check that the other does not.
"""

import math
import uuid
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import httpx
import numpy as np
from numpy.typing import NDArray

from app.client import answers, rich_answers
from app.client.answers import Reply
from app.client.errors import (
    BadImageError,
    ConnectionFailedError,
    DeadlineError,
    ProtocolError,
    SegmentationError,
    UnavailableError,
)
from app.client.results import Health, Model, Segmentation
from app.client.retries import Clock, Deadline, wait_s
from app.client.rich_answers import Probabilities

TIMEOUT_S: Final = 60.0
"""For a call, unless another is given."""

LONGEST_TIMEOUT_S: Final = 1e6
"""For a call, eleven days: sockets count milliseconds, and not up to 2**31."""

RETRIES: Final = 8
"""Of a call, unless another number is given: their waits bridge 22 s on average, a restart."""

LEAST_TOLD_S: Final = 0.001
"""That the server is told it has left; rounded to 0 it would be a wrong parameter to it."""

CONNECT_S: Final = 5.0
"""Longest wait for a connection; a host that is up answers in milliseconds, and one that is not
may be up at the next try."""

PROBE_S: Final = 5.0
PROBE_EVERY_S: Final = 0.5
"""Longest wait for the answer to whether the server is ready, and time between two such questions,
which it answers without work."""

MEDIA_TYPES: Final = {
    "png": "image/png",
    "grey": "image/png",
    "overlay": "image/png",
    "rle": "application/json",
    "zip": "application/zip",
    "polygons": "application/geo+json",
    "coco": "application/json",
    "cvat": "application/zip",
    "probabilities": "application/x-npz",
    "confidence": "image/png",
}
"""Format of `POST /segment` -> media type of its answer. A format that is not here is asked for all
the same, and its answer taken as it comes."""

Classes = str | Sequence[str | int]
"""Classes to select: names and indices, or one string of them with commas between."""

T = TypeVar("T")


@dataclass(frozen=True)
class Send:
    """A request to send.

    Attributes:
        method: HTTP method.
        url: Where to.
        params: Query.
        headers: Its own; those of every request come from the HTTP client.
        body: None for none.
        timeout_s: When to give up, answer and all.
    """

    method: str
    url: str
    params: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes | None
    timeout_s: float

    @property
    def timeout(self) -> httpx.Timeout:
        """For each wait of the HTTP client."""
        return httpx.Timeout(self.timeout_s, connect=min(CONNECT_S, self.timeout_s))


@dataclass(frozen=True)
class Sleep:
    """A wait.

    Attributes:
        seconds: How long.
        why: What the last try ended with, if another follows.
    """

    seconds: float
    why: str | None = None


Steps = Generator[Send | Sleep, Reply | None, T]
"""A call: given a `Reply` after `Send`, None after `Sleep`; returns the call's result."""

SEND_FAILURES: Final = (httpx.RequestError, TimeoutError)
"""What sending may end with and is thrown into the steps."""


def parse_url(url: str) -> str:
    """Return the service's address without a trailing slash.

    Raises:
        ValueError: If it is no address of an HTTP server.
    """
    try:
        parsed = httpx.URL(url)
        parsed.raw_host.decode().encode("idna")  # what the resolver will do; httpx lets `a..b` pass
    except (httpx.InvalidURL, TypeError, UnicodeError) as error:
        raise ValueError(f"{url!r} is no URL: {error}") from None
    if (parsed.port or 0) > 65535:  # the resolver would take the rest of a division
        raise ValueError(f"{url!r} has no TCP port: {parsed.port} is above 65535")
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.fragment:
        raise ValueError(f"{url!r} is no address such as http://localhost:8000")
    return str(parsed).rstrip("/")


def query(
    format: str,
    classes: Classes | None = None,
    scale: float | None = None,
    *,
    scores: bool = False,
    tolerance: float | None = None,
) -> dict[str, str]:
    """Return the query of `POST /segment`; what is not said is left to the server."""
    given: dict[str, str] = {"format": format}
    if classes is not None:
        given["classes"] = classes if isinstance(classes, str) else ",".join(map(str, classes))
    if scale is not None:
        given["scale"] = repr(float(scale))
    if scores:
        given["scores"] = "true"
    if tolerance is not None:
        given["tolerance"] = repr(float(tolerance))
    return given


class Exchange:
    """The calls of one client.

    Args:
        url: Of the service.
        timeout_s: For a call with all its tries and waits, in seconds.
        retries: Tries after the first.
        clock: Where time and chance come from.

    Raises:
        ValueError: If a value is impossible.
    """

    def __init__(self, url: str, *, timeout_s: float, retries: int, clock: Clock) -> None:
        if not 0 < timeout_s <= LONGEST_TIMEOUT_S:
            limits = f"above 0, up to {LONGEST_TIMEOUT_S:g}"
            raise ValueError(f"timeout is {timeout_s}, not a number of seconds {limits}")
        if retries < 0:
            raise ValueError(f"retries is {retries}, below 0")
        self._url = parse_url(url)
        # Messages end in logs, where a password has no business.
        self._server = str(httpx.URL(self._url).copy_with(userinfo=b"")).rstrip("/")
        self._timeout_s = timeout_s
        self._retries = retries
        self._clock = clock
        self._model: Model | None = None

    def segment(
        self,
        photo: bytes,
        classes: Classes | None,
        scale: float | None,
        *,
        scores: bool,
    ) -> Steps[Segmentation]:
        """`POST /segment`, and `GET /model` when a model is seen for the first time."""
        deadline = self._deadline()
        # Run lengths tell masks, scores and model in one answer; as lists they need no decoder.
        params = {**query("rle", classes, scale, scores=scores), "rle": "uncompressed"}
        masks = answers.masks((yield from self._post(photo, params, deadline)))
        model = self._model
        if model is None or model.version != masks.version:
            model = yield from self._fetch_model(deadline)
        return masks.segmentation(photo, model, params.get("classes"), scores=scores)

    def download(self, photo: bytes, params: Mapping[str, str]) -> Steps[bytes]:
        """`POST /segment`, for the bytes of its answer."""
        return (yield from self._fetch(photo, params)).body

    def probabilities(self, photo: bytes, params: Mapping[str, str]) -> Steps[Probabilities]:
        """`POST /segment?format=probabilities`."""
        return rich_answers.probabilities((yield from self._fetch(photo, params)))

    def confidence(self, photo: bytes, params: Mapping[str, str]) -> Steps[NDArray[np.float32]]:
        """`POST /segment?format=confidence`."""
        return rich_answers.confidence((yield from self._fetch(photo, params)))

    def polygons(self, photo: bytes, params: Mapping[str, str]) -> Steps[dict[str, Any]]:
        """`POST /segment?format=polygons`."""
        return rich_answers.polygons((yield from self._fetch(photo, params)))

    def model(self) -> Steps[Model]:
        """`GET /model`."""
        return (yield from self._fetch_model(self._deadline()))

    def health(self) -> Steps[Health]:
        """`GET /health`."""
        return answers.health((yield from self._call("GET", "/health", self._deadline())))

    def wait_until_ready(self, timeout_s: float) -> Steps[None]:
        """`GET /health/ready`, until it says so or the time is over."""
        deadline = Deadline(timeout_s, self._clock)
        while True:
            try:
                yield from self._try("GET", "/health/ready", deadline, longest_s=PROBE_S)
                return
            except (ConnectionFailedError, UnavailableError, DeadlineError) as error:
                if deadline.left_s() <= PROBE_EVERY_S:
                    raise DeadlineError(
                        f"{self._server} was not ready within {timeout_s:g} s: {error.detail}",
                        status=error.status,
                        type=error.type,
                        request_id=error.request_id,
                    ) from error
            yield Sleep(PROBE_EVERY_S)

    def _deadline(self) -> Deadline:
        return Deadline(self._timeout_s, self._clock)

    def _fetch_model(self, deadline: Deadline) -> Steps[Model]:
        model = answers.model((yield from self._call("GET", "/model", deadline)))
        self._model = model
        return model

    def _fetch(self, photo: bytes, params: Mapping[str, str]) -> Steps[Reply]:
        reply = yield from self._post(photo, params, self._deadline())
        expected = MEDIA_TYPES.get(params["format"])
        if expected is not None:
            answers.check_media_type(reply, expected)
        return reply

    def _post(self, photo: bytes, params: Mapping[str, str], deadline: Deadline) -> Steps[Reply]:
        if not photo:  # the server could only say that the request has no body
            raise BadImageError("The photo is empty.")
        return (yield from self._call("POST", "/segment", deadline, params, photo))

    def _call(
        self,
        method: str,
        path: str,
        deadline: Deadline,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Steps[Reply]:
        """Send a request until it is answered with 200 or there is no point in another try.

        Raises:
            SegmentationError: What the last try ended with.
        """
        # One id for the call finds all its tries in the server's log, the number tells them apart.
        request_id = call_id = uuid.uuid4().hex
        tries = 1
        while True:
            try:
                return (yield from self._try(method, path, deadline, params, body, request_id))
            except SegmentationError as failure:
                if tries > self._retries:
                    raise
                pause = Sleep(wait_s(failure, tries, deadline, self._clock), failure.detail)
            yield pause
            tries += 1
            request_id = f"{call_id}-{tries}"

    def _try(
        self,
        method: str,
        path: str,
        deadline: Deadline,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        request_id: str | None = None,
        *,
        longest_s: float = math.inf,
    ) -> Steps[Reply]:
        """Send a request once.

        Raises:
            SegmentationError: If it was not answered with 200.
        """
        request_id = request_id or uuid.uuid4().hex
        left_s = min(deadline.left_s(), longest_s)
        if left_s <= 0:
            raise self._too_late(deadline.seconds, request_id)
        headers = {"X-Request-ID": request_id}
        if body is not None:
            # The server drops the work when nobody waits for it any more. The bytes decide what
            # they are, whatever type is declared.
            headers["X-Request-Timeout"] = f"{max(left_s, LEAST_TOLD_S):.3f}"
            headers["Content-Type"] = "application/octet-stream"
        try:
            reply = yield Send(method, self._url + path, params or {}, headers, body, left_s)
        except SEND_FAILURES as error:
            patience_s = min(deadline.seconds, longest_s)
            raise self._broken(error, patience_s, request_id) from error
        assert reply is not None  # what `Send` is answered with
        if reply.status != 200:
            raise answers.failure(reply, f"{method} {self._server}{path}", request_id, self._clock)
        return reply

    def _broken(self, error: Exception, patience_s: float, request_id: str) -> SegmentationError:
        """Return what an exception of the HTTP client stands for."""
        if isinstance(error, TimeoutError | httpx.TimeoutException) and not isinstance(
            error, httpx.ConnectTimeout
        ):
            return self._too_late(patience_s, request_id)
        if isinstance(error, httpx.TransportError):
            reason = str(error) or type(error).__name__
            return ConnectionFailedError(
                f"the connection to {self._server} failed: {reason}", request_id=request_id
            )
        return ProtocolError(f"the answer cannot be read: {error}", request_id=request_id)

    def _too_late(self, patience_s: float, request_id: str) -> DeadlineError:
        return DeadlineError(
            f"{self._server} did not answer within {patience_s:g} s", request_id=request_id
        )


def resume(steps: Steps[T], outcome: Reply | BaseException | None) -> Send | Sleep:
    """Give steps what the last one led to and return the next one.

    Raises:
        StopIteration: With the call's result.
        SegmentationError: If the call failed.
    """
    if isinstance(outcome, BaseException):
        return steps.throw(outcome)
    return steps.send(outcome)
