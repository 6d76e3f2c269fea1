"""`report.html`: what there is to see of a run, in one file that needs no network and no script."""

import base64
import dataclasses
import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from app.inference.png import encode_rgb_png
from app.train.calibration import Calibration
from app.train.charts import Chart, line_chart
from app.train.datasets import LabelledImages
from app.train.evaluation import Evaluation
from app.train.report import (
    Predict,
    best_photos,
    colorize,
    confusion_picture,
    mark_errors,
    reliability_picture,
    shorten,
    shrink,
    worst_photos,
)
from model import VOID, Card
from model.files import write_bytes

PHOTOS: Final = 4
"""Photos shown of the best and of the worst."""

PHOTO_SIDE: Final = 480
"""Longest side of a picture in the file, in pixels."""

JPEG_QUALITY: Final = 80

MAX_TABLE_CLASSES: Final = 32
"""With more classes the confusion matrix is a picture: its numbers could not be read anyway."""

CONFUSIONS: Final = 5
"""How many pairs of confused classes are named, and from which share of the true class on."""
LEAST_CONFUSION: Final = 0.01


@dataclass(frozen=True)
class Provenance:
    """How a run came about.

    Attributes:
        commands: The command lines that made it, first to last.
        environment: Versions, device and the like, by name.
    """

    commands: Sequence[str]
    environment: Mapping[str, str]


