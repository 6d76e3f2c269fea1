"""What the commands share: arguments that mean the same everywhere, and how they fail.

Importing it does not import torch, which takes seconds: a command without a network of its own does
not wait for one.
"""

import argparse
import math
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console

from app.errors import UsageError
from app.paths import DEFAULT_CHECKPOINT
from app.progress import Progress

if TYPE_CHECKING:
    from app.inference.device import Compute
    from app.inference.engine import Engine

ItemT = TypeVar("ItemT")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and keeps the line breaks of examples."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help  # "(default: None)" tells nobody anything
        return super()._get_help_string(action)


class OneLineParser(argparse.ArgumentParser):
    """Reports a wrong argument in one line, without the usage block.

    Options cannot be abbreviated: a script must not change its meaning when one is added.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> Any:
        """Print what is wrong and exit with 2."""
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def parser(command: str, description: str, example: str) -> OneLineParser:
    """Return an argument parser for `python -m app.<command>`."""
    return OneLineParser(
        prog=f"fcn {command}",
        description=textwrap.fill(description, 78),
        epilog=f"example:\n  {example}",
        formatter_class=HelpFormatter,
    )


def add_checkpoint(arguments: argparse.ArgumentParser) -> None:
    """Add `--checkpoint`."""
    arguments.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        default=DEFAULT_CHECKPOINT,
        help="checkpoint to use",
    )


def add_device(arguments: argparse.ArgumentParser) -> None:
    """Add `--device` and `--precision`."""
    arguments.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, cuda or cuda:N; auto takes CUDA if there is one",
    )
    arguments.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        default="auto",
        help="number format of the convolutions; auto takes bf16 where the hardware has it",
    )


def add_data(arguments: argparse.ArgumentParser, datasets: Sequence[str]) -> None:
    """Add `--dataset` and `--data`."""
    arguments.add_argument("--dataset", choices=tuple(datasets), default="folder", help="layout")
    arguments.add_argument("--data", type=Path, metavar="DIR", help="folder that holds the data")


def size(text: str) -> tuple[int, int]:
    """Parse `HEIGHTxWIDTH`, both at least 1."""
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    height, width = (int(match[1]), int(match[2])) if match else (0, 0)
    if height < 1 or width < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, as in 360x480")
    return height, width


def integer(low: int) -> Callable[[str], int]:
    """Return a parser of whole numbers from `low` up."""

    def parse(text: str) -> int:
        value = int(text) if re.fullmatch(r"-?\d{1,18}", text) else None
        if value is None or value < low:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {low} up")
        return value

    return parse


def number(low: float, high: float = math.inf) -> Callable[[str], float]:
    """Return a parser of finite numbers from `low` to `high`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (low <= value <= high and math.isfinite(value)):
            limits = f"from {low:g} up" if high == math.inf else f"from {low:g} to {high:g}"
            raise argparse.ArgumentTypeError(f"{text!r} is no number {limits}")
        return value

    return parse


def model_name(text: str) -> str:
    """Parse a checkpoint's name."""
    from model.checkpoint import NAME_PATTERN

    if not NAME_PATTERN.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no model name: 1 to 128 letters, digits and any of _ . : + -"
        )
    return text


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from None
    return text


def add_split_options(arguments: argparse.ArgumentParser) -> None:
    """Add `--val-fraction` and what goes with it; evaluation must draw what training drew."""
    arguments.add_argument(
        "--val-fraction",
        type=number(0.001, 0.999),
        metavar="F",
        help="share of the photos kept for val, for a folder without train/ and val/",
    )
    arguments.add_argument(
        "--group-by",
        type=_pattern,
        metavar="REGEX",
        help="with --val-fraction: photos in whose names it finds the same stay together, such as "
        "the frames of a video, for street3_0042.png 'street[0-9]+'",
    )
    arguments.add_argument(
        "--download",
        action="store_true",
        help="for voc and sbd: fetch into --data what is not there, some GB",
    )


def follow(items: Sequence[ItemT], what: str, console: Console) -> Iterator[ItemT]:
    """Yield the items, showing progress: a bar on a terminal, a line every 30 s elsewhere."""
    with Progress(len(items), what, console) as progress:
        for item in items:
            yield item
            progress.advance()


def load_engine(checkpoint: Path, device: str, precision: str) -> "Engine":
    """Load an engine for a command.

    Raises:
        CheckpointError: If the file is no checkpoint.
        OSError: If it cannot be read.
        UsageError: If the device does not exist.
    """
    from app.inference.engine import Engine

    compute = resolve_compute(device, precision)
    return Engine.load(checkpoint, device=str(compute.device), precision=compute.precision)


def resolve_compute(device: str, precision: str) -> "Compute":
    """Resolve `--device` and `--precision`.

    Raises:
        UsageError: If the device does not exist.
    """
    from app.inference.device import choose_compute

    try:
        return choose_compute(device, precision)
    except ValueError as error:
        raise UsageError(str(error)) from None


def check_places(*files: Path | None, report: Path | None = None) -> None:
    """Refuse results that could not be written, before hours are spent on them.

    Args:
        files: Files that will be written, if asked for.
        report: Folder that will be made, if asked for.

    Raises:
        UsageError: If a folder is missing or read-only, or something is in the way.
    """
    for path in (*files, report):
        if path and not path.parent.is_dir():
            raise UsageError(f"{path.parent}: no such folder")
    for path in files:
        if path and path.is_dir():
            raise UsageError(f"{path} is a folder; give the file's own name")
    if report and report.exists() and not report.is_dir():
        raise UsageError(f"{report}: not a folder")
    folders = [path.parent for path in files if path]
    if report:
        folders.append(report if report.is_dir() else report.parent)
    for folder in folders:
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UsageError(f"{folder}: no permission to write in this folder")


def run(main: Callable[[], int | None]) -> int:
    """Run a command and turn what its user can mend into one line and exit code 2.

    Anything else is a bug and keeps its traceback.
    """
    try:
        return main() or 0
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except _mendable_errors() as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _mendable_errors() -> tuple[type[Exception], ...]:
    from app.inference.room import PhotoDoesNotFitError
    from model import CheckpointError

    return CheckpointError, PhotoDoesNotFitError
