"""The folders of PASCAL VOC with classes of one's own: what CVAT and labelme2voc export.

```
labelmap.txt                  CVAT: `name:R,G,B::` a line; the masks hold these colours
class_names.txt               labelme2voc: a name a line; the masks hold indices
JPEGImages/                   photos, also in subfolders
SegmentationClass/            masks, PNG; older labelme2voc: SegmentationClassPNG/
ImageSets/Segmentation/*.txt  stems of the photos; train.txt and val.txt are the split
```
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app.errors import UsageError
from app.train.class_names import VOID_NAMES, check_classes, class_name, read_lines
from app.train.data_problems import (
    PairingError,
    Report,
    UnknownLabelError,
    UnreadableLabelsError,
)
from app.train.layouts import (
    Draw,
    draw_split,
    files_by_split,
    find_photos,
    has_split,
    pair,
    report_unused_masks,
)
from app.train.samples import LabelledFiles, LabelledImages, PhotoFiles, load_mask
from model import VOID, ClassInfo, named_classes
from model.classes import RGB

VOC_VOID_COLOR: Final = (224, 224, 192)
"""What the VOC palette draws 255 in. Tools that follow it mean void, listed or not."""

_LABELMAP_LINE: Final = re.compile(r"(.*?):\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*(?::.*)?")
"""`label:color_rgb:parts:actions`, the last two of no use here."""


class ColourMasks(PhotoFiles):
    """Photos with masks of equal size, in which colours stand for classes.

    Args:
        pairs: (photo, mask) by sample.
        classes: The classes in index order.
        labels: Index of a class, or 255 for void, by colour.
        names: What people call the photos.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Path, Path]],
        classes: tuple[ClassInfo, ...],
        labels: Mapping[RGB, int],
        *,
        names: Sequence[str],
    ) -> None:
        super().__init__([photo for photo, _ in pairs], names)
        self.classes = classes
        self._masks = [mask for _, mask in pairs]
        # A colour is compared as one number: red, green, blue and an opaque alpha.
        colors = np.array([(*color, 255) for color in labels], np.uint8).view(np.uint32).ravel()
        order = np.argsort(colors)
        self._colors = colors[order]
        self._labels = np.array(list(labels.values()), np.uint8)[order]

    def label(self, index: int) -> NDArray[np.uint8]:
        """Return a label map, HxW, 255 for void.

        Raises:
            UnreadableLabelsError: If the mask cannot be read or is not a picture in colours.
            UnknownLabelError: If it has a colour that stands for no class.
        """
        path = self._masks[index]
        mask = load_mask(path)
        if mask.mode not in ("P", "RGB", "RGBA", "L"):
            raise UnreadableLabelsError(
                f"{path}: a mask in colours is expected, this is {mask.mode}"
            )
        pixels = np.array(mask.convert("RGB").convert("RGBA"))
        colors = pixels.view(np.uint32)[..., 0]
        places = np.minimum(np.searchsorted(self._colors, colors), len(self._colors) - 1)
        unknown = self._colors[places] != colors
        if unknown.any():
            y, x = np.unravel_index(np.argmax(unknown), unknown.shape)
            red, green, blue, _ = pixels[y, x]
            raise UnknownLabelError(
                f"{path}: the colour {red},{green},{blue} at x {x}, y {y} stands for no class "
                f"({np.count_nonzero(unknown)} pixels have such colours)"
            )
        label: NDArray[np.uint8] = self._labels[places]
        return label


def open_labelmap(data: Path, split: str, *, draw: Draw, report: Report) -> LabelledImages:
    """Open a split of what CVAT exports as "Segmentation mask 1.1", or labelme's labelme2voc.

    Args:
        data: The folder that holds it.
        split: `train`, `val` or `test`.
        draw: Which photos go to val, where there are no lists train.txt and val.txt.
        report: Told of photos, masks and lines of lists that lack the others.

    Raises:
        NotSplitError: If it has to be drawn and there is no fraction.
        UsageError: If something is missing or does not fit.
    """
    labelmap, class_names = data / "labelmap.txt", data / "class_names.txt"
    if labelmap.is_file():
        classes, labels = read_labelmap(labelmap)
    elif class_names.is_file():
        classes, labels = read_class_names(class_names), {}
    else:
        raise UsageError(
            f"{data}: neither labelmap.txt, as CVAT writes it, nor labelme2voc's class_names.txt "
            "is there"
        )
    folder = data / "JPEGImages"
    if not (folder.is_dir() and any(folder.iterdir())):
        raise UsageError(f'{folder}: no photos; CVAT exports them if "Save images" is chosen')
    photos = find_photos(folder, report, nested=True)
    pairs = _choose_pairs(data, photos, split, draw, report)
    names = [photo.relative_to(folder).as_posix() for photo, _ in pairs]
    if labels:
        return ColourMasks(pairs, classes, labels, names=names)
    return LabelledFiles(pairs, classes, names=names)


