"""`/label-studio`: a machine learning backend that Label Studio can be connected to."""

import asyncio
import functools
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.inference.image_errors import ImageError
from app.inference.render import MaskFormat
from app.inference.room import PhotoDoesNotFitError
from app.serve.intake import taking_photos
from app.serve.protocols import label_studio as protocol
from app.serve.protocols.errors import (
    ErrorMemberRoute,
    InvalidRequestError,
    UnreachableImageError,
    openapi_errors,
    problem_of,
)
from app.serve.protocols.json_body import beside_the_loop, decode_base64, parse_json
from app.serve.protocols.task_images import find_local_file, is_data_uri, read_file
from app.serve.render import Rendered, Wanted
from app.serve.routes.dependencies import ServiceDependency
from app.serve.settings import Settings
from app.serve.side_by_side import in_order
from app.serve.upload_budget import Upload
from app.serve.uploads import TooManyBytesError
from app.serve.versions import model_label

router = APIRouter(prefix="/label-studio", tags=["other clients"], route_class=ErrorMemberRoute)

_OF_ONE_TASK: Final = (
    ImageError,
    PhotoDoesNotFitError,
    InvalidRequestError,
    UnreachableImageError,
    TooManyBytesError,
)
"""Errors that say nothing about the other tasks of a request."""

_BODY: Final[dict[str, Any]] = {
    "required": True,
    "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/PredictRequest"}},
    },
}


@router.get(
    "/health",
    operation_id="labelStudioHealth",
    summary="Whether the backend takes work",
    responses=openapi_errors(503),
)
async def health(service: ServiceDependency) -> protocol.BackendHealth:
    """200 when it does; 503 while starting or draining."""
    service.check_ready()
    engine = service.loaded_engine()
    return protocol.BackendHealth(status="UP", model_class=engine.card.name)


@router.post(
    "/setup",
    operation_id="labelStudioSetup",
    summary="Which model serves",
    responses=openapi_errors(503),
)
async def setup(service: ServiceDependency) -> protocol.SetupResponse:
    """The model's version. What Label Studio sends is of no use: access tokens least of all."""
    service.check_ready()
    return protocol.SetupResponse(model_version=model_label(service.loaded_engine()))


@router.post(
    "/predict",
    operation_id="labelStudioPredict",
    summary="Segment the images of tasks",
    response_model=protocol.PredictResponse,
    responses=openapi_errors(400, 413, 415, 422, 429, 500, 503, 504),
    openapi_extra={"requestBody": _BODY},
)
async def predict(request: Request, service: ServiceDependency) -> Response:
    """A prediction for each task, in their order: a brush mask for each label that is a class.

    A task whose image cannot be had gets an empty prediction that says why, unless none can.
    """
    settings = service.settings
    async with taking_photos(request, service) as intake, intake.upload(None) as upload:
        version = model_label(intake.engine)
        document = await parse_json(
            upload.data,
            protocol.PredictRequest,
            upload,
            most_bytes=settings.upload_bytes // 2,
        )
        upload.data = b""  # the document holds the images now; both are counted
        control = await asyncio.to_thread(
            protocol.parse_label_config, document.label_config, intake.engine.card.classes
        )
        encode = protocol.BrushEncoder(control, version)
        wanted = Wanted(format=MaskFormat.RLE, selected=tuple(sorted(control.labels)), scores=True)

        async def segment(task: protocol.Task) -> Rendered | Exception:
            record = intake.record.add_image()
            try:
                with intake.part() as part:
                    await _take_image(task, control.data_key, part, settings)
                    return await intake.segment(part, wanted, encode=encode, record=record)
            except _OF_ONE_TASK as error:
                record.problem = problem_of(error).slug
                return error

        outcomes = await in_order(functools.partial(segment, task) for task in document.tasks)
        intake.record.conclude_images()
        failures = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        if len(failures) == len(outcomes):
            outcomes.clear()  # the traceback will lead here, and must not lead back to the error
            raise failures.pop(0)
        results = [
            protocol.failed_prediction(version, outcome)
            if isinstance(outcome, Exception)
            else outcome.body
            for outcome in outcomes
        ]
        size = sum(map(len, results))
        body = await beside_the_loop(lambda: protocol.predictions(results, version), size)
        return intake.response(Rendered(body, "application/json"))


async def _take_image(task: protocol.Task, key: str, part: Upload, settings: Settings) -> None:
    """Leave the file of a task's image in `part`."""
    source = task.data.get(key)
    if not isinstance(source, str):
        raise InvalidRequestError(
            f"Task {str(task.id)[:20]} has no image in its field {key[:60]!r}."
        )
    if is_data_uri(source):
        part.count(len(source))
        part.data = await beside_the_loop(lambda: decode_base64(source), len(source))
        return
    found = await asyncio.to_thread(find_local_file, source, settings.label_studio_files)
    if found.size > settings.max_bytes:
        raise TooManyBytesError(settings.max_bytes)
    part.count(found.size)
    part.data = await asyncio.to_thread(read_file, found)
