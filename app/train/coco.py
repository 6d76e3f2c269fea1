"""COCO's instances as label maps: polygons and run lengths, from whichever tool wrote them.

```
annotations/instances_train2017.json   COCO, CVAT: a file a split ...
annotations/instances_default.json     ... or one for all, as in Label Studio's result.json
train/_annotations.coco.json           Roboflow: beside the photos of a split
images/ images/train/ train2017/       photos, as `file_name` says: there or beside the file
```

Class 0 is the background, that is every pixel without an instance; the categories follow by
ascending id. A category `background` or `_background_` is class 0 too, one called void is void.
Where instances overlap the smaller one is seen: a large one would hide it whole.

`iscrowd` regions belong to their category. COCO means a group that was not outlined one by one,
which is the same to a semantic label map, and CVAT marks so every mask drawn with its brush.
Photos without annotations are left out, as torchvision and detectron2 do: a tool cannot say
whether nothing is in them or nobody has looked. An outlined background makes a photo count.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app.errors import UsageError
from app.inference.rle import decompress
from app.train.coco_file import AnnotatedPhoto, read_coco
from app.train.data_problems import Report
from app.train.layouts import Draw, draw_split, files_by_split, has_split
from app.train.samples import LabelledImages, PhotoFiles
from model import ClassInfo

_INSTANCES: Final = "instances_"
_BESIDE_PHOTOS: Final = "_annotations.coco.json"
"""Roboflow's name for the file."""


class CocoImages(PhotoFiles):
    """Photos with the instances outlined in them.

    Args:
        photos: By sample.
        classes: The classes in index order.
        data: Folder that the photos' names begin in.
    """

    def __init__(
        self, photos: Sequence[AnnotatedPhoto], classes: tuple[ClassInfo, ...], data: Path
    ) -> None:
        names = [
            photo.path.relative_to(data).as_posix()
            if photo.path.is_relative_to(data)
            else str(photo.path)
            for photo in photos
        ]
        super().__init__([photo.path for photo in photos], names)
        self.classes = classes
        self._photos = photos

    def label(self, index: int) -> NDArray[np.uint8]:
        """Return a label map, HxW, 255 for void."""
        (height, width), regions = self._photos[index][1:]
        columns = np.zeros(width * height, np.uint8)  # run lengths go down the columns
        for region in regions:
            ends = np.cumsum(decompress(region.counts)).tolist()
            for start, end in zip(ends[::2], ends[1::2], strict=False):
                columns[start:end] = region.label
        return np.ascontiguousarray(columns.reshape(width, height).T)


def open_coco(data: Path, split: str, *, draw: Draw, report: Report) -> LabelledImages:
    """Open a split of photos with COCO annotations.

    Args:
        data: The folder that holds both.
        split: `train`, `val` or `test`.
        draw: Which photos go to val, where one file annotates all photos.
        report: Told of annotations and images that cannot be used, and of photos left out.

    Raises:
        NotSplitError: If it has to be drawn and there is no fraction.
        UsageError: If there is no annotation file for the split, or it is damaged.
    """
    by_split = files_by_split((_split_name(path), path) for path in _split_files(data))
    drawn = not has_split(by_split, split, data)
    path = _only_file(data, by_split.get("test")) if drawn else by_split[split]
    if not drawn:
        draw.refuse()
    classes, photos = read_coco(path, _photo_folders(data, path), report)
    if drawn:
        photos = draw_split(photos, split, draw, data)
    elif not photos:
        raise UsageError(f"{path}: no photo with annotations")
    return CocoImages(photos, classes, data)


def _split_files(data: Path) -> list[Path]:
    """Return the files that may be named after a split."""
    files = [*data.glob(f"annotations/{_INSTANCES}*.json"), *data.glob(f"*/{_BESIDE_PHOTOS}")]
    return sorted(files)


def _split_name(path: Path) -> str:
    """Return what a file calls its split, and the folder of its photos may be called."""
    if path.name == _BESIDE_PHOTOS:
        return path.parent.name
    return path.stem.removeprefix(_INSTANCES)


def _only_file(data: Path, test: Path | None) -> Path:
    """Return the file that annotates all photos.

    Args:
        data: Folder of the dataset.
        test: The file of a test split: it has no part in train and val.

    Raises:
        UsageError: If there is none, or several.
    """
    candidates = (_split_files(data), data.glob("annotations/*.json"), data.glob("*.json"))
    files = next(filter(None, ([p for p in sorted(c) if p != test] for c in candidates)), [])
    if not files:
        raise UsageError(f"{data}: neither annotations/*.json nor *.json is there")
    if len(files) > 1:
        raise UsageError(
            f"{files[0]} and {files[1]}: keep one, or call them {_INSTANCES}train.json and "
            f"{_INSTANCES}val.json"
        )
    return files[0]


def _photo_folders(data: Path, path: Path) -> list[Path]:
    """Return the folders that photos of a file may be in, the likeliest first."""
    name = _split_name(path)
    places = (data / "images" / name, data / name, data / "images", data, path.parent)
    return [folder for folder in dict.fromkeys(places) if folder.is_dir()]
