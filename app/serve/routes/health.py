"""`/health`: for orchestrators (live, ready) and for people."""

from importlib import metadata
from typing import Final

from fastapi import APIRouter

from app.serve.errors import openapi_responses
from app.serve.routes.dependencies import ServiceDependency
from app.serve.schemas import Health, Liveness, ModelReference, QueueState, Readiness

router = APIRouter(prefix="/health", tags=["health"])


def _service_version() -> str:
    try:
        return metadata.version("fcn-service")
    except metadata.PackageNotFoundError:
        return "unknown"  # run from a source tree that was never installed


SERVICE_VERSION: Final = _service_version()


@router.get(
    "/live",
    operation_id="live",
    summary="Whether the process works",
    responses=openapi_responses(503),
)
async def live(service: ServiceDependency) -> Liveness:
    """200 while the process works or may work later; 503 once it must be restarted."""
    service.check_alive()
    return Liveness(status="alive")


@router.get(
    "/ready",
    operation_id="ready",
    summary="Whether new work is taken",
    responses=openapi_responses(503),
)
async def ready(service: ServiceDependency) -> Readiness:
    """200 when the checkpoint is loaded and warm; 503 while starting or draining."""
    service.check_ready()
    return Readiness(status="ready")


@router.get("", operation_id="health", summary="A summary for people")
async def health(service: ServiceDependency) -> Health:
    """What the process is doing, with which model, on what; always 200."""
    engine, pipeline = service.engine, service.running_pipeline
    return Health(
        status=service.phase,
        version=SERVICE_VERSION,
        uptime_s=round(service.uptime_s, 3),
        model=ModelReference(name=engine.card.name, version=engine.version) if engine else None,
        device=str(engine.device) if engine else None,
        precision=engine.precision if engine else None,
        notice=service.notice,
        queue=QueueState(
            requests=pipeline.admission.requests,
            pixels=pipeline.admission.pixels,
            upload_bytes=pipeline.uploads.held,
        )
        if pipeline
        else None,
    )
