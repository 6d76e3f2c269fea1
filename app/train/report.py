"""Pictures: learning curves, samples, the confusion matrix, the worst photos, reliability."""

import io
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from app.inference.decode import resize
from app.train.calibration import Calibration
from app.train.datasets import LabelledImages
from app.train.reliability import ProbabilityMetrics
from model import VOID, ClassInfo
from model.files import write_bytes

SAMPLES: Final = 4
"""Photos on the sample sheet, spread evenly over val."""

WORST: Final = 5
"""Photos on the sheet of the worst."""

COLUMN_INCHES: Final = 4.0
"""Width of a column of a sheet."""
SHEET_DPI: Final = 100
MAX_NAME: Final = 28
"""Longest name that is written in full, in characters."""

ERROR_COLOR: Final = (230, 30, 40)

Predict = Callable[[int], NDArray[np.uint8]]
"""Index of a sample -> its predicted label map, HxW."""


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


def draw_samples(dataset: LabelledImages, predict: Predict, path: Path) -> None:
    """Draw photo, truth and prediction side by side for a few samples, with a colour key.

    Args:
        dataset: Where the samples come from.
        predict: Index -> label map, HxW.
        path: The PNG to write.
    """
    count = min(SAMPLES, len(dataset))
    rows = []
    for index in np.linspace(0, len(dataset) - 1, count).round().astype(int).tolist():
        rows.append(
            [
                _panel(shorten(dataset.names[index]), dataset.photo(index)),
                _panel("truth (void black)", colorize(dataset.label(index), dataset.classes)),
                _panel("prediction", colorize(predict(index), dataset.classes)),
            ]
        )
    _draw_sheet(rows, dataset.classes, path)


def draw_worst(
    dataset: LabelledImages, predict: Predict, photo_mean_iu: Sequence[float], path: Path
) -> None:
    """Draw the photos with the lowest mean IU: photo, truth, prediction and the wrong pixels.

    Args:
        dataset: What was evaluated.
        predict: Index -> label map, HxW; called again for the worst, so that no label map has to
            be kept during evaluation.
        photo_mean_iu: Mean IU of each photo by itself, `nan` where everything is void: such a
            photo is never among the worst. One at least has a value. It ranks photos and is no
            figure to report or to average: the paper's IU is a ratio over all pixels of a split,
            while here a class of which a photo has ten pixels weighs as much as its road.
        path: The PNG to write.
    """
    rows = []
    for index in worst_photos(photo_mean_iu):
        photo, truth, prediction = dataset.photo(index), dataset.label(index), predict(index)
        labelled = truth != VOID
        wrong = labelled & (prediction != truth)
        rows.append(
            [
                _panel(
                    f"{shorten(dataset.names[index])}\nmean IU {photo_mean_iu[index]:.3f}", photo
                ),
                _panel("truth (void black)", colorize(truth, dataset.classes)),
                _panel("prediction", colorize(prediction, dataset.classes)),
                _panel(
                    f"wrong (red): {wrong.sum() / labelled.sum():.1%} of labelled pixels",
                    mark_errors(photo, truth, prediction),
                ),
            ]
        )
    _draw_sheet(rows, dataset.classes, path)


def worst_photos(photo_mean_iu: Sequence[float], count: int = WORST) -> list[int]:
    """Return the indices of the lowest values, the lowest first; `nan` is left out."""
    return _ranked(photo_mean_iu)[:count]


def best_photos(photo_mean_iu: Sequence[float], count: int = WORST) -> list[int]:
    """Return the indices of the highest values, the highest first; `nan` is left out."""
    return _ranked(photo_mean_iu)[::-1][:count]


def _ranked(photo_mean_iu: Sequence[float]) -> list[int]:
    order = np.argsort(photo_mean_iu, kind="stable")
    return [index for index in order.tolist() if not np.isnan(photo_mean_iu[index])]


