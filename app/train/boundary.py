"""Boundary F-measure: how well a prediction's class boundaries lie on the true ones.

The paper's metrics count pixels, and few pixels lie at a boundary: a network may smear every pole
and still score well. This measure looks at boundaries alone. Precision, recall and tolerance are
those of Csurka, Larlus and Perronnin, "What is a good evaluation measure for semantic
segmentation?", BMVC 2013; averages are taken by class first, so that each class has a figure
beside its IU.
"""

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation
from scipy.spatial import KDTree

from app.train.metrics import check_label_maps, json_number, mean_of_defined
from model import VOID

TOLERANCE: Final = 0.0075
"""Distance at which two boundaries still match, as a share of the photo's diagonal."""

MIN_TOLERANCE: Final = 1.0
"""The same in pixels, at least: the position of a boundary is not known better than that."""


class BoundaryF:
    """Averages the F-measure of each class's boundary over photos.

    For a photo and a class, precision P is the share of the predicted boundary that lies within
    the tolerance of the true one, recall R the share of the true boundary that lies within the
    tolerance of the predicted one, and F = 2 P R / (P + R). The boundary of a class is made of
    its pixels that have one of another class among their four neighbours; the photo's own border
    is no boundary.

    Void hides boundaries. A pixel that is void in the truth, or next to one that is, counts in
    neither map. Where annotators drew a band of void around every object, as in VOC, next to
    nothing is left, and the figure says little.

    A class without a boundary in either map of a photo (it is absent, or all there is) is
    skipped there; with a boundary in one of them only, its F is 0.

    Args:
        num_classes: C.
    """

    def __init__(self, num_classes: int) -> None:
        self._sums = np.zeros(num_classes)
        self._photos = np.zeros(num_classes, np.int64)

    def update(self, truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> None:
        """Add one photo's label maps, both HxW; 255 in the truth is void.

        Raises:
            ValueError: If the shapes differ, or a label that is not void lies outside the classes.
        """
        check_label_maps(truth, prediction, len(self._sums))
        tolerance = max(MIN_TOLERANCE, TOLERANCE * math.hypot(*truth.shape))
        judged = ~binary_dilation(truth == VOID)
        true_points, true_labels = _boundaries(truth, judged)
        points, labels = _boundaries(prediction, judged)
        for index in np.union1d(true_labels, labels):
            self._photos[index] += 1
            self._sums[index] += _f_measure(
                true_points[true_labels == index], points[labels == index], tolerance
            )

    @property
    def by_class(self) -> tuple[float, ...]:
        """Mean F of each class over the photos that have its boundary; `nan` if none has."""
        with np.errstate(invalid="ignore"):
            return tuple((self._sums / self._photos).tolist())

    @property
    def mean(self) -> float:
        """Mean over classes of `by_class`, those without a value left out."""
        return mean_of_defined(np.array(self.by_class))

    def to_json(self, class_names: list[str]) -> dict[str, Any]:
        """Return JSON values; undefined figures are null."""
        return {
            "boundary_f": json_number(self.mean),
            "boundary_f_by_class": {
                name: json_number(value)
                for name, value in zip(class_names, self.by_class, strict=True)
            },
        }


def _boundaries(
    label_map: NDArray[np.uint8], judged: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return the pixels of all classes' boundaries: (row, column), Nx2, and class, N."""
    boundary = np.zeros(label_map.shape, np.bool_)
    below = label_map[1:] != label_map[:-1]
    right = label_map[:, 1:] != label_map[:, :-1]
    boundary[1:] |= below
    boundary[:-1] |= below
    boundary[:, 1:] |= right
    boundary[:, :-1] |= right
    boundary &= judged
    return np.argwhere(boundary), label_map[boundary]


def _f_measure(truth: NDArray[np.int64], points: NDArray[np.int64], tolerance: float) -> float:
    """Return F of one class in one photo from the pixels of its boundaries, Nx2 and Mx2."""
    if not len(truth) or not len(points):
        return 0.0
    precision = _share_near(points, truth, tolerance)
    recall = _share_near(truth, points, tolerance)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _share_near(points: NDArray[np.int64], others: NDArray[np.int64], tolerance: float) -> float:
    """Return the share of `points` that lie within the tolerance of any of the others."""
    # A tree of the boundary's few pixels costs a fifth of a distance map of the photo by class.
    bound = np.nextafter(tolerance, np.inf)  # the tree's own bound leaves out what lies on it
    distances, _ = KDTree(others).query(points, distance_upper_bound=bound)
    return float(np.isfinite(distances).mean())