def write_html_report(
    path: Path,
    *,
    card: Card,
    history: Sequence[dict[str, Any]],
    dataset: LabelledImages,
    predict: Predict,
    evaluation: Evaluation,
    calibration: Calibration,
    provenance: Provenance,
) -> None:
    """Write the report of a finished run.

    Args:
        path: The file to write.
        card: Of the best checkpoint.
        history: Lines of `metrics.jsonl`.
        dataset: Val.
        predict: Index -> label map, HxW, by the best weights; called for the photos shown.
        evaluation: Of val, by the best weights.
        calibration: Of their probabilities, on val.
        provenance: How the run came about.
    """
    environment = Environment(
        loader=PackageLoader("app.train"),
        autoescape=True,  # class and file names are anybody's
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("report.html").render(
        card=card,
        subtitle=_subtitle(card),
        figures=_figures(card, history, evaluation),
        val_photos=len(dataset),
        charts=_charts(history),
        classes=_class_rows(card, evaluation),
        **_confusion(evaluation.confusion.counts, [info.name for info in card.classes]),
        calibration=calibration,
        reliability_picture=_data_uri("image/png", reliability_picture(calibration)),
        photos=_photo_sections(dataset, predict, evaluation.photo_mean_iu),
        commands=provenance.commands,
        groups=_groups(card, provenance),
    )
    # A file name may hold bytes that are no text; they are shown as such.
    data = html.encode("utf-8", errors="backslashreplace")
    write_bytes(path, data)


def _subtitle(card: Card) -> str:
    architecture, training = card.architecture, card.training
    photos = training["photos"]
    return (
        f"{architecture.variant} on {architecture.backbone}, trained on {training['dataset']}: "
        f"{photos['train']} photos, validated on {photos['val']}"
    )


def _figures(
    card: Card, history: Sequence[dict[str, Any]], evaluation: Evaluation
) -> list[tuple[str, str]]:
    metrics = evaluation.confusion.metrics()
    return [
        ("mean IU", _fraction(metrics.mean_iu)),
        ("pixel accuracy", _fraction(metrics.pixel_accuracy)),
        ("mean accuracy", _fraction(metrics.mean_accuracy)),
        ("freq. weighted IU", _fraction(metrics.frequency_weighted_iu)),
        ("boundary F", _fraction(evaluation.boundary.mean)),
        ("best epoch", f"{card.training['epoch']} of {history[-1]['epoch']}"),
    ]


def _charts(history: Sequence[dict[str, Any]]) -> list[Chart]:
    def of_val(key: str) -> list[tuple[int, float | None]]:
        return [(line["epoch"], line["val"][key]) for line in history if "val" in line]

    def of_training(key: str) -> list[tuple[int, float | None]]:
        return [(line["epoch"], line[key]) for line in history]

    return [
        line_chart("Training loss", {"loss": of_training("loss")}),
        line_chart(
            "Validation",
            {"mean IU": of_val("mean_iu"), "pixel accuracy": of_val("pixel_accuracy")},
            top=1.0,
        ),
        line_chart("Learning rate", {"rate at the epoch's end": of_training("learning_rate")}),
    ]


def _class_rows(card: Card, evaluation: Evaluation) -> list[dict[str, Any]]:
    truth = evaluation.confusion.counts.sum(axis=1)
    rows = []
    for info, iu, boundary, share in zip(
        card.classes,
        evaluation.confusion.metrics().iu,
        evaluation.boundary.by_class,
        truth / truth.sum(),
        strict=True,
    ):
        rows.append(
            {
                "name": info.name,
                "color": info.hex_color,
                "width": None if np.isnan(iu) else round(100 * iu, 1),
                "iu": _fraction(iu),
                "boundary": _fraction(boundary),
                "share": f"{share:.2%}",
            }
        )
    return rows


def _confusion(counts: NDArray[np.int64], names: Sequence[str]) -> dict[str, Any]:
    """Return what the template needs of the matrix: a table, or a picture if it would be huge."""
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    short_names = [shorten(name) for name in names]
    matrix: list[tuple[str, list[dict[str, Any]] | None]] = []
    picture = ""
    if len(names) > MAX_TABLE_CLASSES:
        picture = _data_uri("image/png", confusion_picture(counts, names))
    else:
        for name, total, row in zip(short_names, totals, shares.tolist(), strict=True):
            cells = [{"share": share, "text": _per_cent(share)} for share in row]
            matrix.append((name, cells if total else None))
    pairs = [
        (shares[truth, predicted], names[truth], names[predicted])
        for truth, predicted in itertools.permutations(range(len(names)), 2)
        if shares[truth, predicted] >= LEAST_CONFUSION
    ]
    pairs.sort(key=lambda pair: -pair[0])
    return {
        "matrix": matrix,
        "matrix_picture": picture,
        "short_names": short_names,
        "absent": not totals.all(),
        "confusions": [
            (truth, predicted, f"{share:.1%}") for share, truth, predicted in pairs[:CONFUSIONS]
        ],
    }


def _photo_sections(
    dataset: LabelledImages, predict: Predict, photo_mean_iu: Sequence[float]
) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return the worst and the best photos; none is among both."""
    judged = len(dataset) - int(np.isnan(photo_mean_iu).sum())
    worst = worst_photos(photo_mean_iu, min(PHOTOS, (judged + 1) // 2))
    best = best_photos(photo_mean_iu, min(PHOTOS, judged // 2))
    return [
        (title, [_photo_row(dataset, predict, index, photo_mean_iu[index]) for index in indices])
        for title, indices in (("Worst photos of val", worst), ("Best photos of val", best))
        if indices
    ]


def _photo_row(
    dataset: LabelledImages, predict: Predict, index: int, mean_iu: float
) -> dict[str, Any]:
    photo, truth, prediction = dataset.photo(index), dataset.label(index), predict(index)
    labelled = truth != VOID
    wrong = (labelled & (prediction != truth)).sum() / labelled.sum()
    return {
        "name": dataset.names[index],
        "mean_iu": _fraction(mean_iu),
        "wrong": f"{wrong:.1%}",
        "panels": [
            ("photo", _jpeg(photo), "photo"),
            ("truth", _flat(colorize(truth, dataset.classes)), "flat"),
            ("prediction", _flat(colorize(prediction, dataset.classes)), "flat"),
            ("wrong pixels in red", _jpeg(mark_errors(photo, truth, prediction)), "photo"),
        ],
    }


def _groups(card: Card, provenance: Provenance) -> dict[str, dict[str, str]]:
    training = card.training
    data = {"dataset": training["dataset"]}
    for part, split in training["splits"].items():
        data[part] = f"{training['photos'][part]} photos of the split {split}"
    data["val fraction"] = training["val_fraction"]
    if card.scale != 1:
        data["photos seen at scale"] = card.scale
    if "group_by" in training:
        data["kept together"] = f"photos that have {training['group_by']} in common"
    if "left_out" in training:
        data["left out for val"] = f"{training['left_out']}..."
    network = dataclasses.asdict(card.architecture)
    run = {"seed": training["seed"], "precision": training["precision"], **provenance.environment}
    return {
        title: {term.replace("_", " "): _show(value) for term, value in facts.items()}
        for title, facts in (
            ("Run", run),
            ("Data", data),
            ("Network", {**network, "started from": training["started_from"]}),
            ("Recipe", training["recipe"]),
        )
    }


def _show(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)


def _fraction(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3f}"


def _per_cent(share: float) -> str:
    """Return a share in whole per cents; below a half of one it is left out."""
    return f"{share:.0%}".removesuffix("%") if share >= 0.005 else ""


def _jpeg(picture: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    small = shrink(picture, PHOTO_SIDE, PHOTO_SIDE)
    # Colour at full resolution: red pixels on grey would smear otherwise.
    Image.fromarray(small).save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return _data_uri("image/jpeg", file.getvalue())


def _flat(picture: NDArray[np.uint8]) -> str:
    return _data_uri("image/png", encode_rgb_png(shrink(picture, PHOTO_SIDE, PHOTO_SIDE)))


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