def mark_errors(
    photo: NDArray[np.uint8], truth: NDArray[np.uint8], prediction: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Return a pale grey photo, HxWx3, with wrong pixels in red and void in black.

    Args:
        photo: HxWx3.
        truth: HxW, 255 for void.
        prediction: HxW.
    """
    grey = (0.45 * photo.mean(axis=2, keepdims=True) + 0.55 * 255).astype(np.uint8)
    picture: NDArray[np.uint8] = grey.repeat(3, axis=2)
    picture[prediction != truth] = ERROR_COLOR
    picture[truth == VOID] = 0
    return picture


def draw_confusion(counts: NDArray[np.int64], class_names: Sequence[str], path: Path) -> None:
    """Draw a confusion matrix as shares of each true class.

    Args:
        counts: Pixels by true class (rows) and predicted class (columns), CxC.
        class_names: C names.
        path: The PNG to write.
    """
    picture = confusion_picture(counts, class_names)
    write_bytes(path, picture)


def confusion_picture(counts: NDArray[np.int64], class_names: Sequence[str]) -> bytes:
    """Return what `draw_confusion` writes, a PNG."""
    classes = len(class_names)
    totals = counts.sum(axis=1, keepdims=True)
    # A class without pixels has no shares; matplotlib leaves what is NaN in its colour for that.
    shares = np.where(totals == 0, np.nan, counts / np.maximum(totals, 1))
    names = [shorten(name) for name in class_names]
    # Inches: roomy cells for few classes, then a matrix of 13 until names could not be read.
    side = max(3.5, classes * min(0.7, max(0.12, 13 / classes)))
    cell_points = 72 * side / classes
    # The matrix is the figure; saving makes room for what stands around it.
    figure = Figure(figsize=(side, side))
    axis = figure.add_axes((0, 0, 1, 1), xlabel="predicted class")
    axis.set_ylabel("true class" + (" (grey: not in the truth)" if not totals.all() else ""))
    colors = colormaps["Blues"].with_extremes(bad="0.85")
    image = axis.imshow(shares, cmap=colors, vmin=0, vmax=1)
    font = min(9.0, 0.85 * cell_points)
    axis.set_xticks(
        range(classes),
        names,
        rotation=45 if cell_points > 30 else 90,
        ha="right",
        va="center",
        rotation_mode="anchor",
        fontsize=font,
    )
    axis.set_yticks(range(classes), names, fontsize=font)
    for label in (*axis.get_xticklabels(), *axis.get_yticklabels()):
        label.set_parse_math(False)
    _write_shares(axis, shares, font=min(9.0, cell_points / 3))
    figure.colorbar(
        image,
        cax=axis.inset_axes((1.02, 0, 0.25 / side, 1)),
        format=PercentFormatter(xmax=1),
        label="share of the true class's pixels",
    )
    return _png(figure, dpi=120)


def _write_shares(axis: Axes, shares: NDArray[np.float64], *, font: float) -> None:
    """Write per cents into the cells, where they can be read; below a half they stay empty."""
    if font < 5:
        return
    for row, column in itertools.product(*map(range, shares.shape)):
        share = shares[row, column]
        if share >= 0.005:  # so is not NaN
            axis.text(
                column,
                row,
                f"{share:.0%}".removesuffix("%"),
                ha="center",
                va="center",
                fontsize=font,
                color="white" if share > 0.5 else "black",
            )


def draw_reliability(calibration: Calibration, path: Path) -> None:
    """Draw accuracy by confidence, and how many pixels have it, before and after calibration.

    Args:
        calibration: What was measured.
        path: The PNG to write.
    """
    picture = reliability_picture(calibration)
    write_bytes(path, picture)


def reliability_picture(calibration: Calibration) -> bytes:
    """Return what `draw_reliability` writes, a PNG."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(3, 1))
    halves = " and ".join(f"{temperature:.3g}" for temperature in calibration.halves)
    for (top, bottom), title, metrics in (
        (axes[:, 0], "temperature 1", calibration.before),
        (axes[:, 1], f"held out, temperatures {halves}", calibration.after),
    ):
        top.set_title(title, fontsize=10)
        _draw_bins(top, bottom, metrics)
    axes[0, 0].set_ylabel("accuracy")
    axes[0, 0].legend(loc="upper left", fontsize=9)
    axes[1, 0].set_ylabel("of the pixels")
    return _png(figure, dpi=100)


def _draw_bins(top: Axes, bottom: Axes, metrics: ProbabilityMetrics) -> None:
    """Draw a reliability diagram, figure 4 of Guo et al. 2017, and the bins' sizes below it."""
    reliability = metrics.reliability
    bins = len(reliability.counts)
    edges = np.arange(bins) / bins
    bar: dict[str, Any] = {"width": 1 / bins, "align": "edge", "linewidth": 0.5}
    accuracy = np.nan_to_num(reliability.accuracy)
    gap = np.nan_to_num(reliability.confidence) - accuracy
    top.bar(edges, accuracy, color="tab:blue", edgecolor="black", label="accuracy", **bar)
    top.bar(
        edges,
        gap,
        bottom=accuracy,
        color="tab:red",
        edgecolor="tab:red",
        alpha=0.35,
        hatch="//",
        label="gap to mean confidence",
        **bar,
    )
    top.plot([0, 1], [0, 1], color="0.4", linestyle="--", linewidth=1)
    top.text(
        0.97,
        0.04,
        f"ECE {reliability.expected_calibration_error:.4f}\nNLL {metrics.nll:.4f}",
        ha="right",
        bbox={"facecolor": "white", "edgecolor": "0.8"},
    )
    top.set_xlim(0, 1)
    top.set_ylim(0, 1)
    shares = reliability.counts / reliability.counts.sum()
    bottom.bar(edges, shares, color="0.6", edgecolor="black", **bar)
    bottom.set_xlabel("confidence")
    bottom.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))


