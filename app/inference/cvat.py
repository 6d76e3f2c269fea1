"""CVAT's "Segmentation mask 1.1": a zip that CVAT imports as annotations of a task.

```
labelmap.txt                       name:R,G,B:: a line
SegmentationClass/STEM.png         masks in these colours
ImageSets/Segmentation/default.txt stems of the photos
```

It is PASCAL VOC's layout (https://docs.cvat.ai/docs/manual/advanced/formats/format-smask/).
Photos are not in it: whoever imports annotations has them. With the photos in `JPEGImages/` it is
what `--dataset labelmap` trains on. Pixels of no class are black, CVAT's background, and so are
those of a class `background`. Black is in the label map only if such a class or such pixels are:
every label must be known to the task.
"""

import io
import zipfile
from collections.abc import Collection, Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from app.inference.archive import stored_zip
from app.inference.masks import select
from app.inference.png import encode_palette_png
from model import VOID, ClassInfo
from model.classes import RGB, voc_colormap

_LABELS: Final = "labelmap.txt"
_MASKS: Final = "SegmentationClass/"
_STEMS: Final = "ImageSets/Segmentation/default.txt"

_BACKGROUND: Final = "background"
_BLACK: Final = (0, 0, 0)


def cvat_zip(
    label_map: npt.NDArray[np.uint8],
    classes: Sequence[ClassInfo],
    selected: Collection[int] | None = None,
    *,
    stem: str,
) -> bytes:
    """Return the archive of one photo.

    Args:
        label_map: Labels, HxW.
        classes: All classes, in index order.
        selected: Classes to keep; None keeps all.
        stem: Name of the photo, without its suffix.
    """
    kept = select(label_map, selected)
    chosen = range(len(classes)) if selected is None else sorted(selected)
    colors = _colors(classes)
    lines = ["# label:color_rgb:parts:actions"]
    has_background = any(_is_background(classes[index]) for index in chosen)
    if not has_background and kept.max() == VOID:
        lines.append(_line(_BACKGROUND, _BLACK))
    lines += [_line(classes[index].name, colors[index]) for index in chosen]
    # Past the end of its palette a PNG is black.
    mask = encode_palette_png(kept, colors)
    return _archive("".join(f"{line}\n" for line in lines), [(stem, mask)])


def merge(archives: Iterable[bytes]) -> bytes:
    """Return one archive with the photos of several, all made for the same classes.

    Raises:
        ValueError: If there is none.
    """
    labels = ""
    found: dict[str, bytes] = {}
    for content in archives:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            # The longest has a line for the background.
            labels = max(labels, archive.read(_LABELS).decode(), key=len)
            for stem in archive.read(_STEMS).decode().splitlines():
                found[_free_name(stem, found)] = archive.read(f"{_MASKS}{stem}.png")
    if not found:
        raise ValueError("no archive to merge")
    return _archive(labels, list(found.items()))


def add_file(archive: bytes, name: str, content: bytes) -> bytes:
    """Return an archive with one more file, which CVAT does not look at."""
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        entries = [(entry, file.read(entry)) for entry in file.namelist()]
    return stored_zip([*entries, (name, content)])


def _archive(labels: str, masks: Sequence[tuple[str, bytes]]) -> bytes:
    stems = "".join(f"{stem}\n" for stem, _ in masks)
    return stored_zip(
        [
            (_LABELS, labels.encode()),
            (_STEMS, stems.encode()),
            *((f"{_MASKS}{stem}.png", mask) for stem, mask in masks),
        ]
    )


def _free_name(stem: str, taken: Collection[str]) -> str:
    number, name = 1, stem
    while name in taken:
        number += 1
        name = f"{stem}_{number}"
    return name


def _colors(classes: Sequence[ClassInfo]) -> list[RGB]:
    """Return the classes' colours, the background's being black whatever the model draws it in.

    They are those of PASCAL VOC if two would be equal: a mask in colours tells nothing else apart.
    """
    others = [info.color for info in classes if not _is_background(info)]
    is_ambiguous = len({_BLACK, *others}) <= len(others)
    colors = (
        voc_colormap(len(classes) + 1)[1:] if is_ambiguous else [info.color for info in classes]
    )
    return [
        _BLACK if _is_background(info) else color
        for info, color in zip(classes, colors, strict=True)
    ]


def _is_background(info: ClassInfo) -> bool:
    return info.name == _BACKGROUND


def _line(name: str, color: RGB) -> str:
    # A colon would end the name, and a number sign at its beginning begin a comment.
    return "{}:{},{},{}::".format(name.replace(":", "_").replace("#", "_"), *color)
