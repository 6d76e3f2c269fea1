"""Labelled images: CamVid, VOC, SBD, the user's own folder, and drawings that need no files.

Every dataset yields photos and label maps as they are; `app.train.transforms` augments them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from app.errors import UsageError
from app.inference.decode import ImageError, decode, read_header
from app.train.shapes import Drawings
from app.train.voc import SBD_SPLITS, VOC_SPLITS, read_segmentation, sbd_pairs, voc_pairs
from model import VOID, ClassInfo, named_classes
from model.class_lists import VOC_CLASSES
from model.classes import MAX_CLASSES

SPLITS_OF: Final = {
    "camvid": ("train", "val", "test"),
    "folder": ("train", "val", "test"),
    "sbd": SBD_SPLITS,
    "shapes": ("train", "val", "test"),
    "voc": VOC_SPLITS,
}
"""The splits that each dataset has."""
FETCHED: Final = {"sbd": sbd_pairs, "voc": voc_pairs}
"""Datasets that `--download` fetches, and what finds the files of a split."""
DATASETS: Final = tuple(SPLITS_OF)
SPLITS: Final = tuple(dict.fromkeys(split for known in SPLITS_OF.values() for split in known))
"""The splits that any dataset has."""

PHOTO_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
MAX_TRAINING_PIXELS: Final = 2**26
"""Largest photo that is read for training: a guard against broken files, not a limit of use."""

CAMVID_CLASSES: Final = (
    ClassInfo("sky", (128, 128, 128)),
    ClassInfo("building", (128, 0, 0)),
    ClassInfo("pole", (192, 192, 128)),
    ClassInfo("road", (128, 64, 128)),
    ClassInfo("pavement", (0, 0, 192)),
    ClassInfo("tree", (128, 128, 0)),
    ClassInfo("sign", (192, 128, 128)),
    ClassInfo("fence", (64, 64, 128)),
    ClassInfo("car", (64, 0, 128)),
    ClassInfo("pedestrian", (64, 64, 0)),
    ClassInfo("bicyclist", (0, 128, 192)),
)
CAMVID_VOID: Final = 11
"""Void in CamVid's label files, in the 11-class layout of the SegNet tutorial."""


class Sample(NamedTuple):
    """A photo, 3xHxW uint8 RGB, and its labels, HxW uint8 with 255 for void."""

    photo: Tensor
    label: Tensor


class LabelledImages(Protocol):
    """What training and evaluation need of a dataset."""

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        """The classes, in index order."""

    @property
    def names(self) -> Sequence[str]:
        """A name for each sample, to tell people which one is meant."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def photo(self, index: int) -> NDArray[np.uint8]:
        """Return a photo, HxWx3 RGB."""

    def photo_size(self, index: int) -> tuple[int, int]:
        """Return a photo's (height, width) without decoding it."""

    def label(self, index: int) -> NDArray[np.uint8]:
        """Return its label map, HxW, 255 for void."""


