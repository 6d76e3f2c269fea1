"""Puts the service together: settings, state, middleware, routes, errors and documentation."""

import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi_offline import FastAPIOffline
from pydantic.json_schema import models_json_schema

from app.serve.documents import CocoDocument, FeatureCollection, SeveralDocument
from app.serve.errors import install_error_handlers, problems_as_markdown
from app.serve.middleware import RequestMiddleware
from app.serve.protocols.huggingface import SegmentationInput
from app.serve.protocols.label_studio import PredictRequest
from app.serve.protocols.open_inference import InferenceRequest, InferenceResponse
from app.serve.routes import (
    health,
    huggingface,
    label_studio,
    metrics,
    model,
    open_inference,
    page,
    segment,
)
from app.serve.schemas import ProblemDocument, SegmentationDocument
from app.serve.service import LoadEngine, Service, load_engine
from app.serve.settings import Settings, load_settings, unknown_variables
from app.serve.telemetry import Telemetry

logger = logging.getLogger(__name__)

_DESCRIPTION = """
Segments photos with a fully convolutional network: POST a photo, get a label for every pixel.

Every answer carries `X-Request-ID`; errors are `application/problem+json` (RFC 9457) except where
other tools' clients expect `{"error": ...}`, and their `type` is one of:

"""


def stop_process(error: Exception) -> None:
    """End the process because the model cannot be loaded; the server closes down as on SIGTERM."""
    logger.error("cannot serve: %s", error)
    os.kill(os.getpid(), signal.SIGTERM)


def create_app(
    settings: Settings | None = None,
    *,
    load: LoadEngine = load_engine,
    on_failure: Callable[[Exception], None] = stop_process,
) -> FastAPI:
    """Build the application; its lifespan loads the model in the background.

    Args:
        settings: How to serve; by default read from the environment.
        load: Makes the engine; by default it loads the settings' checkpoint.
        on_failure: Called if that fails; must end the process.

    Raises:
        SettingsError: If the environment holds an impossible setting.
    """
    service = Service(settings or load_settings(), Telemetry(), load=load, on_failure=on_failure)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        for name in unknown_variables(os.environ):
            logger.warning("%s is no setting; docs/settings.md lists those that are", name)
        service.start()
        yield
        await service.stop()

    # FastAPI's own page loads Swagger UI from a content delivery network; this one brings it.
    app = FastAPIOffline(
        docs_url="/docs",
        redoc_url=None,
        title="FCN segmentation",
        version=health.SERVICE_VERSION,
        description=_DESCRIPTION + problems_as_markdown(),
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.service = service
    app.add_middleware(RequestMiddleware, service=service)
    install_error_handlers(app)
    for routes in (segment, model, health, metrics, page):
        app.include_router(routes.router)
    for other_clients in (huggingface, open_inference, label_studio):
        app.include_router(other_clients.router)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document plus the schemas that routes refer to by name.

    FastAPI can attach a model to one media type of an answer only; problems and masks have
    media types of their own.
    """
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
        )
        _, schemas = models_json_schema(
            [
                (ProblemDocument, "serialization"),
                (SegmentationDocument, "serialization"),
                (FeatureCollection, "serialization"),
                (CocoDocument, "serialization"),
                (SeveralDocument, "serialization"),
                (SegmentationInput, "validation"),
                (InferenceRequest, "validation"),
                (InferenceResponse, "serialization"),
                (PredictRequest, "validation"),
            ],
            ref_template="#/components/schemas/{model}",
        )
        document["components"]["schemas"].update(schemas["$defs"])
        app.openapi_schema = document
    return app.openapi_schema
