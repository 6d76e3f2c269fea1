"""A dataset as the network is to see it: photos too large to train on, made smaller."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.inference.decode import resize, scaled_size
from app.train.samples import LabelledImages, check_sizes
from model import ClassInfo


class Scaled:
    """Photos and labels at a scale.

    Photos are resized as the service resizes them; each pixel of a label map has the label that
    its centre had.

    Args:
        dataset: The photos as they are.
        scale: What their sides are multiplied by, positive.
    """

    def __init__(self, dataset: LabelledImages, scale: float) -> None:
        self.classes: tuple[ClassInfo, ...] = dataset.classes
        self.names: Sequence[str] = dataset.names
        self._dataset = dataset
        self._scale = scale

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._dataset)

    def photo(self, index: int) -> NDArray[np.uint8]:
        """Return a photo, HxWx3 RGB."""
        photo = self._dataset.photo(index)
        return resize(photo, self._size(photo))

    def photo_size(self, index: int) -> tuple[int, int]:
        """Return a photo's (height, width)."""
        return scaled_size(*self._dataset.photo_size(index), self._scale)

    def label(self, index: int) -> NDArray[np.uint8]:
        """Return a label map, HxW, 255 for void.

        Raises:
            SizeMismatchError: If photo and labels differ in size before they are resized: it may
                not be seen afterwards.
        """
        label = self._dataset.label(index)
        check_sizes(self._dataset, index, self._dataset.photo_size(index), label.shape)
        height, width = self._size(label)
        resized = Image.fromarray(label).resize((width, height), Image.Resampling.NEAREST)
        return np.array(resized)

    def _size(self, image: NDArray[np.uint8]) -> tuple[int, int]:
        return scaled_size(image.shape[0], image.shape[1], self._scale)
