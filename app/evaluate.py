"""`python -m app.evaluate`: the paper's four metrics and IU by class on a labelled split."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.cli import (
    add_checkpoint,
    add_data,
    add_device,
    add_split_options,
    follow,
    integer,
    load_engine,
    parser,
    run,
)
from app.errors import UsageError
from app.inference.engine import Engine
from app.train.datasets import DATASETS, SPLITS, LabelledImages, open_dataset
from app.train.metrics import ConfusionMatrix, Metrics
from model import Card
from model.files import write_atomically

T = TypeVar("T", int, float)


def evaluate(engine: Engine, dataset: LabelledImages, console: Console) -> Metrics:
    """Segment every photo of a dataset, whole and at native resolution, and measure.

    Raises:
        UsageError: If the dataset's classes are not the checkpoint's, or a file cannot be read.
    """
    check_classes(engine.card, dataset)
    confusion = ConfusionMatrix(len(dataset.classes))
    for index in follow(range(len(dataset)), "evaluating", console):
        truth = dataset.label(index)
        prediction = engine.segment([dataset.photo(index)])[0].label_map
        if prediction.shape != truth.shape:
            raise UsageError(f"{dataset.names[index]} and its label map differ in size")
        confusion.update(truth, prediction)
    return confusion.metrics()


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


def _choose(asked: T | None, same_dataset: bool, trained: T | None) -> T | None:
    """Return what was asked for, else what the checkpoint was trained with."""
    return asked if asked is not None or not same_dataset else trained


def _table(metrics: Metrics, card: Card, title: str) -> Table:
    table = Table("class", "IU", title=title)
    table.columns[1].justify = "right"
    for info, value in zip(card.classes, metrics.iu, strict=True):
        table.add_row(escape(info.name), "-" if np.isnan(value) else f"{value:.4f}")
    table.add_section()
    for name, value in (
        ("mean IU", metrics.mean_iu),
        ("pixel accuracy", metrics.pixel_accuracy),
        ("mean accuracy", metrics.mean_accuracy),
        ("frequency weighted IU", metrics.frequency_weighted_iu),
    ):
        table.add_row(name, f"{value:.4f}")
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    arguments = parser(
        "evaluate",
        "Measure a checkpoint on a labelled split: pixel accuracy, mean accuracy, mean IU and "
        "frequency weighted IU, as defined in the FCN paper, over all pixels of the split.",
        "python -m app.evaluate --dataset camvid --data CamVid --split val",
    )
    add_checkpoint(arguments)
    add_data(arguments, DATASETS)
    arguments.add_argument("--split", choices=SPLITS, default="val", help="which part")
    add_split_options(arguments)
    arguments.add_argument(
        "--seed",
        type=integer(0),
        metavar="N",
        help="of that choice (default, like the share: those that the checkpoint was trained with)",
    )
    add_device(arguments)
    arguments.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    options = arguments.parse_args(argv)

    def evaluate_command() -> int:
        if options.json and not options.json.parent.is_dir():
            raise UsageError(f"{options.json.parent}: no such folder")
        engine = load_engine(options.checkpoint, options.device, options.precision)
        trained = engine.card.training
        same_dataset = trained.get("dataset") == options.dataset
        dataset = open_dataset(
            options.dataset,
            options.data,
            options.split,
            val_fraction=_choose(options.val_fraction, same_dataset, trained.get("val_fraction")),
            seed=_choose(options.seed, same_dataset, trained.get("seed")) or 0,
        )
        console = Console()
        metrics = evaluate(engine, dataset, console)
        title = f"{engine.card.name} on {options.dataset} {options.split}, {len(dataset)} photos"
        console.print(_table(metrics, engine.card, title))
        if options.json:
            values = {
                "checkpoint": {"name": engine.card.name, "version": engine.version},
                "dataset": options.dataset,
                "split": options.split,
                "photos": len(dataset),
                "precision": engine.precision,
                **metrics.to_json([info.name for info in engine.card.classes]),
            }
            text = json.dumps(values, indent=2) + "\n"
            write_atomically(options.json, lambda path: path.write_text(text))
        return 0

    return run(evaluate_command)


if __name__ == "__main__":
    sys.exit(main())
