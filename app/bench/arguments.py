"""The command's options, and which of them go together."""

import argparse
import importlib.util
import shlex
from pathlib import Path
from typing import Final

from app.bench.photos import FILE_FORMATS, parse_sizes
from app.cli import (
    OneLineParser,
    add_checkpoint,
    add_device,
    check_places,
    integer,
    number,
    parser,
)
from app.errors import UsageError
from app.inference.render import MaskFormat
from app.serve.settings import PREFIX

RIVALS: Final = ("naive", "litserve")
"""What `--compare` can start beside the service."""

DEFAULT_CONCURRENCY: Final = 16
_COMPARED_ROUNDS: Final = 3


def build_parser() -> OneLineParser:
    """Return the command's parser."""
    arguments = parser(
        "bench",
        "Measure the service under load: starts it on a free port, posts photos, and prints "
        "images/s and the time to the answer by stage. Beside it, in turns in the same run, the "
        "engine alone and other servers with the same network. docs/performance.md explains the "
        "figures.",
        "python -m app.bench --sizes 480x360 --concurrency 16 --engine --json service.json",
    )
    _add_servers(arguments)
    _add_photos(arguments)
    _add_load(arguments)
    arguments.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    return arguments


def _add_servers(arguments: argparse.ArgumentParser) -> None:
    add_checkpoint(arguments)
    add_device(arguments)
    service = arguments.add_mutually_exclusive_group()
    service.add_argument("--url", help="measure the server there instead of starting one")
    service.add_argument(
        "--null",
        action="store_true",
        help="serve a network that costs nothing: measures the service itself",
    )
    arguments.add_argument(
        "--engine",
        action="store_true",
        help="measure the engine alone as well: the network without a service around it",
    )
    arguments.add_argument(
        "--compare",
        nargs="?",
        const=",".join(RIVALS),
        type=_rivals,
        metavar="A,B",
        help="measure other servers as well: naive (a FastAPI handler with a lock) and litserve, "
        "which needs the extra `bench`; both if none is named",
    )
    arguments.add_argument(
        "--against",
        type=_settings,
        metavar="SETTINGS",
        help='measure the service with other settings as well, as "FCN_LANES=1 FCN_BATCH_IMAGES=8"',
    )
    arguments.add_argument(
        "--litserve",
        type=_words,
        metavar="WORDS",
        help='options of app.bench.litserve_server, as "--workers 2 --batch-timeout 0.01"',
    )


def _add_photos(arguments: argparse.ArgumentParser) -> None:
    photos = arguments.add_mutually_exclusive_group()
    photos.add_argument(
        "--sizes",
        type=parse_sizes,
        metavar="LIST",
        default="480x360",
        help="width x height of drawn photos: 480x360, or several as 480x360,96x96:3 (the second "
        "three times as often), or 64x64-640x480/500 (500 sizes between the two)",
    )
    photos.add_argument("--images", type=Path, metavar="DIR", help="post the photos in this folder")
    arguments.add_argument(
        "--photo-format", choices=tuple(FILE_FORMATS), default="jpeg", help="of drawn photos"
    )
    arguments.add_argument(
        "--upload",
        choices=("multipart", "raw"),
        default="multipart",
        help="photo as a form's field, as `curl -F` does, or as the body itself",
    )
    arguments.add_argument(
        "--format", choices=[str(name) for name in MaskFormat], default="png", help="of the masks"
    )


def _add_load(arguments: argparse.ArgumentParser) -> None:
    loop = arguments.add_mutually_exclusive_group()
    loop.add_argument(
        "--concurrency",
        type=integer(1),
        metavar="N",
        default=DEFAULT_CONCURRENCY,
        help="closed loop: clients that each wait for an answer before the next photo",
    )
    loop.add_argument(
        "--rate",
        type=number(0.001, 1e6),
        metavar="R",
        help="open loop: photos a second, at random moments, whether or not others are answered",
    )
    length = arguments.add_mutually_exclusive_group()
    length.add_argument(
        "--duration",
        type=number(0.1),
        metavar="S",
        default=20.0,
        help="seconds measured in each round",
    )
    length.add_argument(
        "--requests", type=integer(1), metavar="N", help="requests measured in each round instead"
    )
    arguments.add_argument(
        "--warmup", type=number(0), metavar="S", default=3.0, help="seconds of load before it"
    )
    arguments.add_argument(
        "--rounds",
        type=integer(1),
        metavar="N",
        help=f"default: 1, beside something else {_COMPARED_ROUNDS}",
    )
    arguments.add_argument(
        "--deadline",
        type=number(0.001),
        metavar="S",
        help="seconds after which an answer is no longer wanted (X-Request-Timeout)",
    )
    arguments.add_argument(
        "--seed", type=integer(0), metavar="N", default=0, help="of photos, their order, arrivals"
    )


def rounds_of(options: argparse.Namespace) -> int:
    """Return how many rounds were asked for."""
    compared = options.engine or options.compare or options.against
    return int(options.rounds or (_COMPARED_ROUNDS if compared else 1))


def check_options(options: argparse.Namespace) -> None:
    """Refuse what cannot be measured before anything is started.

    Raises:
        UsageError: If options contradict one another, or a folder or LitServe is missing.
        OSError: If the checkpoint cannot be read.
    """
    check_places(options.json)
    if options.null and options.engine:
        raise UsageError("--null has no engine that could be measured alone: leave out --engine")
    if options.compare and (options.format, options.upload) != ("png", "multipart"):
        raise UsageError("--compare: the other servers take multipart uploads and answer with png")
    if "litserve" in (options.compare or ()) and importlib.util.find_spec("litserve") is None:
        raise UsageError(
            "--compare litserve needs LitServe: pip install -e '.[bench]', or compare with "
            "--compare naive"
        )
    if options.url and options.against:
        raise UsageError("--against starts the service itself, twice: leave out --url")
    if not options.null and (options.engine or options.compare or not options.url):
        options.checkpoint.stat()


def _words(text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def _settings(text: str) -> dict[str, str]:
    """Parse `NAME=VALUE NAME=VALUE`; what a value may be is the server's business."""
    found: dict[str, str] = {}
    for word in _words(text):
        name, equals, value = word.partition("=")
        if not name.startswith(PREFIX) or not equals:
            raise argparse.ArgumentTypeError(f"{word!r} is no setting: {PREFIX}LANES=1 is one")
        found[name] = value
    if not found:
        raise argparse.ArgumentTypeError(f"no setting in {text!r}")
    return found


def _rivals(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in RIVALS or names.count(name) > 1:
            raise argparse.ArgumentTypeError(
                f"{text!r}: the servers to compare with are {' and '.join(RIVALS)}"
            )
    return names
