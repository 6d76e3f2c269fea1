"""`POST /segment`: a photo in, masks out."""

from collections.abc import Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from app.inference.render import class_ids
from app.serve.deadline import RequestScope
from app.serve.errors import NotReadyError, openapi_responses
from app.serve.parameters import choose_format, timeout_s
from app.serve.pipeline import Pipeline
from app.serve.record import record_of
from app.serve.render import Rendered, Wanted
from app.serve.routes.dependencies import ServiceDependency
from app.serve.schemas import SegmentQuery
from app.serve.service import Phase, Service
from app.serve.uploads import IMAGE_FIELD, announced_length, discard_body, receive_image
from app.serve.versions import model_label
from model import ClassInfo

router = APIRouter(tags=["segmentation"])

_DISCARD_S: Final = 1.0

_BINARY: Final = {"type": "string", "format": "binary"}

_REQUEST_BODY: Final[dict[str, Any]] = {
    "required": True,
    "description": "The photo: as field `image` of a form, or as the body itself. Its bytes "
    "decide the image format, not its declared type.",
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": [IMAGE_FIELD],
                "properties": {IMAGE_FIELD: _BINARY},
            }
        },
        "image/*": {"schema": _BINARY},
        "application/octet-stream": {"schema": _BINARY},
    },
}

_MASKS: Final[dict[str, Any]] = {
    "description": "The masks, of the photo's own size, in the wanted format.",
    "content": {
        "image/png": {"schema": _BINARY},
        "application/json": {"schema": {"$ref": "#/components/schemas/SegmentationDocument"}},
        "application/zip": {"schema": _BINARY},
    },
    "headers": {
        "X-Request-ID": {
            "description": "The client's, if it sent a sane one.",
            "schema": {"type": "string"},
        },
        "X-Model": {
            "description": "Name and start of the version of the model that made the masks.",
            "schema": {"type": "string"},
        },
        "Server-Timing": {
            "description": "Milliseconds of decode, queue, transfer, forward and encode.",
            "schema": {"type": "string"},
        },
    },
}

_HEADERS: Final[list[dict[str, Any]]] = [
    {
        "name": "X-Request-Timeout",
        "in": "header",
        "description": "Seconds after which the answer is no longer wanted; can only shorten the "
        "server's own limit.",
        "schema": {"type": "number", "exclusiveMinimum": 0},
    },
    {
        "name": "X-Request-ID",
        "in": "header",
        "description": "An id for the log and the answer, of up to 128 letters, digits and `._:-`; "
        "any other is replaced.",
        "schema": {"type": "string"},
    },
]


@router.post(
    "/segment",
    operation_id="segment",
    summary="Segment a photo",
    response_class=Response,
    responses={
        200: _MASKS,
        **openapi_responses(400, 406, 413, 415, 422, 429, 500, 503, 504),
    },
    openapi_extra={"requestBody": _REQUEST_BODY, "parameters": _HEADERS},
)
async def segment(
    request: Request, query: Annotated[SegmentQuery, Query()], service: ServiceDependency
) -> Response:
    """Cut a photo into classes, pixel by pixel.

    `curl -F image=@photo.jpg 'http://localhost:8000/segment' -o mask.png`
    """
    record = record_of(request)
    limit_s = timeout_s(
        request.headers.get("x-request-timeout"), limit_s=service.settings.request_timeout_s
    )
    scope = RequestScope(record.began + limit_s, limit_s)
    with service.working_on(scope):
        async with scope:
            rendered = await _segment(request, query, service, scope)
    return Response(rendered.body, media_type=rendered.media_type)


async def _segment(
    request: Request, query: SegmentQuery, service: Service, scope: RequestScope
) -> Rendered:
    """Do the cheap checks first, so that a request that must fail costs little.

    From the first of them to the answer the request sees one engine: classes may change with
    the next.
    """
    pipeline = await _pipeline(request, service)
    record = record_of(request)
    with service.versions.in_use() as engine:
        record.model = model_label(engine)
        wanted = _wanted(query, request.headers.get("accept"), engine.card.classes)
        pipeline.check(scope.deadline)
        record.mask_format = wanted.format
        limit = service.settings.max_bytes
        announced = announced_length(request.headers.get("content-length"), limit=limit)
        with pipeline.uploads.open(announced) as upload:
            content_type = request.headers.get("content-type")
            await receive_image(request.receive, content_type, upload, limit=limit)
            scope.watch(request.receive)
            return await pipeline.segment(
                upload, wanted, engine, deadline=scope.deadline, record=record
            )


async def _pipeline(request: Request, service: Service) -> Pipeline:
    try:
        return service.pipeline()
    except NotReadyError:
        if service.phase is Phase.DRAINING:  # the connection is closed after this answer
            await discard_body(
                request.receive, limit=service.settings.max_bytes, seconds=_DISCARD_S
            )
        raise


def _wanted(query: SegmentQuery, accept: str | None, classes: Sequence[ClassInfo]) -> Wanted:
    return Wanted(
        format=query.format or choose_format(accept),
        class_ids=class_ids(query.classes, classes),
        counts=query.rle,
        scale=query.scale,
        scores=query.scores,
    )