class LabelledFiles:
    """Photos with label files of equal size.

    Args:
        pairs: (photo, label file) by sample.
        classes: The classes in index order.
        void: Value that means void in the label files, beside 255.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Path, Path]],
        classes: tuple[ClassInfo, ...],
        *,
        void: int = VOID,
    ) -> None:
        self.pairs = pairs
        self.classes = classes
        self.names = [photo.name for photo, _ in pairs]
        self._table = np.arange(256, dtype=np.uint8)
        self._table[void] = VOID

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.pairs)

    def photo(self, index: int) -> NDArray[np.uint8]:
        """Return a photo, HxWx3 RGB, decoded as the server decodes it.

        Raises:
            UsageError: If it cannot be read.
        """
        path = self.pairs[index][0]
        try:
            photo: NDArray[np.uint8] = decode(path.read_bytes(), max_pixels=MAX_TRAINING_PIXELS)
        except ImageError as error:
            raise UsageError(f"{path}: {error}") from None
        return photo

    def photo_size(self, index: int) -> tuple[int, int]:
        """Return a photo's (height, width) from its header.

        Raises:
            UsageError: If it cannot be read.
        """
        path = self.pairs[index][0]
        try:
            header = read_header(path.read_bytes(), max_pixels=MAX_TRAINING_PIXELS)
        except ImageError as error:
            raise UsageError(f"{path}: {error}") from None
        return header.height, header.width

    def label(self, index: int) -> NDArray[np.uint8]:
        """Return a label map, HxW, 255 for void.

        Raises:
            UsageError: If it cannot be read or has a label outside the classes.
        """
        path = self.pairs[index][1]
        label: NDArray[np.uint8] = self._table[_read_indices(path)]
        outside = np.setdiff1d(np.unique(label), [*range(len(self.classes)), VOID])
        if outside.size:
            raise UsageError(
                f"{path}: label {outside[0]} is outside the {len(self.classes)} classes "
                f"(0 to {len(self.classes) - 1}, {VOID} for void)"
            )
        return label


def load_sample(dataset: LabelledImages, index: int) -> Sample:
    """Read one sample as tensors.

    Raises:
        UsageError: If the two differ in size, or either cannot be read.
    """
    photo, label = dataset.photo(index), dataset.label(index)
    _check_sizes(dataset.names[index], photo.shape[:2], label.shape)
    return Sample(torch.from_numpy(photo).permute(2, 0, 1), torch.from_numpy(label))


def open_dataset(
    name: str,
    data: Path | None,
    split: str,
    *,
    val_fraction: float | None = None,
    seed: int = 0,
    download: bool = False,
) -> LabelledImages:
    """Open one split of a dataset.

    Args:
        name: One of `DATASETS`.
        data: Folder that holds it; `shapes` needs none.
        split: One of the dataset's own, `SPLITS_OF[name]`.
        val_fraction: For `folder` without `train/` and `val/`: share of the photos that is kept
            for val.
        seed: Which photos those are.
        download: For `voc` and `sbd`: fetch into `data` what is not there.

    Raises:
        UsageError: If something is missing or does not fit; the message says what and where.
    """
    if split not in SPLITS_OF[name]:
        raise UsageError(f"{name} has no split {split}: it has {', '.join(SPLITS_OF[name])}")
    if download and name not in FETCHED:
        raise UsageError(f"--download is for {' and '.join(FETCHED)}, not for {name}")
    if val_fraction is not None and (name != "folder" or not _is_unsplit(data)):
        raise UsageError("--val-fraction is for a folder with images/ and no train/ and val/")
    if name == "shapes":
        return Drawings(split)
    if data is None:
        raise UsageError(f"--dataset {name} needs --data DIR")
    if name in FETCHED:
        return LabelledFiles(FETCHED[name](data, split, download=download), VOC_CLASSES)
    if not data.is_dir():
        raise UsageError(f"{data}: no such folder")
    if name == "camvid":
        photos = _photos_by_stem(data / split)
        pairs = _pair(photos, data / f"{split}annot")
        return LabelledFiles(pairs, CAMVID_CLASSES, void=CAMVID_VOID)
    return _open_folder(data, split, val_fraction, seed)


def _is_unsplit(data: Path | None) -> bool:
    return data is not None and (data / "images").is_dir()


def _open_folder(data: Path, split: str, val_fraction: float | None, seed: int) -> LabelledFiles:
    classes = read_classes(data / "classes.txt")
    if _is_unsplit(data):
        if split == "test":
            raise UsageError(f"{data} has no test split: only train and val are drawn from images/")
        if val_fraction is None:
            raise UsageError(
                f"{data} has no train/ and val/: give the share for val, as in --val-fraction 0.2"
            )
        pairs = _pair(_photos_by_stem(data / "images"), data / "masks")
        # At least one photo on each side, and the same ones for every run with this seed.
        order = np.random.default_rng(seed).permutation(len(pairs))
        count = min(max(1, round(val_fraction * len(pairs))), len(pairs) - 1)
        if count < 1:
            raise UsageError(f"{data}/images: two photos are the least that can be split")
        chosen = order[:count] if split == "val" else order[count:]
        return LabelledFiles([pairs[index] for index in sorted(chosen)], classes)
    folder = data / split
    if not folder.is_dir():
        raise UsageError(f"{data}: neither images/ nor {split}/images/ is there")
    return LabelledFiles(_pair(_photos_by_stem(folder / "images"), folder / "masks"), classes)


def read_classes(path: Path) -> tuple[ClassInfo, ...]:
    """Read `classes.txt`: a name a line in index order, optionally followed by `R G B`.

    Classes without a colour get one from the VOC palette.

    Raises:
        UsageError: If the file is missing or a line is wrong.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file; it has a class name a line, optionally R G B")
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows' editor begins files with a mark
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text: {error}") from None
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if not 1 <= len(lines) <= MAX_CLASSES:
        raise UsageError(f"{path}: {len(lines)} classes; 1 to {MAX_CLASSES} are possible")
    defaults = named_classes([str(index) for index in range(len(lines))])
    classes = []
    for number, (words, default) in enumerate(zip(lines, defaults, strict=True), start=1):
        color = default.color
        if len(words) >= 4 and all(word.isdecimal() for word in words[-3:]):
            red, green, blue = (int(word) for word in words[-3:])
            if max(red, green, blue) > 255:
                raise UsageError(f"{path}, line {number}: colours are 0 to 255")
            words, color = words[:-3], (red, green, blue)
        name = " ".join(words)
        if "," in name or name.isdecimal():
            raise UsageError(
                f"{path}, line {number}: {name!r} cannot be told from a list or an index "
                "in classes=..."
            )
        classes.append(ClassInfo(name, color))
    if len({info.name for info in classes}) < len(classes):
        raise UsageError(f"{path}: two classes have the same name")
    return tuple(classes)


