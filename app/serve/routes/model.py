"""`GET /model`: what is served."""

from dataclasses import asdict

from fastapi import APIRouter, Request

from app.serve.errors import openapi_responses
from app.serve.record import record_of
from app.serve.routes.dependencies import ServiceDependency
from app.serve.schemas import ClassDocument, ModelDocument
from app.serve.versions import model_label

router = APIRouter(tags=["model"])


@router.get(
    "/model",
    operation_id="model",
    summary="The model that serves",
    responses=openapi_responses(503),
)
async def model(request: Request, service: ServiceDependency) -> ModelDocument:
    """Classes with their colours, architecture, version, and how the model was trained."""
    engine = service.loaded_engine()
    record_of(request).model = model_label(engine)
    return ModelDocument(
        name=engine.card.name,
        version=engine.version,
        architecture=asdict(engine.card.architecture),
        classes=[
            ClassDocument(index=index, name=info.name, color=info.hex_color)
            for index, info in enumerate(engine.card.classes)
        ],
        training=engine.card.training,
        temperature=engine.card.temperature,
        scale=engine.card.scale,
        device=str(engine.device),
        precision=engine.precision,
    )
