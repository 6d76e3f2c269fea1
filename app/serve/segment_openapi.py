"""What the OpenAPI document says of `POST /segment` beyond its query parameters."""

from typing import Any, Final

from app.inference.render import MaskFormat
from app.serve.errors import openapi_responses
from app.serve.image_form import IMAGE_FIELD
from app.serve.render import GEOJSON, JSON, NPZ, ZIP

_BINARY: Final = {"type": "string", "format": "binary"}

_REQUEST_ID: Final = "7d9f3c1a5b8e4f60a2c4e6f8091b3d5f"

REQUEST_BODY: Final[dict[str, Any]] = {
    "required": True,
    "description": "The photo: as field `image` of a form, or as the body itself. Its bytes "
    "decide the image format, not its declared type: JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF. A "
    "form may have several fields `image`; see the answer 200.",
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": [IMAGE_FIELD],
                "properties": {
                    IMAGE_FIELD: {
                        "type": "array",
                        "items": _BINARY,
                        "minItems": 1,
                        "description": "A part for each image, all of this name; "
                        "`FCN_REQUEST_IMAGES` (16 by default) at most.",
                    }
                },
            }
        },
        "application/octet-stream": {"schema": _BINARY},
        "image/*": {"schema": _BINARY},
    },
}

_MODEL: Final = {"name": "camvid-fcn8s-vgg16_bn", "version": "0123456789abcdef" * 4}
_TIMING: Final = {"decode": 0.6, "queue": 0.1, "transfer": 0.1, "forward": 130.2, "encode": 0.3}
_ABOUT: Final = {
    "request_id": _REQUEST_ID,
    "model": _MODEL,
    "image": {"width": 480, "height": 360},
}
_CAR: Final = {
    "class_id": 8,
    "class_name": "car",
    "color": "#400080",
    "area": 5_120,
    "fraction": 0.0296296,
}
_RUN_LENGTHS: Final = {
    **_ABOUT,
    "masks": [
        {
            **_CAR,
            "bbox": [96, 180, 80, 64],
            "score": 0.9312,
            "rle": {"size": [360, 480], "counts": "dmQ1P2X9" + "0" * 157 + "\\fZ3"},
        }
    ],
    "timing_ms": _TIMING,
}
_FEATURES: Final = {
    "type": "FeatureCollection",
    **_ABOUT,
    "features": [
        {
            "type": "Feature",
            "id": 8,
            "bbox": [96, 180, 176, 244],
            "properties": {**_CAR, "score": 0.9312},
            "geometry": {
                "type": "MultiPolygon",
                "coordinates": [[[[96, 180], [176, 180], [176, 244], [96, 244], [96, 180]]]],
            },
        }
    ],
    "timing_ms": _TIMING,
}
_COCO: Final = {
    "info": {
        "description": "Segmentation of one photo",
        "version": "1.0",
        "request_id": _REQUEST_ID,
        "model": _MODEL,
    },
    "licenses": [],
    "images": [{"id": 1, "file_name": "street.jpg", "width": 480, "height": 360}],
    "categories": [{"id": 9, "name": "car", "supercategory": "", "color": "#400080"}],
    "annotations": [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 9,
            "segmentation": [[96, 180, 176, 180, 176, 244, 96, 244]],
            "area": 5_120,
            "bbox": [96, 180, 80, 64],
            "iscrowd": 0,
            "score": 0.9312,
        }
    ],
}
_SEVERAL: Final = {
    "request_id": _REQUEST_ID,
    "results": [
        {"index": 0, "filename": "street.jpg", "document": _RUN_LENGTHS},
        {
            "index": 1,
            "filename": "notes.txt",
            "problem": openapi_responses(415)[415]["content"]["application/problem+json"][
                "examples"
            ]["unknown-image-format"]["value"],
        },
    ],
}


def _ref(schema: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{schema}"}


MASKS: Final[dict[str, Any]] = {
    "description": f"""The masks, of the photo's own size, in the wanted format.

A form with several fields `image` gets one answer for all of them, in order. Formats that are JSON
become one `SeveralDocument` ({JSON}). The others become a zip ({ZIP}), stored, with an entry for
each image, like `000_street.png`, or `001_notes.problem.json` for one that failed; `cvat` becomes
one archive of all masks, with `problems.json` if images failed. Every image is admitted for itself,
and those of one size share forwards. The status is 200 if at least one image has an answer.
Otherwise the answer is a problem, the gravest of theirs, whose `detail` tells each. A deadline is
that of the request: what it cuts off has no answer at all.""",
    "content": {
        "image/png": {"schema": _BINARY},
        JSON: {
            "schema": {
                "anyOf": [
                    _ref("SegmentationDocument"),
                    _ref("CocoDocument"),
                    _ref("SeveralDocument"),
                ]
            },
            "examples": {
                MaskFormat.RLE.value: {
                    "summary": "`format=rle&scores=true`",
                    "value": _RUN_LENGTHS,
                },
                MaskFormat.COCO.value: {
                    "summary": "`format=coco&classes=car&scores=true`",
                    "value": _COCO,
                },
                "several": {"summary": "Two images, `format=rle`", "value": _SEVERAL},
            },
        },
        GEOJSON: {
            "schema": _ref("FeatureCollection"),
            "examples": {
                MaskFormat.POLYGONS.value: {
                    "summary": "`format=polygons&scores=true`",
                    "value": _FEATURES,
                }
            },
        },
        ZIP: {"schema": _BINARY},
        NPZ: {"schema": _BINARY},
    },
    "headers": {
        "X-Request-ID": {
            "description": "The client's, if it sent a sane one.",
            "schema": {"type": "string"},
            "example": _REQUEST_ID,
        },
        "X-Model": {
            "description": "Name and start of the version of the model that made the masks.",
            "schema": {"type": "string"},
            "example": "camvid-fcn8s-vgg16_bn@0123456789ab",
        },
        "Server-Timing": {
            "description": "Milliseconds of decode, queue, transfer, forward and encode; of "
            "several images the longest of each.",
            "schema": {"type": "string"},
            "example": "decode;dur=0.60, queue;dur=0.10, transfer;dur=0.10, forward;dur=130.20, "
            "encode;dur=0.30",
        },
    },
}

HEADERS: Final[list[dict[str, Any]]] = [
    {
        "name": "X-Request-Timeout",
        "in": "header",
        "description": "Seconds after which the answer is no longer wanted; can only shorten the "
        "server's own limit.",
        "schema": {"type": "number", "exclusiveMinimum": 0},
        "example": 30,
    },
    {
        "name": "X-Request-ID",
        "in": "header",
        "description": "An id for the log and the answer, of up to 128 letters, digits and `._:-`; "
        "any other is replaced.",
        "schema": {"type": "string"},
        "example": _REQUEST_ID,
    },
]
