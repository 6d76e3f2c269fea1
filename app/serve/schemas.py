"""What goes in and comes out as JSON or query parameters, as the OpenAPI document shows it."""

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from app.inference.render import MAX_SCALE, MAX_TOLERANCE, MIN_SCALE, MaskFormat


class RleCounts(StrEnum):
    """How run lengths are written."""

    COMPRESSED = "compressed"
    UNCOMPRESSED = "uncompressed"


class SegmentQuery(BaseModel):
    """Query parameters of `POST /segment`.

    Unknown ones are refused: a misspelt parameter would otherwise be ignored in silence.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: MaskFormat | None = Field(
        None,
        description="`png`: label map as a PNG with the classes' colours as palette; `grey`: the "
        "same as plain 8-bit grey, the value is the class index; `rle`: JSON with a COCO run "
        "length encoding for each class; `overlay`: the photo with the colours over it; `zip`: "
        "one black and white PNG for each class; `polygons`: GeoJSON outlines in pixels; `coco`: a "
        "COCO document with an annotation for each region; `cvat`: zip for CVAT's Segmentation "
        "mask 1.1; `probabilities`: npz with `probabilities` (float16, classes x height x width), "
        "`class_ids` and `class_names`; `confidence`: grey PNG, 255 times the probability of each "
        "pixel's class. Without it `Accept` chooses between "
        "`image/png` (default) and `application/json`.",
    )
    classes: str | None = Field(
        None,
        description="Only these classes, by name or index, separated by commas; `GET /model` "
        "lists them: `classes=car,road` or `classes=0,3`. In `png` and `grey` every other pixel "
        "becomes 255 (void).",
    )
    rle: RleCounts = Field(
        RleCounts.COMPRESSED,
        description="With `format=rle`: counts as COCO's compressed string or as a list.",
    )
    scale: float | None = Field(
        None,
        ge=MIN_SCALE,
        le=MAX_SCALE,
        allow_inf_nan=False,
        description="The network sees the photo at this scale; masks keep the photo's own size. "
        "A network trained on small images judges large photos better when they are scaled down. "
        "By default that of `GET /model`, at which it was trained.",
    )
    scores: bool = Field(
        False,
        description="With `format=rle`, `polygons` or `coco`: add each class's mean probability "
        "over its mask.",
    )
    tolerance: float = Field(
        0.0,
        ge=0,
        le=MAX_TOLERANCE,
        allow_inf_nan=False,
        description="With `format=polygons` or `coco`: how far outlines may be from the edges of "
        "the pixels, in pixels. 0 follows them exactly; 1 to 2 make outlines that people can "
        "edit. Neighbours keep their common edge; what is smaller vanishes.",
    )


class ModelReference(BaseModel):
    """Which model made an answer."""

    name: str = Field(examples=["camvid-fcn8s-vgg16_bn"])
    version: str = Field(description="SHA-256 of the checkpoint file.")


class ImageSize(BaseModel):
    """Size of the photo as it is shown: after its EXIF orientation, in pixels."""

    width: int = Field(examples=[480])
    height: int = Field(examples=[360])


class Rle(BaseModel):
    """COCO run lengths: column by column, zeros first."""

    size: tuple[int, int] = Field(description="Height and width.", examples=[(360, 480)])
    counts: str | list[int] = Field(
        description="Compressed string, as `pycocotools.mask.decode` takes it, or list of run "
        "lengths.",
        examples=["nSb31i:7J2N2N2O0O2O"],
    )


class Mask(BaseModel):
    """One class that is present in the photo."""

    class_id: int = Field(examples=[3])
    class_name: str = Field(examples=["road"])
    color: str = Field(description="As `#rrggbb`.", examples=["#804080"])
    area: int = Field(description="Pixels of the mask.", examples=[46_080])
    fraction: float = Field(description="Area over the photo's pixels.", examples=[0.2666667])
    bbox: tuple[int, int, int, int] = Field(
        description="Smallest box around the mask: x, y, width, height in pixels.",
        examples=[(0, 180, 480, 180)],
    )
    score: float | None = Field(
        None,
        description="Mean probability of the class over its mask, with `scores=true`. How far to "
        "trust it: `temperature` and `training.calibration` of `GET /model`.",
    )
    rle: Rle


class TimingMs(BaseModel):
    """Milliseconds spent in each stage."""

    decode: float
    queue: float = Field(description="The wait for the device.")
    transfer: float = Field(description="From main memory to the device, for the whole batch.")
    forward: float = Field(description="The network, and label maps back, for the whole batch.")
    encode: float


class SegmentationDocument(BaseModel):
    """Answer of `POST /segment?format=rle`: the classes present, by index."""

    request_id: str
    model: ModelReference
    image: ImageSize
    masks: list[Mask]
    timing_ms: TimingMs


class ProblemDocument(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(
        description="Names the kind of problem, for programs.", examples=["urn:fcn:queue-full"]
    )
    title: str = Field(description="The kind of problem in words.", examples=["Queue full"])
    status: int = Field(description="The HTTP status again.", examples=[429])
    detail: str = Field(
        description="What happened to this request and what to do about it.",
        examples=["The queue is full: 256 requests are waiting for their masks."],
    )
    request_id: str = Field(description="As in `X-Request-ID` and in the server's log.")


class Liveness(BaseModel):
    """Answer of `GET /health/live`."""

    status: str = Field(examples=["alive"])


class Readiness(BaseModel):
    """Answer of `GET /health/ready`."""

    status: str = Field(examples=["ready"])


class QueueState(BaseModel):
    """What is admitted and not yet answered."""

    requests: int
    pixels: int
    upload_bytes: int = Field(description="Bytes received and not yet decoded.")


class Health(BaseModel):
    """Answer of `GET /health`."""

    status: str = Field(description="starting, ready, draining or failed.", examples=["ready"])
    version: str = Field(description="Version of the service.")
    uptime_s: float
    model: ModelReference | None = Field(description="null until it is loaded.")
    device: str | None = Field(examples=["cuda:0"])
    precision: str | None = Field(examples=["bf16"])
    notice: str | None = Field(description="What whoever runs it should know; usually null.")
    queue: QueueState | None


class ClassDocument(BaseModel):
    """One class of the model."""

    index: int = Field(examples=[3])
    name: str = Field(examples=["road"])
    color: str = Field(description="As `#rrggbb`.", examples=["#804080"])


class ModelDocument(BaseModel):
    """Answer of `GET /model`."""

    name: str = Field(examples=["camvid-fcn8s-vgg16_bn"])
    version: str = Field(description="SHA-256 of the checkpoint file.")
    architecture: dict[str, Any] = Field(
        examples=[{"variant": "fcn8s", "backbone": "vgg16_bn", "head_width": 256}]
    )
    classes: list[ClassDocument]
    training: dict[str, Any] = Field(
        description="How it was trained and its metrics on the validation split."
    )
    temperature: float = Field(
        description="Logits are divided by it before they become the probabilities that `scores` "
        "average; fitted on labelled photos, 1 if the model was not calibrated or none did "
        "better. Masks do not depend on it.",
        examples=[1.31],
    )
    scale: float = Field(
        description="At which the network sees photos that no `scale` is given for; that at which "
        "it was trained.",
        examples=[1.0],
    )
    device: str = Field(examples=["cuda:0"])
    precision: str = Field(examples=["bf16"])
