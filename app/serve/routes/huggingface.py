"""`POST /hf`: what `huggingface_hub.InferenceClient(model="http://host/hf")` calls."""

from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.inference.render import MaskFormat
from app.serve.intake import taking_photos
from app.serve.protocols.errors import ErrorMemberRoute, openapi_errors
from app.serve.protocols.huggingface import (
    SegmentationInput,
    SegmentationOutputElement,
    SegmentationParameters,
    SegmentEncoder,
)
from app.serve.protocols.json_body import beside_the_loop, decode_base64, parse_json
from app.serve.render import Wanted
from app.serve.routes.dependencies import ServiceDependency
from app.serve.upload_budget import Upload

router = APIRouter(tags=["other clients"], route_class=ErrorMemberRoute)

_BINARY: Final = {"type": "string", "format": "binary"}

_REQUEST_BODY: Final[dict[str, Any]] = {
    "required": True,
    "description": "The photo itself, or JSON with it in base64.",
    "content": {
        "image/*": {"schema": _BINARY},
        "application/json": {"schema": {"$ref": "#/components/schemas/SegmentationInput"}},
    },
}


@router.post(
    "/hf",
    operation_id="hfImageSegmentation",
    summary="Segment a photo, for Hugging Face's client",
    response_model=list[SegmentationOutputElement],
    responses=openapi_errors(400, 413, 415, 422, 429, 500, 503, 504),
    openapi_extra={"requestBody": _REQUEST_BODY},
)
async def segment(request: Request, service: ServiceDependency) -> Response:
    """The image-segmentation task of Hugging Face's inference API.

    `InferenceClient(model="http://localhost:8000/hf").image_segmentation("photo.jpg")`
    """
    async with taking_photos(request, service) as intake, intake.upload(None) as upload:
        parameters = await _read(upload, service.settings.upload_bytes // 2)
        rendered = await intake.segment(
            upload,
            Wanted(format=MaskFormat.RLE, scores=True),
            encode=SegmentEncoder(parameters.threshold),
        )
        return intake.response(rendered)


async def _read(upload: Upload, most_bytes: int) -> SegmentationParameters:
    """Leave the photo in the upload, whichever way it came, and return the parameters."""
    # The bytes decide: no image file begins like a JSON object.
    if upload.data[:64].lstrip()[:1] != b"{":
        return SegmentationParameters()
    document = await parse_json(upload.data, SegmentationInput, upload, most_bytes=most_bytes)
    upload.data = await beside_the_loop(
        lambda: decode_base64(document.inputs), len(document.inputs)
    )
    return document.parameters or SegmentationParameters()
