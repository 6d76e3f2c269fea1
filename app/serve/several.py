"""Several photos in one request: each by itself through the pipeline, one answer for all.

Formats that are JSON become one JSON document. Files become a zip with an entry for each photo,
which every language and every desktop can open; of multipart/mixed, the alternative, neither
browsers nor most HTTP clients can make anything. CVAT's archive holds all masks together, because
CVAT imports one for a whole task.
"""

import dataclasses
import functools
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final

from pydantic_core import to_json
from starlette.requests import ClientDisconnect

from app.inference.archive import stored_zip
from app.inference.cvat import add_file, merge
from app.inference.engine import DeviceLostError
from app.inference.render import UNNAMED, MaskFormat
from app.serve.batcher import BatcherClosedError, DeadlineExceededError
from app.serve.errors import (
    INTERNAL_ERROR,
    NoneSegmentedError,
    Problem,
    problem_of,
    retry_after_s,
)
from app.serve.image_form import EMPTY_IMAGE, MissingImageError
from app.serve.intake import Intake
from app.serve.render import JSON, ZIP, Rendered, Wanted
from app.serve.schemas import ProblemDocument
from app.serve.side_by_side import in_order
from app.serve.upload_budget import Upload

logger = logging.getLogger(__name__)

_OF_THE_REQUEST: Final = (
    BatcherClosedError,
    ClientDisconnect,
    DeadlineExceededError,
    DeviceLostError,
)
"""Errors that are not one photo's own: they end the request."""

_PROBLEMS: Final = "problems.json"


@dataclass(slots=True)
class ImageResult:
    """What became of one photo: an answer or a problem.

    Attributes:
        index: Its place in the request, from 0.
        name: Its file name, if it has one.
        rendered: The answer.
        problem: Why there is none.
        retry_after_s: When there may be one, in whole seconds.
    """

    index: int
    name: str | None
    rendered: Rendered | None = None
    problem: ProblemDocument | None = None
    retry_after_s: int | None = None

    def about(self) -> dict[str, Any]:
        """Return `index` and `filename`, and the problem if there is one."""
        document: dict[str, Any] = {"index": self.index, "filename": self.name}
        if self.problem is not None:
            document["problem"] = self.problem.model_dump()
        return document

    @property
    def entry_name(self) -> str:
        """Name of its file in a zip, without a suffix."""
        stem = PurePath(self.name or UNNAMED).stem
        # Letters and digits of any script, but nothing that Windows gives a meaning to.
        safe = re.sub(r"[^\w.() -]+", "_", stem)
        return f"{self.index:03d}_{safe}"


async def segment_each(
    intake: Intake, uploads: Sequence[Upload], wanted: Wanted
) -> list[ImageResult]:
    """Segment photos side by side, so that those of one shape can share a forward.

    Returns:
        What became of each, in order.

    Raises:
        BatcherClosedError: If the server stops meanwhile.
        DeviceLostError: If the device can never be used again by this process.
        DeadlineExceededError: If the deadline passes; it is the same for all.
    """
    work = [
        functools.partial(_segment_one, intake, index, upload, wanted)
        for index, upload in enumerate(uploads)
    ]
    try:
        return await in_order(work, at_once=len(work))
    finally:
        intake.record.conclude_images()


async def _segment_one(intake: Intake, index: int, upload: Upload, wanted: Wanted) -> ImageResult:
    record = intake.record.add_image()
    result = ImageResult(index, upload.name)
    named = dataclasses.replace(wanted, name=upload.name or f"{UNNAMED}_{index}")
    try:
        if not upload.data:
            raise MissingImageError(EMPTY_IMAGE)
        result.rendered = await intake.segment(upload, named, record=record)
    except _OF_THE_REQUEST:
        raise
    except Exception as error:
        kind, detail = problem_of(error), str(error)
        if kind is None:
            logger.exception("image %d of request %s failed", index, record.id)
            kind = INTERNAL_ERROR
            detail = "The server failed on this image and logged why under the request's id."
        result.problem = kind.document(detail, record.id)
        record.problem = kind.slug
        result.retry_after_s = retry_after_s(error)
    finally:
        upload.release()
    return result


def combine(results: Sequence[ImageResult], wanted: Wanted, request_id: str) -> Rendered:
    """Make one answer of all results; their own are let go of meanwhile.

    Args:
        results: In order.
        wanted: What was asked for.
        request_id: Repeated in JSON.

    Raises:
        NoneSegmentedError: If no photo has an answer.
    """
    if all(result.rendered is None for result in results):
        raise _none_segmented(results)
    if wanted.format.is_json:
        return Rendered(_document(results, request_id), JSON)
    if wanted.format is MaskFormat.CVAT:
        archive = merge(result.rendered.body for result in results if result.rendered is not None)
        failed = [result.about() for result in results if result.problem is not None]
        return Rendered(add_file(archive, _PROBLEMS, to_json(failed)) if failed else archive, ZIP)
    return Rendered(stored_zip(_entries(results, wanted.format.suffix)), ZIP)


def _document(results: Sequence[ImageResult], request_id: str) -> bytes:
    """Return a `SeveralDocument`; what is JSON already is not parsed again."""
    parts = []
    for result in results:
        about = to_json(result.about())
        if result.rendered is not None:
            about = b'%b,"document":%b}' % (about[:-1], result.rendered.body)
        parts.append(about)
    return b'{"request_id":%b,"results":[%b]}' % (to_json(request_id), b",".join(parts))


def _entries(results: Sequence[ImageResult], suffix: str) -> Iterator[tuple[str, bytes]]:
    for result in results:
        if result.rendered is not None:
            yield f"{result.entry_name}{suffix}", result.rendered.body
            result.rendered = None
        elif result.problem is not None:
            yield f"{result.entry_name}.problem.json", to_json(result.problem)


def _none_segmented(results: Sequence[ImageResult]) -> NoneSegmentedError:
    problems = [result.problem for result in results if result.problem is not None]
    worst = max(problems, key=lambda problem: problem.status)
    told = " ".join(
        f"{result.index} ({result.name or 'unnamed'}): {result.problem.detail}"
        for result in results
        if result.problem is not None
    )
    waits = [result.retry_after_s for result in results if result.retry_after_s is not None]
    return NoneSegmentedError(
        Problem(worst.status, worst.type.removeprefix("urn:fcn:"), worst.title),
        f"None of the {len(results)} images was segmented. {told}",
        max(waits) if waits else None,
    )