def shorten(name: str) -> str:
    """Return a name of at most `MAX_NAME` characters, cut in the middle if it was longer.

    A file name may hold bytes that are no text; they are shown as such.
    """
    name = name.encode(errors="backslashreplace").decode()
    if len(name) <= MAX_NAME:
        return name
    half = (MAX_NAME - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def shrink(picture: NDArray[np.uint8], width: float, height: float = math.inf) -> NDArray[np.uint8]:
    """Return a picture, HxWx3, at a size within width and height, in pixels; never enlarged."""
    factor = min(height / picture.shape[0], width / picture.shape[1])
    if factor >= 1:
        return picture
    rows, columns = (max(1, round(side * factor)) for side in picture.shape[:2])
    return resize(picture, (rows, columns))


class _Panel(NamedTuple):
    """A picture on a sheet, HxWx3, and what stands above it."""

    title: str
    picture: NDArray[np.uint8]


def _panel(title: str, picture: NDArray[np.uint8]) -> _Panel:
    """Return a panel with no more pixels than the sheet shows: a photo may have millions."""
    return _Panel(title, shrink(picture, COLUMN_INCHES * SHEET_DPI))


def _draw_sheet(rows: Sequence[Sequence[_Panel]], classes: Sequence[ClassInfo], path: Path) -> None:
    """Draw rows of pictures of equal size by row, with a colour key of the classes below."""
    width = COLUMN_INCHES * len(rows[0])
    # A row is as high as its photo, but for strips and towers.
    heights = [
        min(1.5, max(0.3, row[0].picture.shape[0] / row[0].picture.shape[1])) for row in rows
    ]
    heights = [COLUMN_INCHES * height + 0.5 for height in heights]
    entry_inches = 0.55 + 0.085 * min(MAX_NAME, max(len(info.name) for info in classes))
    columns = min(len(classes), int(width / entry_inches))
    key_inches = 0.25 + 0.21 * -(-len(classes) // columns)
    figure = Figure(figsize=(width, sum(heights) + key_inches), layout="constrained")
    axes = figure.subplots(len(rows), len(rows[0]), squeeze=False, height_ratios=heights)
    for axis, panel in zip(axes.flat, itertools.chain(*rows), strict=True):
        axis.imshow(panel.picture, interpolation="nearest")
        axis.set_title(panel.title, fontsize=9, parse_math=False)
        axis.set_axis_off()
    key = [
        figure.axes[0].scatter([], [], marker="s", s=60, color=info.hex_color) for info in classes
    ]
    names = [shorten(info.name) for info in classes]
    legend = figure.legend(key, names, loc="outside lower center", ncols=columns, fontsize=9)
    for text in legend.get_texts():
        text.set_parse_math(False)
    _save(figure, path, dpi=SHEET_DPI)


def _save(figure: Figure, path: Path, *, dpi: int) -> None:
    picture = _png(figure, dpi=dpi)
    write_bytes(path, picture)


def _png(figure: Figure, *, dpi: int) -> bytes:
    """Return a figure with everything that stands on it or beside it."""
    file = io.BytesIO()
    figure.savefig(file, dpi=dpi, format="png", bbox_inches="tight", pad_inches=0.1)
    return file.getvalue()


def colorize(label_map: NDArray[np.uint8], classes: Sequence[ClassInfo]) -> NDArray[np.uint8]:
    """Return a label map, HxW, as an RGB picture, HxWx3; void is black."""
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(classes)] = [info.color for info in classes]
    palette[VOID] = 0
    picture: NDArray[np.uint8] = palette[label_map]
    return picture
