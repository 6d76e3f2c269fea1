"""One COCO file: its categories, images and annotations, each looked at before it is used."""

import json
import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from app.errors import UsageError
from app.inference.rle import compress, decompress
from app.train.class_names import VOID_NAMES, check_classes, class_name
from app.train.data_problems import AnnotationError, Report, UnusedFileWarning
from app.train.samples import MAX_TRAINING_PIXELS
from model import VOID, ClassInfo, named_classes

BACKGROUND: Final = "background"
"""Name of class 0, every pixel without an instance."""

_BACKGROUND_NAMES: Final = frozenset({BACKGROUND, "_background_"})
_LEAST_COORDINATES: Final = 6
"""Of a polygon: three points."""

Entry = dict[str, Any]
"""An object of the file, its values not yet looked at."""


class Region(NamedTuple):
    """Pixels of one instance.

    Attributes:
        label: Index of its class, or 255.
        area: In pixels.
        counts: Run lengths, as COCO's compressed string.
    """

    label: int
    area: int
    counts: str


class AnnotatedPhoto(NamedTuple):
    """A photo and what is outlined in it.

    Attributes:
        path: Of its file.
        size: (height, width) in pixels.
        regions: In the order in which they are painted, the largest first.
    """

    path: Path
    size: tuple[int, int]
    regions: tuple[Region, ...]


def read_coco(
    path: Path, folders: Sequence[Path], report: Report
) -> tuple[tuple[ClassInfo, ...], list[AnnotatedPhoto]]:
    """Read the classes and the annotated photos of a COCO file.

    Masks are kept as compressed run lengths, about as large as the file's own polygons.

    Args:
        path: The file.
        folders: Where the photos may be, the likeliest first.
        report: Told of what cannot be used, and of photos that are left out.

    Raises:
        UsageError: If it is no COCO file.
    """
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON: {error}") from None
    categories, images, annotations = (
        _entries(document, key, path) for key in ("categories", "images", "annotations")
    )
    classes, labels = _classes(_without_root(categories, annotations), path)
    by_image = _by_image(images, annotations, path, report)
    photos: dict[Path, AnnotatedPhoto] = {}
    for image in images:
        where = f"{path}: image {image.get('id')}"
        if not by_image[image["id"]]:
            name = image.get("file_name")
            report(UnusedFileWarning(f"{where}, {name}, has no annotations and is left out"))
            continue
        try:
            photo, size = _find_photo(image, folders), _size(image)
            if photo in photos:
                raise ValueError(f"another image is {photo} too")
        except ValueError as error:
            report(AnnotationError(f"{where}: {error}"))
            continue
        regions = []
        for annotation in by_image[image["id"]]:
            try:
                regions.append(_region(annotation, labels, size))
            except ValueError as error:
                report(AnnotationError(f"{path}: annotation {annotation.get('id')}: {error}"))
        regions.sort(key=lambda region: -region.area)
        photos[photo] = AnnotatedPhoto(photo, size, tuple(regions))
    return classes, list(photos.values())


