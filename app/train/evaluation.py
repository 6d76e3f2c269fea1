"""What a split says of a network: its pixels, its boundaries, and which photos it does worst."""

from dataclasses import dataclass

from rich.console import Console

from app.cli import follow
from app.errors import UsageError
from app.train.boundary import BoundaryF
from app.train.datasets import LabelledImages
from app.train.metrics import ConfusionMatrix
from app.train.report import Predict


@dataclass(frozen=True)
class Evaluation:
    """The figures of one pass over a split.

    Attributes:
        confusion: All labelled pixels, by true and predicted class.
        boundary: How well the predicted boundaries lie on the true ones.
        photo_mean_iu: Mean IU of each photo by itself, `nan` where everything is void. It ranks
            photos; its mean is not the paper's mean IU, which comes from `confusion`.
    """

    confusion: ConfusionMatrix
    boundary: BoundaryF
    photo_mean_iu: tuple[float, ...]


def evaluate(predict: Predict, dataset: LabelledImages, console: Console) -> Evaluation:
    """Compare the prediction of every photo with its labels, pixel by pixel.

    No label map outlives its photo: memory does not grow with the split.

    Raises:
        UsageError: If a file cannot be read, sizes differ, or no pixel of the split is labelled.
    """
    confusion = ConfusionMatrix(len(dataset.classes))
    boundary = BoundaryF(len(dataset.classes))
    photo_mean_iu = []
    for index in follow(range(len(dataset)), "evaluating", console):
        truth = dataset.label(index)
        prediction = predict(index)
        if prediction.shape != truth.shape:
            raise UsageError(f"{dataset.names[index]} and its label map differ in size")
        photo = ConfusionMatrix(len(dataset.classes))
        photo.update(truth, prediction)
        confusion.add(photo)
        boundary.update(truth, prediction)
        photo_mean_iu.append(photo.metrics().mean_iu)
    if not confusion.counts.any():
        raise UsageError("no pixel of the split is labelled: everything is void")
    return Evaluation(confusion, boundary, tuple(photo_mean_iu))
