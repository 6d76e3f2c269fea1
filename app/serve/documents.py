"""JSON answers of `POST /segment` besides run lengths, as the OpenAPI document shows them."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from app.serve.schemas import (
    ImageSize,
    ModelReference,
    ProblemDocument,
    Rle,
    SegmentationDocument,
    TimingMs,
)

Position = Annotated[list[int], Field(min_length=2, max_length=2)]
"""x to the right, y down, in pixels from the top left corner."""

_SCORE = "Mean probability of the class over its mask, with `scores=true`."


class ClassProperties(BaseModel):
    """Properties of a feature: its class."""

    class_id: int = Field(examples=[8])
    class_name: str = Field(examples=["car"])
    color: str = Field(description="As `#rrggbb`.", examples=["#400080"])
    area: int = Field(description="Pixels of the mask.", examples=[5_120])
    fraction: float = Field(description="Area over the photo's pixels.", examples=[0.0296296])
    score: float | None = Field(None, description=_SCORE, examples=[0.9312])


class MultiPolygon(BaseModel):
    """GeoJSON geometry: polygons, each an exterior ring and its holes."""

    type: Literal["MultiPolygon"]
    coordinates: list[list[list[Position]]] = Field(
        description="Polygons of rings of positions x, y, in pixels along the edges of pixels. "
        "The last position of a ring repeats its first.",
        examples=[[[[[96, 180], [176, 180], [176, 244], [96, 244], [96, 180]]]]],
    )


class Feature(BaseModel):
    """GeoJSON feature: one class that is present in the photo."""

    type: Literal["Feature"]
    id: int = Field(description="Index of the class.", examples=[8])
    bbox: tuple[int, int, int, int] = Field(
        description="Left, top, right, bottom in pixels.", examples=[(96, 180, 176, 244)]
    )
    properties: ClassProperties
    geometry: MultiPolygon


class FeatureCollection(BaseModel):
    """Answer of `POST /segment?format=polygons`: GeoJSON, the classes present, by index."""

    type: Literal["FeatureCollection"]
    request_id: str
    model: ModelReference
    image: ImageSize
    features: list[Feature]
    timing_ms: TimingMs


class CocoInfo(BaseModel):
    """Where a COCO document comes from."""

    description: str = Field(examples=["Segmentation of one photo"])
    version: str = Field(examples=["1.0"])
    request_id: str
    model: ModelReference


class CocoImage(BaseModel):
    """The photo."""

    id: int = Field(examples=[1])
    file_name: str = Field(examples=["street.jpg"])
    width: int = Field(examples=[480])
    height: int = Field(examples=[360])


class CocoCategory(BaseModel):
    """A class."""

    id: int = Field(description="Index of the class plus one.", examples=[9])
    name: str = Field(examples=["car"])
    supercategory: str = Field(examples=[""])
    color: str = Field(description="As `#rrggbb`.", examples=["#400080"])


class CocoAnnotation(BaseModel):
    """A connected region of one class."""

    id: int = Field(examples=[1])
    image_id: int = Field(examples=[1])
    category_id: int = Field(examples=[9])
    segmentation: list[list[int]] | Rle = Field(
        description="A polygon x, y, x, y ... along the edges of the pixels, or run lengths if the "
        "region has holes.",
        examples=[[[96, 180, 176, 180, 176, 244, 96, 244]]],
    )
    area: int = Field(description="Pixels.", examples=[5_120])
    bbox: tuple[int, int, int, int] = Field(
        description="x, y, width, height in pixels.", examples=[(96, 180, 80, 64)]
    )
    iscrowd: Literal[0]
    score: float | None = Field(None, description=_SCORE, examples=[0.9312])


class CocoDocument(BaseModel):
    """Answer of `POST /segment?format=coco`, as pycocotools loads it."""

    info: CocoInfo
    licenses: list[str] = Field(description="Empty.", max_length=0)
    images: list[CocoImage]
    categories: list[CocoCategory] = Field(description="All classes, or those asked for.")
    annotations: list[CocoAnnotation]


class ImageOutcome(BaseModel):
    """What became of one of several images: `document` or `problem`."""

    index: int = Field(description="Its place in the request, from 0.", examples=[0])
    filename: str | None = Field(
        description="Its file name without folders; null if it came without one.",
        examples=["street.jpg"],
    )
    document: SegmentationDocument | FeatureCollection | CocoDocument | None = Field(
        None, description="The answer, as for a single image."
    )
    problem: ProblemDocument | None = Field(None, description="Why there is none.")


class SeveralDocument(BaseModel):
    """Answer of `POST /segment` to several images, in the formats that are JSON."""

    request_id: str
    results: list[ImageOutcome] = Field(description="One for each image, in order.")