def _entries(document: Any, key: str, path: Path) -> list[Entry]:
    entries = document.get(key) if isinstance(document, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError(f"{path}: not a COCO file: it has no list of {key}")
    return entries


def _without_root(categories: list[Entry], annotations: list[Entry]) -> list[Entry]:
    """Leave out the category that Roboflow puts before all others: the project, which nobody drew.

    It often has the very name of a class.
    """
    if len(categories) < 2 or categories[0].get("supercategory") != "none":
        return categories
    root, *others = categories
    is_root = all(category.get("supercategory") == root.get("name") for category in others)
    drawn = any(annotation.get("category_id") == root.get("id") for annotation in annotations)
    return others if is_root and not drawn else categories


def _classes(categories: list[Entry], path: Path) -> tuple[tuple[ClassInfo, ...], dict[int, int]]:
    """Return the classes, and the label of each category by its id."""
    names, labels = [BACKGROUND], {}
    for category in categories:
        if not (isinstance(category.get("id"), int) and isinstance(category.get("name"), str)):
            raise UsageError(f"{path}: a category has no whole number as id or no name")
    for category in sorted(categories, key=lambda category: category["id"]):
        number = category["id"]
        name = class_name(category["name"], f"{path}, category {number}")
        if number in labels:
            raise UsageError(f"{path}: two categories have the id {number}")
        if name.lower() in _BACKGROUND_NAMES:
            labels[number] = 0
        elif name.lower() in VOID_NAMES:
            labels[number] = VOID
        else:
            labels[number] = len(names)
            names.append(name)
    return check_classes(list(named_classes(names, background_first=True)), path), labels


def _by_image(
    images: list[Entry], annotations: list[Entry], path: Path, report: Report
) -> dict[int | str, list[Entry]]:
    """Return the annotations of each image by its id."""
    by_image: dict[int | str, list[Entry]] = {}
    for image in images:
        number = image.get("id")
        if not isinstance(number, int | str) or number in by_image:
            raise UsageError(f"{path}: an image has no id, or that of another: {number}")
        by_image[number] = []
    for annotation in annotations:
        number = annotation.get("image_id")
        if isinstance(number, int | str) and number in by_image:
            by_image[number].append(annotation)
        else:
            who = annotation.get("id")
            report(AnnotationError(f"{path}: annotation {who}: no image has the id {number}"))
    return by_image


def _size(image: Entry) -> tuple[int, int]:
    """Return an image's (height, width).

    Raises:
        ValueError: If it has none that a photo may have.
    """
    height, width = image.get("height"), image.get("width")
    if not (isinstance(height, int) and isinstance(width, int) and min(height, width) > 0):
        raise ValueError(f"its width and height are {width} and {height}")
    if height * width > MAX_TRAINING_PIXELS:
        raise ValueError(f"{width}x{height} are more than {MAX_TRAINING_PIXELS} pixels")
    return height, width


def _find_photo(image: Entry, folders: Sequence[Path]) -> Path:
    """Return the file of an image.

    Label Studio writes paths of the machine it ran on, on Windows with backslashes; the name
    alone is then looked for.

    Raises:
        ValueError: If no folder has it.
    """
    file_name = image.get("file_name")
    if not isinstance(file_name, str) or not file_name:
        raise ValueError("it has no file_name")
    inside = PurePosixPath(file_name.replace("\\", "/"))
    for name in dict.fromkeys((inside, PurePosixPath(inside.name))):
        for folder in folders:
            if (folder / name).is_file():
                return folder / name
    places = ", ".join(str(folder) for folder in folders)
    raise ValueError(
        f"{file_name} is in none of {places}; most tools export the photos only if asked to"
    )


def _region(annotation: Entry, labels: dict[int, int], size: tuple[int, int]) -> Region:
    """Return the pixels of an annotation.

    Raises:
        ValueError: If they cannot be told, or their category.
    """
    number = annotation.get("category_id")
    if not isinstance(number, int) or number not in labels:
        raise ValueError(f"no category has the id {number}")
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        counts, text = _run_lengths(segmentation, size)
    elif isinstance(segmentation, list) and segmentation:
        text = _fill(segmentation, size)
        counts = decompress(text)
    else:
        raise ValueError("it has no outline; a box alone does not tell which pixels it means")
    return Region(labels[number], int(counts[1::2].sum()), text)


def _run_lengths(segmentation: Entry, size: tuple[int, int]) -> tuple[NDArray[np.int64], str]:
    """Return a mask's run lengths and their compressed string."""
    height, width = size
    if segmentation.get("size") != [height, width]:
        raise ValueError(
            f"its run lengths are for height and width {segmentation.get('size')}, the image has "
            f"{[height, width]}"
        )
    given = segmentation.get("counts")
    if isinstance(given, str):
        text, counts = given, decompress(given)
    else:
        values = np.asarray(given)
        if values.dtype.kind not in "iu" or values.ndim != 1:
            raise ValueError("its run lengths are neither a string nor a list of whole numbers")
        counts = values.astype(np.int64)
        text = compress(counts)
    if counts.min(initial=0) < 0 or counts.sum() != height * width:
        raise ValueError(f"its run lengths do not add up to {width}x{height} pixels")
    return counts, text


def _fill(polygons: list[Any], size: tuple[int, int]) -> str:
    """Return the pixels inside any of the polygons, as pycocotools rasterises them."""
    height, width = size
    for polygon in polygons:
        if not isinstance(polygon, list) or not all(_is_number(value) for value in polygon):
            raise ValueError("a polygon is not a list of numbers x, y, x, y ...")
        if len(polygon) % 2:
            raise ValueError(f"a polygon has {len(polygon)} coordinates, an odd number")
        if len(polygon) < _LEAST_COORDINATES:
            raise ValueError(f"a polygon has {len(polygon) // 2} points; three are the least")
        # Outlines may leave the photo a little. Far outside they are wrong, and costly to fill.
        for values, side in ((polygon[::2], width), (polygon[1::2], height)):
            if min(values) < -side or max(values) > 2 * side:
                raise ValueError(f"a polygon lies far outside the {width}x{height} pixels")
    parts = coco_mask.frPyObjects(polygons, height, width)
    text: str = coco_mask.merge(parts)["counts"].decode()
    return text


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
