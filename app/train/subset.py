"""A part of a dataset: all but one place, drive, patient or camera, and that one to judge on."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from app.errors import UsageError
from app.train.samples import LabelledImages


class Subset:
    """Some of a dataset's samples.

    Args:
        dataset: All of them.
        indices: Which.
    """

    def __init__(self, dataset: LabelledImages, indices: Sequence[int]) -> None:
        self.classes = dataset.classes
        self.names = [dataset.names[index] for index in indices]
        self._dataset = dataset
        self._indices = indices

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._indices)

    def photo(self, index: int) -> NDArray[np.uint8]:
        """Return a photo, HxWx3 RGB."""
        return self._dataset.photo(self._indices[index])

    def photo_size(self, index: int) -> tuple[int, int]:
        """Return a photo's (height, width)."""
        return self._dataset.photo_size(self._indices[index])

    def label(self, index: int) -> NDArray[np.uint8]:
        """Return a label map, HxW, 255 for void."""
        return self._dataset.label(self._indices[index])


def leave_out(train: LabelledImages, prefix: str) -> dict[str, LabelledImages]:
    """Split a training set: photos whose names begin with `prefix` become val.

    Raises:
        UsageError: If none begin so, or all.
    """
    left_out = [index for index, name in enumerate(train.names) if name.startswith(prefix)]
    if not left_out or len(left_out) == len(train):
        which = "all" if left_out else "none"
        raise UsageError(
            f"--leave-out {prefix}: {which} of the {len(train)} training photos begin so, like "
            f"{train.names[0]}"
        )
    rest = sorted(set(range(len(train))) - set(left_out))
    return {"train": Subset(train, rest), "val": Subset(train, left_out)}