def read_labelmap(path: Path) -> tuple[tuple[ClassInfo, ...], dict[RGB, int]]:
    """Read CVAT's `labelmap.txt`: `label:color_rgb:parts:actions` a line, `#` begins a comment.

    Returns:
        The classes in the file's order, and the index of each by its colour; 255 for the colours
        of labels called void.

    Raises:
        UsageError: If the file is missing or a line is wrong.
    """
    classes: list[ClassInfo] = []
    labels: dict[RGB, int] = {}
    lines = read_lines(path, "a line label:R,G,B:: for each class")
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"{path}, line {number}"
        match = _LABELMAP_LINE.fullmatch(line.strip())
        if match is None:
            raise UsageError(f"{where}: {line.strip()!r} is not label:R,G,B::, as in car:0,0,142::")
        name = class_name(match[1], where)
        color = (int(match[2]), int(match[3]), int(match[4]))
        if max(color) > 255:
            raise UsageError(f"{where}: colours are 0 to 255")
        if color in labels:
            raise UsageError(f"{where}: another label has the colour of {name!r}")
        if name.lower() in VOID_NAMES:
            labels[color] = VOID
        else:
            labels[color] = len(classes)
            classes.append(ClassInfo(name, color))
    labels.setdefault(VOC_VOID_COLOR, VOID)
    return check_classes(classes, path), labels


def read_class_names(path: Path) -> tuple[ClassInfo, ...]:
    """Read labelme2voc's `class_names.txt`: a name a line, the first being `_background_`.

    A line `__ignore__` before it, as in the list that labelme itself reads, is void: -1 there,
    255 in the masks. The masks' palette is VOC's, and so are the colours.

    Raises:
        UsageError: If a line is wrong.
    """
    lines = read_lines(path, "a class name a line")
    names = [
        class_name(line, f"{path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip() and (number > 1 or line.strip() != "__ignore__")
    ]
    return check_classes(list(named_classes(names, background_first=True)), path)


def _choose_pairs(
    data: Path,
    photos: Mapping[str, Path],
    split: str,
    draw: Draw,
    report: Report,
) -> list[tuple[Path, Path]]:
    masks = data / "SegmentationClassPNG"
    if not masks.is_dir():
        masks = data / "SegmentationClass"
    lists = sorted((data / "ImageSets" / "Segmentation").glob("*.txt"))
    if not lists:
        return draw_split(pair(photos, masks, report), split, draw, data)
    stems = {path: [line.strip() for line in read_lines(path, "a stem a line")] for path in lists}
    report_unused_masks({stem for part in stems.values() for stem in part}, masks, report)
    by_split = files_by_split((path.stem, path) for path in lists)
    if has_split(by_split, split, data):
        draw.refuse()
        return _pair_listed(by_split[split], stems[by_split[split]], photos, masks, report)
    pairs = [
        found
        for path in lists
        if path != by_split.get("test")
        for found in _pair_listed(path, stems[path], photos, masks, report)
    ]
    return draw_split(list(dict.fromkeys(pairs)), split, draw, data)


def _pair_listed(
    listing: Path, stems: Sequence[str], photos: Mapping[str, Path], masks: Path, report: Report
) -> list[tuple[Path, Path]]:
    """Return the photos that a list names, each once, with their masks."""
    pairs = []
    for stem in filter(None, dict.fromkeys(stems)):
        photo, mask = photos.get(stem), masks / f"{stem}.png"
        if photo is None:
            report(PairingError(f"{listing}: lists {stem!r}, but JPEGImages has no such photo"))
        elif not mask.is_file():
            report(
                PairingError(
                    f"{photo}: its label map {mask} is missing, though {listing} lists it; CVAT "
                    "writes none for a photo without annotations"
                )
            )
        else:
            pairs.append((photo, mask))
    if not pairs:
        report(PairingError(f"{listing}: lists no photos that can be used"))
    return pairs
