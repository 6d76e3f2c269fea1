"""What is known of one request while it is worked on: for its headers, log line and metrics."""

import time
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.requests import HTTPConnection
from starlette.types import Scope

STAGES: Final = ("decode", "queue", "transfer", "forward", "encode")
"""What a photo goes through, in order."""

_STATE_KEY = "record"


@dataclass(slots=True)
class RequestRecord:
    """One request.

    Attributes:
        id: The client's `X-Request-ID`, or one made here.
        began: When its first byte was handled, in seconds of `time.monotonic`.
        bytes_in: Bytes of its body received so far.
        bytes_out: Bytes of the answer's body sent so far.
        status: Status of the answer; None as long as none was begun.
        model: Which model answers, as `X-Model` says it; None if none is needed.
        problem: Which problem the answer tells of, as in `errors.Problem.slug`.
        image_size: (width, height) of the photo.
        mask_format: Format of the masks.
        stages_s: Each of `STAGES` that is behind it -> seconds, in their order.
        batch_size: Photos in the batch that the photo ran in.
        batch_reason: Why that batch was run when it was, as in `groups.Reason`.
        images: A record of each image, if the request has several; what is known of one of them
            stands there.
    """

    id: str
    began: float = field(default_factory=time.monotonic)
    bytes_in: int = 0
    bytes_out: int = 0
    status: int | None = None
    model: str | None = None
    problem: str | None = None
    image_size: tuple[int, int] | None = None
    mask_format: str | None = None
    stages_s: dict[str, float] = field(default_factory=dict)
    batch_size: int | None = None
    batch_reason: str | None = None
    images: list["RequestRecord"] = field(default_factory=list)

    def add_image(self) -> "RequestRecord":
        """Return a record for one more of several images."""
        image = RequestRecord(self.id, self.began, model=self.model)
        self.images.append(image)
        return image

    def conclude_images(self) -> None:
        """Take over how long each stage took for the slowest image: they run side by side."""
        for image in self.images:
            for stage, seconds in image.stages_s.items():
                self.stages_s[stage] = max(seconds, self.stages_s.get(stage, 0.0))


def attach_record(scope: Scope, record: RequestRecord) -> None:
    """Make the record reachable from everything that handles the request."""
    state: dict[str, Any] = scope.setdefault("state", {})
    state[_STATE_KEY] = record


def record_of(connection: HTTPConnection) -> RequestRecord:
    """Return the record that the middleware attached to a request."""
    record: RequestRecord = connection.scope["state"][_STATE_KEY]
    return record
