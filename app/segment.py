"""`python -m app.segment`: masks for photos, from a server."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from app.cli import integer, number, parser, run
from app.client import Client, FolderError, FolderReport, SegmentationError
from app.client.exchange import (
    LONGEST_TIMEOUT_S,
    MEDIA_TYPES,
    RETRIES,
    TIMEOUT_S,
    parse_url,
)
from app.errors import UsageError

DEFAULT_URL = "http://localhost:8000"


def _url(text: str) -> str:
    try:
        return parse_url(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def summary(report: FolderReport, out: Path) -> str:
    """Return what became of the photos, in a line."""
    photos = sum(map(len, (report.written, report.skipped, report.failures, report.untried)))
    parts = [f"{len(report.written)} of {photos} masks written to {out}"]
    if report.skipped:
        parts.append(f"{len(report.skipped)} were there (--overwrite makes them again)")
    if report.failures:
        parts.append(f"{len(report.failures)} failed")
    if report.untried:
        parts.append(f"{len(report.untried)} not tried")
    return ", ".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    arguments = parser(
        "segment",
        "Let a server write masks for photos. What is there already is left out, so the same "
        "command goes on where it was interrupted; with other options it needs another folder, or "
        "--overwrite. A photo that fails is reported and skipped; the exit code is then 2.",
        "python -m app.segment photos/ --out masks --url http://localhost:8000",
    )
    arguments.add_argument(
        "photos", nargs="+", metavar="PATH", help="folders, with their subfolders, and image files"
    )
    arguments.add_argument(
        "--out", type=Path, metavar="DIR", default=Path("masks"), help="folder for the masks"
    )
    arguments.add_argument("--url", type=_url, default=DEFAULT_URL, help="address of the server")
    arguments.add_argument(
        "--format",
        choices=tuple(MEDIA_TYPES),
        metavar="FORMAT",
        default="png",
        help=f"one of {', '.join(MEDIA_TYPES)}",
    )
    arguments.add_argument("--classes", metavar="A,B", help="only these, by name or index")
    arguments.add_argument(
        "--scale",
        type=number(0),
        metavar="X",
        help="scale the network sees, 0.25 to 2 (default: that at which it was trained)",
    )
    arguments.add_argument(
        "--scores",
        action="store_true",
        help="with rle, polygons and coco: mean probability of each class",
    )
    arguments.add_argument(
        "--tolerance",
        type=number(0),
        metavar="PIXELS",
        help="with polygons and coco: how far outlines may be from the pixels' edges",
    )
    arguments.add_argument(
        "--parallel", type=integer(1), metavar="N", default=4, help="photos under way at a time"
    )
    arguments.add_argument(
        "--overwrite", action="store_true", help="make masks again that are there"
    )
    arguments.add_argument(
        "--timeout",
        type=number(0.001, LONGEST_TIMEOUT_S),
        metavar="S",
        default=TIMEOUT_S,
        help="seconds for a photo, with all tries",
    )
    arguments.add_argument(
        "--retries",
        type=integer(0),
        metavar="N",
        default=RETRIES,
        help="further tries if the server is full or gone",
    )
    options = arguments.parse_args(argv)
    return run(lambda: segment(options))


def segment(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    try:
        with Client(options.url, timeout=options.timeout, retries=options.retries) as client:
            report = client.segment_folder(
                options.photos,
                options.out,
                options.format,
                parallel=options.parallel,
                overwrite=options.overwrite,
                classes=options.classes,
                scale=options.scale,
                scores=options.scores,
                tolerance=options.tolerance,
            )
    except FolderError as error:
        raise UsageError(str(error)) from None
    except SegmentationError as error:
        raise UsageError(error.detail) from None
    print(summary(report, options.out))
    return 0 if report.complete else 2


if __name__ == "__main__":
    sys.exit(main())
