"""A COCO document of a label map, as annotation tools import it and pycocotools loads it.

One annotation for each connected region, not one for each class: in an annotation tool an
annotation is what a person selects, moves, relabels or deletes, and that is one car, not all cars
of a street at once. Pixels are connected by their sides. A region without holes is a polygon along
the edges of its pixels, which pycocotools fills to the very same pixels; one with holes is run
lengths, because COCO's polygons are united and cannot have holes.

Category ids are class indices plus one. COCO's own begin at 1, many readers keep 0 for the
background, and `--dataset coco` of this project numbers the categories it reads by ascending id
from 1, after the class `background`, which it recognises by that name. `iscrowd` is 0 also with run
lengths: 1 means a group that evaluation shall ignore.
"""

import itertools
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from app.inference import masks, rle
from app.inference.engine import Segmentation
from app.inference.entries import score_of
from app.inference.outlines import Region, trace
from model import ClassInfo

_IMAGE_ID = 1


def coco_document(
    segmentation: Segmentation,
    classes: Sequence[ClassInfo],
    selected: Collection[int] | None = None,
    *,
    file_name: str,
    compressed: bool = True,
    tolerance: float = 0.0,
) -> dict[str, Any]:
    """Return `images`, `categories` and `annotations` of one photo.

    Args:
        segmentation: Label map, HxW, and scores if they are wanted: every annotation gets the mean
            probability of its class.
        classes: All classes, in index order.
        selected: Classes to keep, as categories too; None keeps all.
        file_name: Of the photo.
        compressed: Whether run lengths are COCO's compressed string or a list.
        tolerance: How far polygons may be from the edges of the pixels; see `outlines.trace`. Run
            lengths, areas and boxes are exact in any case.
    """
    height, width = segmentation.label_map.shape
    regions = trace(masks.select(segmentation.label_map, selected), tolerance=tolerance)
    chosen = range(len(classes)) if selected is None else sorted(selected)
    return {
        "images": [{"id": _IMAGE_ID, "file_name": file_name, "width": width, "height": height}],
        "categories": [
            {
                "id": index + 1,
                "name": classes[index].name,
                "supercategory": "",
                "color": classes[index].hex_color,
            }
            for index in chosen
        ],
        "annotations": [
            {
                "id": number,
                "image_id": _IMAGE_ID,
                "category_id": region.class_id + 1,
                "segmentation": _run_lengths(region, height, width, compressed)
                if region.holes
                else [region.exterior.ravel().tolist()],
                "area": region.area,
                "bbox": region.bbox,
                "iscrowd": 0,
                **score_of(segmentation, region.class_id),
            }
            for number, region in enumerate(regions, start=1)
        ],
    }


def _run_lengths(region: Region, height: int, width: int, compressed: bool) -> dict[str, Any]:
    """Return a region's run lengths, which begin and end where its outline crosses a column."""
    places = []
    for ring in region.rings:
        for (x, y), (next_x, next_y) in itertools.pairwise([*ring.tolist(), ring[0].tolist()]):
            if y == next_y:
                places.append(np.arange(min(x, next_x), max(x, next_x)) * height + y)
    # A run that goes on at the top of the next column leaves and enters in the same place.
    changes, times = np.unique(np.concatenate(places), return_counts=True)
    counts = np.diff(changes[times == 1], prepend=0, append=height * width)
    if counts[-1] == 0:
        counts = counts[:-1]
    written = rle.compress(counts) if compressed else counts.tolist()
    return {"size": (height, width), "counts": written}
