"""Pictures of a training run: learning curves and sample predictions."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from app.train.datasets import LabelledImages
from model import VOID, ClassInfo
from model.files import write_atomically

SAMPLES: Final = 4
"""Photos on the sample sheet, spread evenly over val."""


def draw_curves(history: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw training loss and val mIoU by epoch.

    Args:
        history: Lines of `metrics.jsonl`.
        path: The PNG to write.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    left = figure.add_subplot(xlabel="epoch", ylabel="training loss")
    (loss,) = left.plot(
        [line["epoch"] for line in history], [line["loss"] for line in history], color="tab:blue"
    )
    right = left.twinx()
    right.set_ylabel("val, fraction")
    right.set_ylim(0, 1)
    measured = [line for line in history if "val" in line]
    epochs = [line["epoch"] for line in measured]
    handles, labels = [loss], ["training loss"]
    for key, label, color in (
        ("mean_iu", "val mIoU", "tab:orange"),
        ("pixel_accuracy", "val pixel accuracy", "tab:green"),
    ):
        values = [np.nan if line["val"][key] is None else line["val"][key] for line in measured]
        handles += right.plot(epochs, values, marker="o", color=color)
        labels.append(label)
    left.legend(handles, labels, loc="upper center", ncols=3, bbox_to_anchor=(0.5, 1.12))
    left.grid(alpha=0.3)
    _save(figure, path, dpi=120)


def draw_samples(
    dataset: LabelledImages, predict: Callable[[int], NDArray[np.uint8]], path: Path
) -> None:
    """Draw photo, truth and prediction side by side for a few samples, with a colour key.

    Args:
        dataset: Where the samples come from.
        predict: Index -> label map, HxW.
        path: The PNG to write.
    """
    rows = min(SAMPLES, len(dataset))
    indices = np.linspace(0, len(dataset) - 1, rows).round().astype(int)
    figure = Figure(figsize=(12, 3.1 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, 3, squeeze=False)
    for row, index in zip(axes, indices, strict=True):
        truth = dataset.label(index)
        pictures = (
            dataset.photo(index),
            colorize(truth, dataset.classes),
            colorize(predict(index), dataset.classes),
        )
        titles = (dataset.names[index], "truth (void black)", "prediction")
        for axis, picture, title in zip(row, pictures, titles, strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_title(title, fontsize=9, parse_math=False)
            axis.set_axis_off()
    key = [
        figure.axes[0].scatter([], [], marker="s", s=60, color=info.hex_color)
        for info in dataset.classes
    ]
    names = [info.name for info in dataset.classes]
    legend = figure.legend(
        key, names, loc="outside lower center", ncols=min(len(names), 8), fontsize=9
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    _save(figure, path, dpi=100)


def _save(figure: Figure, path: Path, *, dpi: int) -> None:
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=dpi, format="png"))


def colorize(label_map: NDArray[np.uint8], classes: Sequence[ClassInfo]) -> NDArray[np.uint8]:
    """Return a label map, HxW, as an RGB picture, HxWx3; void is black."""
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(classes)] = [info.color for info in classes]
    palette[VOID] = 0
    picture: NDArray[np.uint8] = palette[label_map]
    return picture
