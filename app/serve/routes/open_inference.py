"""`/v2`: the Open Inference Protocol, what `tritonclient.http` and KServe call."""

import functools
from contextlib import ExitStack
from typing import Annotated, Any, Final, NamedTuple

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from app.inference.engine import Engine
from app.serve.intake import Intake, taking_photos
from app.serve.protocols import open_inference as protocol
from app.serve.protocols.errors import (
    ErrorMemberRoute,
    UnknownModelError,
    openapi_errors,
)
from app.serve.protocols.inference_answer import (
    TensorEncoder,
    WantedTensors,
    response_body,
    wanted_of,
)
from app.serve.protocols.inference_body import (
    JSON_LENGTH_HEADER,
    decompress,
    image_files,
    json_length,
)
from app.serve.protocols.json_body import beside_the_loop, parse_json
from app.serve.render import Rendered
from app.serve.routes.dependencies import ServiceDependency
from app.serve.routes.health import SERVICE_VERSION
from app.serve.service import Service
from app.serve.side_by_side import in_order
from app.serve.upload_budget import Upload

router = APIRouter(prefix="/v2", tags=["other clients"], route_class=ErrorMemberRoute)

_MODEL_NAME: Final[dict[str, Any]] = {
    "name": "model_name",
    "in": "path",
    "required": True,
    "description": "The `name` that `GET /model` and `POST /v2/repository/index` tell. "
    "`/versions/{version}` may follow it.",
    "schema": {"type": "string", "minLength": 1},
}

_BODY: Final[dict[str, Any]] = {
    "required": True,
    "description": "JSON, or JSON with tensors behind it; `Inference-Header-Content-Length` is "
    "then the length of the JSON. `Content-Encoding` may be `gzip` or `deflate`.",
    "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/InferenceRequest"}},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    },
}

_ANSWER: Final[dict[str, Any]] = {
    "description": "The wanted tensors, in JSON or behind it.",
    "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/InferenceResponse"}},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    },
}


class Asked(NamedTuple):
    """The model that a path names.

    Attributes:
        name: Its name.
        version: Its version; empty for any.
    """

    name: str
    version: str


async def _asked(request: Request) -> Asked:
    # As parameters of the routes they could only be wrong in ways that a path cannot have, which
    # the document would tell of all the same.
    return Asked(request.path_params["model_name"], request.path_params.get("model_version", ""))


AskedDependency = Annotated[Asked, Depends(_asked)]


@router.get("", operation_id="v2ServerMetadata", summary="Who answers")
async def server_metadata() -> protocol.ServerMetadata:
    """Name, version and the extensions of the protocol that are spoken."""
    return protocol.ServerMetadata(
        name="fcn-service",
        version=SERVICE_VERSION,
        extensions=["binary_tensor_data", "model_configuration"],
    )


@router.get(
    "/health/live",
    operation_id="v2ServerLive",
    summary="Whether the process works",
    responses=openapi_errors(503),
)
async def live(service: ServiceDependency) -> protocol.ServerLive:
    """200 while the process works or may work later; 503 once it must be restarted."""
    service.check_alive()
    return protocol.ServerLive(live=True)


@router.get(
    "/health/ready",
    operation_id="v2ServerReady",
    summary="Whether new work is taken",
    responses=openapi_errors(503),
)
async def ready(service: ServiceDependency) -> protocol.ServerReady:
    """200 when the checkpoint is loaded and warm; 503 while starting or draining."""
    service.check_ready()
    return protocol.ServerReady(ready=True)


@router.get("/models/{model_name}/versions/{model_version}/ready", include_in_schema=False)
@router.get(
    "/models/{model_name}/ready",
    operation_id="v2ModelReady",
    summary="Whether the model takes work",
    responses=openapi_errors(404, 503),
    openapi_extra={"parameters": [_MODEL_NAME]},
)
async def model_ready(service: ServiceDependency, asked: AskedDependency) -> protocol.ModelReady:
    """200 when it does, 503 while starting or draining, 404 for any other model."""
    engine = _engine(service, asked)
    service.check_ready()
    return protocol.ModelReady(name=engine.card.name, ready=True)


