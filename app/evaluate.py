"""`python -m app.evaluate`: the paper's four metrics and the boundary F on a labelled split."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.cli import (
    add_checkpoint,
    add_data,
    add_device,
    add_split_options,
    check_places,
    integer,
    load_engine,
    number,
    parser,
    run,
)
from app.errors import UsageError
from app.inference.render import MAX_SCALE, MIN_SCALE
from app.train.datasets import DATASETS, SPLITS, LabelledImages, open_dataset
from app.train.evaluation import Evaluation, evaluate
from app.train.report import draw_confusion, draw_worst
from model import Card
from model.files import write_json

T = TypeVar("T", int, float)


def check_classes(card: Card, dataset: LabelledImages) -> None:
    """Refuse to compare labels that do not mean the same.

    Raises:
        UsageError: If the names differ; it says where.
    """
    ours = [info.name for info in card.classes]
    theirs = [info.name for info in dataset.classes]
    if ours != theirs:
        raise UsageError(
            f"the checkpoint's classes ({', '.join(ours)}) are not the dataset's "
            f"({', '.join(theirs)})"
        )


def add_labelled_split(arguments: argparse.ArgumentParser) -> None:
    """Add what says which labelled photos to look at."""
    add_data(arguments, DATASETS)
    arguments.add_argument("--split", choices=SPLITS, default="val", help="which part")
    add_split_options(arguments)
    arguments.add_argument(
        "--seed",
        type=integer(0),
        metavar="N",
        help="of that choice (default, like the share: those that the checkpoint was trained with)",
    )


def open_labelled_split(options: argparse.Namespace, card: Card) -> LabelledImages:
    """Open the split that `add_labelled_split` asked for, drawn as the checkpoint's training did.

    Raises:
        UsageError: If it cannot be opened, or its classes are not the checkpoint's.
    """
    trained = card.training
    same_dataset = trained.get("dataset") == options.dataset
    dataset = open_dataset(
        options.dataset,
        options.data,
        options.split,
        val_fraction=_choose(options.val_fraction, same_dataset, trained.get("val_fraction")),
        seed=_choose(options.seed, same_dataset, trained.get("seed")) or 0,
        download=options.download,
    )
    check_classes(card, dataset)
    return dataset


def _choose(asked: T | None, same_dataset: bool, trained: T | None) -> T | None:
    """Return what was asked for, else what the checkpoint was trained with."""
    return asked if asked is not None or not same_dataset else trained


def _scales(text: str) -> tuple[float, ...]:
    """Parse `A,B,...`: scales within the limits of `app.predict`, each once."""
    scales = tuple(number(MIN_SCALE, MAX_SCALE)(word.strip()) for word in text.split(","))
    if len(set(scales)) < len(scales):
        raise argparse.ArgumentTypeError(f"{text!r} names a scale twice")
    return scales


def _table(evaluation: Evaluation, class_names: Sequence[str], title: str) -> Table:
    metrics, boundary = evaluation.confusion.metrics(), evaluation.boundary
    table = Table("class", "IU", "boundary F", title=escape(title))
    for column in table.columns[1:]:
        column.justify = "right"
    for name, *values in zip(class_names, metrics.iu, boundary.by_class, strict=True):
        table.add_row(escape(name), *map(_cell, values))
    table.add_section()
    table.add_row("mean over classes", _cell(metrics.mean_iu), _cell(boundary.mean))
    for name, value in (
        ("pixel accuracy", metrics.pixel_accuracy),
        ("mean accuracy", metrics.mean_accuracy),
        ("frequency weighted IU", metrics.frequency_weighted_iu),
    ):
        table.add_row(name, _cell(value))
    return table


def _cell(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    arguments = parser(
        "evaluate",
        "Measure a checkpoint on a labelled split: pixel accuracy, mean accuracy, mean IU and "
        "frequency weighted IU, as defined in the FCN paper, over all pixels of the split, and "
        "the F-measure of class boundaries.",
        "python -m app.evaluate --dataset camvid --data CamVid --split val --report report",
    )
    add_checkpoint(arguments)
    add_labelled_split(arguments)
    add_device(arguments)
    arguments.add_argument(
        "--tta",
        choices=("none", "flip"),
        default="none",
        help="test-time augmentation: average with the mirrored photo's class probabilities",
    )
    arguments.add_argument(
        "--scales",
        type=_scales,
        metavar="A,B",
        default="1",
        help=f"scales the network sees, averaged likewise; {MIN_SCALE:g} to {MAX_SCALE:g} each",
    )
    arguments.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    arguments.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help="write confusion.png and worst.png, the photos with the lowest mean IU, here",
    )
    options = arguments.parse_args(argv)

    def evaluate_command() -> int:
        check_places(options.json, report=options.report)
        engine = load_engine(options.checkpoint, options.device, options.precision)
        dataset = open_labelled_split(options, engine.card)
        class_names = [info.name for info in dataset.classes]

        def predict(index: int) -> NDArray[np.uint8]:
            return engine.segment_views(
                dataset.photo(index), scales=options.scales, flip=options.tta == "flip"
            )

        console = Console()
        evaluation = evaluate(predict, dataset, console)
        scales = ", ".join(f"{scale:g}" for scale in options.scales)
        title = (
            f"{engine.card.name} on {options.dataset} {options.split}, {len(dataset)} photos, "
            f"scales {scales}, tta {options.tta}"
        )
        console.print(_table(evaluation, class_names, title))
        if options.json:
            values = {
                "checkpoint": {"name": engine.card.name, "version": engine.version},
                "dataset": options.dataset,
                "split": options.split,
                "photos": len(dataset),
                "precision": engine.precision,
                "scales": options.scales,
                "tta": options.tta,
                **evaluation.confusion.metrics().to_json(class_names),
                **evaluation.boundary.to_json(class_names),
            }
            write_json(options.json, values)
        if options.report:
            options.report.mkdir(exist_ok=True)
            counts = evaluation.confusion.counts
            draw_confusion(counts, class_names, options.report / "confusion.png")
            worst = options.report / "worst.png"
            draw_worst(dataset, predict, evaluation.photo_mean_iu, worst)
        return 0

    return run(evaluate_command)


if __name__ == "__main__":
    sys.exit(main())
