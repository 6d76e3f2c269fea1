"""Probabilities as NumPy reads them: `numpy.load` gives them back as they were."""

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from model import ClassInfo


def probabilities_npz(
    probabilities: npt.NDArray[np.float16], class_ids: Sequence[int], classes: Sequence[ClassInfo]
) -> bytes:
    """Return an npz with `probabilities`, `class_ids` and `class_names`, readable without pickle.

    The class comes first, as in PyTorch's logits and in `scipy.special.softmax(logits, axis=0)`:
    `probabilities[k]` is the map of one class, contiguous in memory, and `argmax(axis=0)` the label
    map. Nothing is compressed: of 11 classes at 480x360 `savez_compressed` saves a tenth of the
    bytes and takes 16 times as long, because the last digits of probabilities are noise.

    Args:
        probabilities: KxHxW.
        class_ids: Index of each of the K classes.
        classes: All classes, in index order.
    """
    archive = io.BytesIO()
    np.savez(
        archive,
        probabilities=probabilities,
        class_ids=np.array(class_ids, np.uint8),
        class_names=np.array([classes[index].name for index in class_ids]),
    )
    return archive.getvalue()  # no copy: it is the buffer itself, cut to its length