@router.get("/models/{model_name}/versions/{model_version}/config", include_in_schema=False)
@router.get(
    "/models/{model_name}/config",
    operation_id="v2ModelConfig",
    summary="The model as Triton configures it",
    responses=openapi_errors(404, 503),
    openapi_extra={"parameters": [_MODEL_NAME]},
)
async def model_config(service: ServiceDependency, asked: AskedDependency) -> dict[str, Any]:
    """Triton's model configuration; its parameter `class_names` is a JSON list."""
    return protocol.model_configuration(_engine(service, asked))


@router.get("/models/{model_name}/versions/{model_version}", include_in_schema=False)
@router.get(
    "/models/{model_name}",
    operation_id="v2ModelMetadata",
    summary="What the model takes and gives",
    responses=openapi_errors(404, 503),
    openapi_extra={"parameters": [_MODEL_NAME]},
)
async def model_metadata(
    service: ServiceDependency, asked: AskedDependency
) -> protocol.ModelMetadata:
    """Its inputs, of which a request has one, and its outputs."""
    return protocol.model_metadata(_engine(service, asked))


@router.post(
    "/repository/index",
    operation_id="v2RepositoryIndex",
    summary="Which models there are",
    responses=openapi_errors(503),
)
async def repository_index(service: ServiceDependency) -> list[dict[str, str]]:
    """The one model that serves; its name is part of the other paths."""
    engine = service.loaded_engine()
    version = protocol.model_version(engine)
    return [{"name": engine.card.name, "version": version, "state": "READY"}]


@router.post("/models/{model_name}/versions/{model_version}/infer", include_in_schema=False)
@router.post(
    "/models/{model_name}/infer",
    operation_id="v2ModelInfer",
    summary="Segment photos, for Triton's client",
    response_class=Response,
    responses={200: _ANSWER, **openapi_errors(400, 404, 413, 415, 422, 429, 500, 503, 504)},
    openapi_extra={"parameters": [_MODEL_NAME], "requestBody": _BODY},
)
async def infer(request: Request, service: ServiceDependency, asked: AskedDependency) -> Response:
    """Label maps of photos that are given as pixels (`image`) or as files (`file`)."""
    settings = service.settings
    async with taking_photos(request, service) as intake:
        _check_model(intake.engine, asked)
        async with intake.upload(None) as upload:
            encoding = request.headers.get("content-encoding", "identity")
            await decompress(upload, encoding, limit=settings.max_bytes)
            length = json_length(upload, request.headers.get(JSON_LENGTH_HEADER))
            document = await parse_json(
                upload.data[:length],
                protocol.InferenceRequest,
                upload,
                most_bytes=settings.upload_bytes // 2,
            )
            outputs = WantedTensors.of(document)
            wanted = wanted_of(document, outputs, intake.engine.card.classes)
            files = await image_files(
                document,
                upload,
                len(upload.data) - length,
                settings,
                one_size=protocol.LABEL_MAP in outputs.binary,
            )
            document.inputs.clear()
            upload.release()
            with ExitStack() as held:
                encoders = [TensorEncoder(outputs) for _ in files]
                parts = [_hold(file, intake, held) for file in files]
                files.clear()
                await in_order(
                    functools.partial(
                        intake.segment,
                        part,
                        wanted,
                        encode=encoder,
                        record=intake.record.add_image(),
                    )
                    for part, encoder in zip(parts, encoders, strict=True)
                )
            intake.record.conclude_images()
        size = sum(len(part) for encoder in encoders for part in encoder.parts.values())
        body, head_length = await beside_the_loop(
            lambda: response_body(document, outputs, encoders, intake.engine), size
        )
        if head_length is None:
            return intake.response(Rendered(body, "application/json"))
        response = intake.response(Rendered(body, "application/octet-stream"))
        response.headers[JSON_LENGTH_HEADER] = str(head_length)
        return response


def _engine(service: Service, asked: Asked) -> Engine:
    engine = service.loaded_engine()
    _check_model(engine, asked)
    return engine


def _check_model(engine: Engine, asked: Asked) -> None:
    served = protocol.model_version(engine)
    if asked.name != engine.card.name or asked.version not in ("", served):
        version = f" version {asked.version[:70]}" if asked.version else ""
        raise UnknownModelError(
            f"{asked.name[:60]}{version} is not served here; "
            f"{engine.card.name} version {served} is."
        )


def _hold(file: bytes, intake: Intake, held: ExitStack) -> Upload:
    part = held.enter_context(intake.part())
    part.count(len(file))
    part.data = file
    return part
