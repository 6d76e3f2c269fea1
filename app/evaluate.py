"""`python -m app.evaluate`: the paper's four metrics and the boundary F on a labelled split."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.cli import (
    add_checkpoint,
    add_device,
    check_places,
    load_engine,
    number,
    parser,
    run,
)
from app.inference.render import MAX_SCALE, MIN_SCALE
from app.labelled_split import add_labelled_split, open_labelled_split
from app.train.evaluation import Evaluation, evaluate
from app.train.report import draw_confusion, draw_worst
from model.files import write_json


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
        help="test-time augmentation: average with the mirrored photo's class probabilities; "
        "served masks have none",
    )
    arguments.add_argument(
        "--scales",
        type=_scales,
        metavar="A,B",
        help=f"scales the network sees, averaged likewise; {MIN_SCALE:g} to {MAX_SCALE:g} each "
        "(default: that at which it was trained)",
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
        console = Console()
        dataset = open_labelled_split(options, engine.card, console)
        class_names = [info.name for info in dataset.classes]
        scales = options.scales or (engine.card.scale,)

        def predict(index: int) -> NDArray[np.uint8]:
            return engine.segment_views(
                dataset.photo(index), scales=scales, flip=options.tta == "flip"
            )

        evaluation = evaluate(predict, dataset, console)
        if options.json:
            values = {
                "checkpoint": {"name": engine.card.name, "version": engine.version},
                "dataset": options.dataset,
                "split": options.split,
                "photos": len(dataset),
                "precision": engine.precision,
                "scales": scales,
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
        # At last: the terminal may be gone by now.
        shown_scales = ", ".join(f"{scale:g}" for scale in scales)
        title = (
            f"{engine.card.name} on {options.dataset} {options.split}, {len(dataset)} photos, "
            f"scales {shown_scales}, tta {options.tta}"
        )
        console.print(_table(evaluation, class_names, title))
        return 0

    return run(evaluate_command)


if __name__ == "__main__":
    sys.exit(main())
