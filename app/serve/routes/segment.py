"""`POST /segment`: a photo in, masks out."""

from collections.abc import Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from app.inference.render import class_ids
from app.serve.errors import openapi_responses
from app.serve.intake import taking_photos
from app.serve.parameters import choose_format
from app.serve.render import Wanted
from app.serve.routes.dependencies import ServiceDependency
from app.serve.schemas import SegmentQuery
from app.serve.uploads import IMAGE_FIELD
from model import ClassInfo

router = APIRouter(tags=["segmentation"])

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
    async with taking_photos(request, service) as intake:
        wanted = _wanted(query, request.headers.get("accept"), intake.engine.card.classes)
        async with intake.upload(request.headers.get("content-type")) as upload:
            rendered = await intake.segment(upload, wanted)
    return Response(rendered.body, media_type=rendered.media_type)


def _wanted(query: SegmentQuery, accept: str | None, classes: Sequence[ClassInfo]) -> Wanted:
    return Wanted(
        format=query.format or choose_format(accept),
        class_ids=class_ids(query.classes, classes),
        counts=query.rle,
        scale=query.scale,
        scores=query.scores,
    )
