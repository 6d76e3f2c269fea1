"""`POST /segment`: a photo in, or several, masks out."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from app.inference.render import UNNAMED, class_ids
from app.serve.errors import openapi_responses
from app.serve.intake import taking_photos
from app.serve.parameters import choose_format, parse_query
from app.serve.render import Wanted
from app.serve.routes.dependencies import ServiceDependency, service_of
from app.serve.schemas import RleCounts, SegmentQuery
from app.serve.segment_openapi import HEADERS, MASKS, REQUEST_BODY
from app.serve.service import Service
from app.serve.several import combine, segment_each
from model import ClassInfo


class _DirectRoute(APIRoute):
    """Calls the endpoint itself; FastAPI documents it.

    Its own way from a request to the arguments takes a fifth of all that a photo costs the event
    loop.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint: Callable[[Request, SegmentQuery, Service], Awaitable[Response]] = self.endpoint

        async def handle(request: Request) -> Response:
            query = parse_query(request.query_params, SegmentQuery)
            return await endpoint(request, query, service_of(request))

        return handle


router = APIRouter(tags=["segmentation"], route_class=_DirectRoute)


@router.post(
    "/segment",
    operation_id="segment",
    summary="Segment a photo",
    response_class=Response,
    responses={
        200: MASKS,
        **openapi_responses(400, 406, 413, 415, 422, 429, 431, 500, 503, 504),
    },
    openapi_extra={"requestBody": REQUEST_BODY, "parameters": HEADERS},
)
async def segment(
    request: Request, query: Annotated[SegmentQuery, Query()], service: ServiceDependency
) -> Response:
    """Cut a photo into classes, pixel by pixel; or several, each for itself.

    `curl -F image=@photo.jpg 'http://localhost:8000/segment' -o mask.png`

    `curl -F image=@a.jpg -F image=@b.jpg 'http://localhost:8000/segment?format=coco'`
    """
    async with taking_photos(request, service) as intake:
        wanted = _wanted(query, request.headers.get("accept"), intake.engine.card.classes)
        async with intake.uploads(request.headers.get("content-type")) as uploads:
            if len(uploads) == 1:
                named = dataclasses.replace(wanted, name=uploads[0].name or UNNAMED)
                return intake.response(await intake.segment(uploads[0], named))
            results = await segment_each(intake, uploads, wanted)
        rendered = await asyncio.to_thread(combine, results, wanted, intake.record.id)
        return intake.response(rendered)


def _wanted(query: SegmentQuery, accept: str | None, classes: Sequence[ClassInfo]) -> Wanted:
    return Wanted(
        format=query.format or choose_format(accept),
        selected=class_ids(query.classes, classes),
        compressed=query.rle is RleCounts.COMPRESSED,
        scale=query.scale,
        scores=query.scores,
        tolerance=query.tolerance,
    )
