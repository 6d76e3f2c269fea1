"""`python -m app.calibrate`: how well a checkpoint knows, and the temperature that mends it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from app.cli import add_checkpoint, add_device, check_places, load_engine, parser, run
from app.errors import UsageError
from app.inference.engine import Engine
from app.labelled_split import add_labelled_split, open_labelled_split
from app.train.calibration import Calibration, calibrate
from app.train.report import draw_reliability
from model import save_with_card
from model.files import sha256, write_json


def _table(calibration: Calibration, title: str) -> Table:
    table = Table("", "temperature 1", "held out", title=escape(title))
    for column in table.columns[1:]:
        column.justify = "right"
    for name, before, after in calibration.table():
        table.add_row(name, f"{before:.4f}", f"{after:.4f}")
    return table


def _save(calibration: Calibration, engine: Engine, options: argparse.Namespace) -> None:
    """Write the measured checkpoint with its temperature.

    Raises:
        UsageError: If the file is no longer the one that was measured; training replaces it.
    """
    if sha256(options.checkpoint) != engine.version:
        raise UsageError(f"{options.checkpoint} changed while it was measured: start again")
    source = {"dataset": options.dataset, "split": options.split}
    save_with_card(options.checkpoint, options.out, calibration.completed(engine.card, source))


def _write_figures(calibration: Calibration, engine: Engine, options: argparse.Namespace) -> None:
    values = {
        "checkpoint": {"name": engine.card.name, "version": engine.version},
        "dataset": options.dataset,
        "split": options.split,
        "precision": engine.precision,
        "temperature": calibration.temperature,
        **calibration.to_json(),
        "bins_before": calibration.before.bins_to_json(),
        "bins_after": calibration.after.bins_to_json(),
    }
    write_json(options.json, values)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    arguments = parser(
        "calibrate",
        "Measure how far a checkpoint's probabilities come true on labelled photos that it was "
        "not trained on, and write it again with the temperature that its logits are divided by "
        "to make `scores` come closer. Weights and masks stay as they are; a temperature that the "
        "checkpoint has already is replaced.",
        "python -m app.calibrate --dataset camvid --data CamVid --out street.safetensors",
    )
    add_checkpoint(arguments)
    add_labelled_split(arguments)
    add_device(arguments)
    arguments.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        required=True,
        help="the checkpoint with its temperature; may be the file of --checkpoint itself",
    )
    arguments.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    arguments.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help="write reliability.png, accuracy by confidence before and after, here",
    )
    options = arguments.parse_args(argv)

    def calibrate_command() -> int:
        check_places(options.out, options.json, report=options.report)
        engine = load_engine(options.checkpoint, options.device, options.precision)
        console = Console()
        dataset = open_labelled_split(options, engine.card, console)

        def logits(index: int) -> Tensor:
            return engine.logits(dataset.photo(index))

        calibration = calibrate(logits, dataset, console)
        _save(calibration, engine, options)
        if options.json:
            _write_figures(calibration, engine, options)
        if options.report:
            options.report.mkdir(exist_ok=True)
            draw_reliability(calibration, options.report / "reliability.png")
        # At last: the terminal may be gone by now.
        title = f"{engine.card.name} on {options.dataset} {options.split}, {len(dataset)} photos"
        console.print(_table(calibration, title))
        line = f"{options.out}: {calibration.summary()}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
        return 0

    return run(calibrate_command)


if __name__ == "__main__":
    sys.exit(main())
