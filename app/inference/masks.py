"""What a label map can become: palette PNG, grey PNG, a zip of binary masks, an overlay."""

import re
from collections.abc import Collection, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from app.inference.archive import stored_zip
from app.inference.png import encode_grey_png, encode_palette_png, encode_rgb_png
from model.classes import VOID, ClassInfo

LabelMap = npt.NDArray[np.uint8]
Photo = npt.NDArray[np.uint8]

_MAX_NAME: Final = 40
"""Letters kept of a class name: even four bytes each, a file name stays under 255 bytes."""

_BAND_ROWS: Final = 64


def select(label_map: LabelMap, selected: Collection[int] | None) -> LabelMap:
    """Keep the classes in `selected`; every other pixel of the label map, HxW, becomes void.

    None keeps everything and returns `label_map` itself.

    Raises:
        ValueError: A class index outside 0 to 254.
    """
    if selected is None:
        return label_map
    table = np.full(256, VOID, np.uint8)
    for class_id in selected:
        if not 0 <= class_id < VOID:
            raise ValueError(f"class index {class_id} is outside 0 to {VOID - 1}")
        table[class_id] = class_id
    return _translate(label_map, table)


def palette_png(label_map: LabelMap, classes: Sequence[ClassInfo]) -> bytes:
    """Encode a label map, HxW, as a PNG whose palette index is the class; void is transparent."""
    return encode_palette_png(label_map, [c.color for c in classes], transparent=VOID)


def grey_png(label_map: LabelMap) -> bytes:
    """Encode a label map, HxW, as a PNG whose grey value is the class and 255 is void."""
    return encode_grey_png(label_map)


def confidence_png(confidence: LabelMap, label_map: LabelMap) -> bytes:
    """Encode how sure the network is as a grey PNG, 255 for certainty; void is 0.

    Args:
        confidence: HxW.
        label_map: Labels, HxW.
    """
    return encode_grey_png(np.where(label_map == VOID, np.uint8(0), confidence))


def zip_of_masks(
    label_map: LabelMap,
    classes: Sequence[ClassInfo],
    selected: Collection[int] | None = None,
) -> bytes:
    """Return a zip with one PNG for each class that is present: 255 where it is, else 0.

    Files are named like `03_road.png`, by index and name. Equal input gives equal bytes.

    Args:
        label_map: Labels, HxW.
        classes: All classes, in index order.
        selected: Leave out all others.
    """
    # np.bincount would widen every label to 64 bits first.
    histogram = Image.fromarray(label_map).histogram()
    present = np.flatnonzero(histogram[: len(classes)])
    chosen = present if selected is None else np.intersect1d(present, list(selected))
    return stored_zip(
        # 0 stays 0, and -1 is 255.
        (
            _file_name(class_id, classes[class_id].name),
            encode_grey_png(np.negative((label_map == class_id).view(np.uint8))),
        )
        for class_id in chosen.tolist()
    )


def _file_name(class_id: int, name: str) -> str:
    # Letters and digits of any script, but nothing a file system or a path gives a meaning to.
    # The index in front makes it unique, also where case does not count, and no reserved name.
    safe = re.sub(r"[^\w-]+", "_", name).strip("_")[:_MAX_NAME]
    return f"{class_id:02d}_{safe}.png" if safe else f"{class_id:02d}.png"


def overlay_png(
    photo: Photo, label_map: LabelMap, classes: Sequence[ClassInfo], *, alpha: float = 0.5
) -> bytes:
    """Encode a photo with the colours of its classes over it; void pixels stay as they are.

    Args:
        photo: RGB, HxWx3.
        label_map: Labels, HxW.
        classes: All classes, in index order.
        alpha: Weight of the colours, 0 (photo only) to 1 (colours only).

    Raises:
        ValueError: Photo and label map differ in size, or `alpha` is outside 0 to 1.
    """
    if photo.shape[:2] != label_map.shape:
        raise ValueError(f"photo {photo.shape[:2]} and label map {label_map.shape} differ in size")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}, outside 0 to 1")
    weights = np.full(256, round(255 * alpha), np.uint8)
    weights[VOID] = 0
    table = [value for c in classes for value in c.color]
    mixed = np.empty_like(photo, order="C")
    # Band by band the temporary images stay in the cache: half the time at two megapixels.
    for top in range(0, len(photo), _BAND_ROWS):
        rows = slice(top, top + _BAND_ROWS)
        labels = np.ascontiguousarray(label_map[rows])
        colours = Image.fromarray(labels)
        colours.putpalette(table)
        band = Image.fromarray(np.ascontiguousarray(photo[rows]))
        band.paste(colours.convert("RGB"), mask=Image.fromarray(_translate(labels, weights)))
        mixed[rows] = np.asarray(band)
    return encode_rgb_png(mixed)


def _translate(label_map: LabelMap, table: npt.NDArray[np.uint8]) -> LabelMap:
    """Replace each label by its entry in `table`, 256 long."""
    # Four times faster than table[label_map], which widens every label to a 64-bit index.
    translated = bytearray(label_map.tobytes()).translate(table.tobytes())
    return np.frombuffer(translated, np.uint8).reshape(label_map.shape)
