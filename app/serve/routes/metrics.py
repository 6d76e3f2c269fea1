"""`GET /metrics` for Prometheus."""

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from app.serve.routes.dependencies import ServiceDependency

router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={
        200: {
            "description": "Prometheus' text format.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        }
    },
)
async def metrics(service: ServiceDependency) -> Response:
    """Requests, stages, batches, queue, rejects, memory and model of this process."""
    return Response(service.telemetry.exposition(), media_type=CONTENT_TYPE_LATEST)
