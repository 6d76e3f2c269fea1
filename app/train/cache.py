"""Photos and labels kept in memory, decoded, where they fit."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from app.train.samples import LabelledImages, check_sizes
from model import ClassInfo

BYTES_PER_PIXEL = 4
"""Three of the photo, one of its labels."""


class InMemory:
    """A dataset whose samples were all read once.

    Worker processes that are forked from this one share its memory.

    Args:
        dataset: What to read.

    Raises:
        DataError: If a file cannot be read, or a photo and its labels differ in size.
    """

    def __init__(self, dataset: LabelledImages) -> None:
        self.classes: tuple[ClassInfo, ...] = dataset.classes
        self.names: Sequence[str] = dataset.names
        self._photos: list[NDArray[np.uint8]] = []
        self._labels: list[NDArray[np.uint8]] = []
        for index in range(len(dataset)):
            photo, label = dataset.photo(index), dataset.label(index)
            check_sizes(dataset, index, photo.shape[:2], label.shape)
            self._photos.append(photo)
            self._labels.append(label)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._photos)

    def photo(self, index: int) -> NDArray[np.uint8]:
        """Return a photo, HxWx3 RGB."""
        return self._photos[index]

    def photo_size(self, index: int) -> tuple[int, int]:
        """Return a photo's (height, width)."""
        height, width = self._photos[index].shape[:2]
        return height, width

    def label(self, index: int) -> NDArray[np.uint8]:
        """Return a label map, HxW, 255 for void."""
        return self._labels[index]


def fits_in_memory(dataset: LabelledImages, limit: float) -> bool:
    """Whether a dataset takes at most `limit` bytes when decoded, by the photos' headers.

    Only as many headers are read as it takes to know.

    Raises:
        UsageError: If a file cannot be read.
    """
    size = 0
    for index in range(len(dataset)):
        height, width = dataset.photo_size(index)
        size += BYTES_PER_PIXEL * height * width
        if size > limit:
            return False
    return True