def class_pixels(dataset: LabelledImages) -> NDArray[np.int64]:
    """Count the labelled pixels of each class, C values, after a look at every sample.

    Every label map is read whole and every photo's header, so that a file that cannot be used is
    found before training begins and not hours into it.

    Raises:
        UsageError: If a file cannot be read, a label lies outside the classes, or a photo and
            its labels differ in size.
    """
    counts = np.zeros(256, np.int64)
    for index in range(len(dataset)):
        label = dataset.label(index)
        _check_sizes(dataset.names[index], dataset.photo_size(index), label.shape)
        counts += np.bincount(label.ravel(), minlength=256)
    return counts[: len(dataset.classes)]


def _check_sizes(name: str, photo: tuple[int, ...], label: tuple[int, ...]) -> None:
    if photo != label:
        raise UsageError(f"{name} is {photo[1]}x{photo[0]}, its label map is {label[1]}x{label[0]}")


def _photos_by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    photos: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in PHOTO_SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in photos:
            raise UsageError(f"{path}: {photos[path.stem].name} has the same stem")
        photos[path.stem] = path
    if not photos:
        raise UsageError(f"{folder}: no photos ({', '.join(PHOTO_SUFFIXES)})")
    return photos


def _pair(photos: dict[str, Path], labels: Path) -> list[tuple[Path, Path]]:
    pairs = [(photo, labels / f"{stem}.png") for stem, photo in photos.items()]
    for photo, label in pairs:
        if not label.is_file():
            raise UsageError(f"{photo}: its label map {label} is missing")
    return pairs


def _read_indices(path: Path) -> NDArray[np.uint8]:
    if path.suffix == ".mat":
        return read_segmentation(path)
    try:
        with Image.open(path) as image:
            if image.mode not in ("L", "P", "1"):
                raise UsageError(
                    f"{path}: label maps hold one class index a pixel (8-bit grey or palette), "
                    f"this one is {image.mode}"
                )
            # A one-bit map means classes 0 and 1; Pillow's own conversion gives 0 and 255.
            return np.array(image, dtype=np.uint8)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as a label map: {error}") from None
