"""What the commands share: arguments that mean the same everywhere, and how they fail."""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from app.inference.device import choose_compute
from app.inference.engine import Engine
from model import CheckpointError

DEFAULT_CHECKPOINT: Final = Path("checkpoints/camvid-fcn8s-vgg16bn.safetensors")
"""The checkpoint that ships with the project, relative to its root."""


class UsageError(Exception):
    """The user must change something; the message is one line that says what and where."""


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and keeps the line breaks of examples."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help  # "(default: None)" tells nobody anything
        return super()._get_help_string(action)


class OneLineParser(argparse.ArgumentParser):
    """Reports a wrong argument in one line, without the usage block."""

    def error(self, message: str) -> Any:
        """Print what is wrong and exit with 2."""
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def parser(command: str, description: str, example: str) -> OneLineParser:
    """Return an argument parser for `python -m app.<command>`."""
    return OneLineParser(
        prog=f"fcn {command}",
        description=description,
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
    """Parse `HEIGHTxWIDTH`."""
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if not match or "0" in match.groups():
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, as in 360x480")
    return int(match[1]), int(match[2])


def load_engine(checkpoint: Path, device: str, precision: str) -> Engine:
    """Load an engine for a command.

    Raises:
        CheckpointError: If the file is no checkpoint.
        OSError: If it cannot be read.
        UsageError: If the device does not exist.
    """
    try:
        choose_compute(device, precision)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return Engine.load(checkpoint, device=device, precision=precision)


def run(main: Callable[[], int | None]) -> int:
    """Run a command and turn what its user can mend into one line and exit code 2.

    Anything else is a bug and keeps its traceback.
    """
    try:
        return main() or 0
    except (UsageError, CheckpointError) as error:
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
