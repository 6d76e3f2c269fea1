"""Labelled images: what training needs of a dataset, and the kinds whose photos are files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from app.errors import UsageError
from app.inference.decode import ImageError, decode, read_header
from app.inference.image_errors import reading
from app.inference.rgb import GREY_STRETCH, raw_mode_of
from app.train.data_problems import (
    SizeMismatchError,
    UnknownLabelError,
    UnreadableLabelsError,
    UnreadablePhotoError,
)
from app.train.voc import read_segmentation
from model import VOID, ClassInfo

MAX_TRAINING_PIXELS: Final = 2**26
"""Largest photo that is read for training: a guard against broken files, not a limit of use."""


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


class PhotoFiles:
    """Photos in files, decoded as the server decodes them.

    Args:
        paths: Of the photos, by sample.
        names: What people call them; the files' names if not given.
    """

    def __init__(self, paths: Sequence[Path], names: Sequence[str] | None = None) -> None:
        self.paths = paths
        self.names = [path.name for path in paths] if names is None else names

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.paths)

    def photo(self, index: int) -> NDArray[np.uint8]:
        """Return a photo, HxWx3 RGB.

        Raises:
            UnreadablePhotoError: If it cannot be read.
        """
        path = self.paths[index]
        try:
            photo: NDArray[np.uint8] = decode(_bytes_of(path), max_pixels=MAX_TRAINING_PIXELS)
        except ImageError as error:
            raise UnreadablePhotoError(f"{path}: {error}") from None
        return photo

    def photo_size(self, index: int) -> tuple[int, int]:
        """Return a photo's (height, width) from its header.

        Raises:
            UnreadablePhotoError: If it cannot be read.
        """
        path = self.paths[index]
        try:
            header = read_header(_bytes_of(path), max_pixels=MAX_TRAINING_PIXELS)
        except ImageError as error:
            raise UnreadablePhotoError(f"{path}: {error}") from None
        return header.height, header.width


class LabelledFiles(PhotoFiles):
    """Photos with label files of equal size, in which each pixel holds the index of its class.

    Args:
        pairs: (photo, label file) by sample.
        classes: The classes in index order.
        names: What people call the photos; the files' names if not given.
        void: Value that means void in the label files, beside 255.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Path, Path]],
        classes: tuple[ClassInfo, ...],
        *,
        names: Sequence[str] | None = None,
        void: int = VOID,
    ) -> None:
        super().__init__([photo for photo, _ in pairs], names)
        self.classes = classes
        self._labels = [label for _, label in pairs]
        self._table = np.arange(256, dtype=np.uint8)
        self._table[void] = VOID

    def label(self, index: int) -> NDArray[np.uint8]:
        """Return a label map, HxW, 255 for void.

        Raises:
            UnreadableLabelsError: If it cannot be read.
            UnknownLabelError: If it has a label outside the classes.
        """
        path = self._labels[index]
        label: NDArray[np.uint8] = self._table[_read_indices(path)]
        outside = np.setdiff1d(np.unique(label), [*range(len(self.classes)), VOID])
        if outside.size:
            raise UnknownLabelError(
                f"{path}: label {outside[0]} is outside the {len(self.classes)} classes "
                f"(0 to {len(self.classes) - 1}, {VOID} for void)"
            )
        return label


def load_sample(dataset: LabelledImages, index: int) -> Sample:
    """Read one sample as tensors.

    Raises:
        DataError: If the two differ in size, or either cannot be read.
    """
    photo, label = dataset.photo(index), dataset.label(index)
    check_sizes(dataset, index, photo.shape[:2], label.shape)
    return Sample(torch.from_numpy(photo).permute(2, 0, 1), torch.from_numpy(label))


def class_pixels(dataset: LabelledImages) -> NDArray[np.int64]:
    """Count the labelled pixels of each class, C values, after a look at every sample.

    Every label map is read whole and every photo's header, so that a file that cannot be used is
    found before training begins and not hours into it.

    Raises:
        DataError: If a file cannot be read, a label lies outside the classes, or a photo and
            its labels differ in size.
    """
    counts = np.zeros(256, np.int64)
    for index in range(len(dataset)):
        label = dataset.label(index)
        check_sizes(dataset, index, dataset.photo_size(index), label.shape)
        counts += np.bincount(label.ravel(), minlength=256)
    return counts[: len(dataset.classes)]


def check_sizes(
    dataset: LabelledImages, index: int, photo: tuple[int, ...], label: tuple[int, ...]
) -> None:
    """Compare the (height, width) of a photo and of its label map.

    Raises:
        SizeMismatchError: If they differ.
    """
    if photo != label:
        turned = "; photos are turned upright, as their EXIF says: label them so"
        raise SizeMismatchError(
            f"{place(dataset, index)} is {photo[1]}x{photo[0]}, "
            f"its label map is {label[1]}x{label[0]}{turned if photo == label[::-1] else ''}"
        )


def place(dataset: LabelledImages, index: int) -> str:
    """Return where a photo is: its path, or its name if no file holds it."""
    return str(dataset.paths[index]) if isinstance(dataset, PhotoFiles) else dataset.names[index]


def load_mask(path: Path, *, indices: bool = False) -> Image.Image:
    """Decode a PNG that holds labels, in whatever mode it is stored.

    Args:
        path: The file.
        indices: Whether grey means numbers: Pillow spreads the 0 to 3 of two bits up to 255.

    Raises:
        UnreadableLabelsError: If it is missing, damaged or cut short.
    """
    try:
        with reading("PNG"), Image.open(path) as image:
            stretch = GREY_STRETCH.get(raw_mode_of(image), 1) if indices else 1
            image.load()
    except ImageError as error:
        raise UnreadableLabelsError(f"{path}: cannot be read as a label map: {error}") from None
    return image.point(lambda value: value // stretch) if stretch > 1 else image


def _read_indices(path: Path) -> NDArray[np.uint8]:
    if path.suffix == ".mat":
        try:
            return read_segmentation(path)
        except UsageError as error:
            raise UnreadableLabelsError(str(error)) from error
    image = load_mask(path, indices=True)
    if image.mode not in ("L", "P", "1"):
        raise UnreadableLabelsError(
            f"{path}: label maps hold one class index a pixel (8-bit grey or palette), "
            f"this one is {image.mode}"
        )
    # A one-bit map means classes 0 and 1; Pillow's own conversion gives 0 and 255.
    return np.array(image, dtype=np.uint8)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadablePhotoError(f"{path}: {error.strerror}") from None
