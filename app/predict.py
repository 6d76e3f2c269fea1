"""`python -m app.predict`: masks for image files."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from app.cli import add_checkpoint, add_device, follow, load_engine, number, parser, run
from app.errors import UsageError
from app.inference.decode import ImageError, decode, resize, scaled_size
from app.inference.engine import Engine
from app.inference.render import (
    MAX_SCALE,
    MAX_TOLERANCE,
    MIN_SCALE,
    MaskFormat,
    Rendering,
    UnknownClassError,
    class_ids,
)
from app.inference.room import PhotoDoesNotFitError
from model.files import write_bytes

MAX_PIXELS: Final = 2**26
"""Largest photo, in pixels: a guard against broken files that claim absurd sizes."""


def predict(
    engine: Engine,
    photo: NDArray[np.uint8],
    rendering: Rendering,
    *,
    scale: float | None = None,
) -> bytes:
    """Segment one photo and return the bytes of its answer.

    Args:
        engine: Segments it.
        photo: RGB, HxWx3.
        rendering: How the answer is written.
        scale: The network sees the photo at this scale; None for that of its checkpoint.

    Raises:
        PhotoDoesNotFitError: If there is no memory for it.
    """
    height, width = photo.shape[:2]
    seen_size = scaled_size(height, width, engine.card.scale if scale is None else scale)
    network_input = resize(photo, seen_size)
    extras = rendering.extras(engine.card.classes)
    segmentation = engine.segment([network_input], size=(height, width), extras=extras)[0]
    if not rendering.format.is_json:
        return rendering.file(segmentation, photo, engine.card.classes)
    document = rendering.document(segmentation, engine.card, engine.version)
    if "image" in document:  # unlike an answer, a file should tell by itself whose masks it holds
        document["image"] = {"name": rendering.name, **document["image"]}
    return (json.dumps(document) + "\n").encode()


def _outputs(images: Sequence[Path], out: Path, mask_format: MaskFormat) -> dict[Path, Path]:
    """Return output -> input, refusing two inputs that would overwrite each other.

    Names that differ in case only are one file to macOS and Windows.
    """
    outputs: dict[str, tuple[Path, Path]] = {}
    for image in images:
        output = out / f"{image.stem}{mask_format.suffix}"
        _, other = outputs.setdefault(str(output).casefold(), (output, image))
        if other is not image:
            raise UsageError(f"{image} and {other} would both be written to {output}")
        if str(output.resolve()).casefold() == str(image.resolve()).casefold():
            raise UsageError(f"{image} would be overwritten by its own mask; give another --out")
    return dict(outputs.values())


def _format(text: str) -> MaskFormat:
    try:
        return MaskFormat(text)
    except ValueError:
        known = ", ".join(MaskFormat)
        raise argparse.ArgumentTypeError(f"{text!r} is no format; known: {known}") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    arguments = parser(
        "predict",
        "Write masks for image files. A file that cannot be read is reported and skipped; the "
        "exit code is then 2.",
        "python -m app.predict photos/*.jpg --format overlay --out overlays",
    )
    add_checkpoint(arguments)
    arguments.add_argument("images", type=Path, nargs="+", metavar="IMG", help="image files")
    arguments.add_argument(
        "--format",
        type=_format,
        metavar="FORMAT",
        default=MaskFormat.PNG,
        help="png (palette), grey, rle (JSON), overlay, zip (a binary PNG a class), polygons "
        "(GeoJSON), coco, cvat (zip), probabilities (npz) or confidence (grey PNG)",
    )
    arguments.add_argument(
        "--out", type=Path, metavar="DIR", default=Path("masks"), help="folder for the masks"
    )
    arguments.add_argument("--classes", metavar="A,B", help="only these, by name or index")
    arguments.add_argument(
        "--scale",
        type=number(MIN_SCALE, MAX_SCALE),
        metavar="X",
        help="scale the network sees (default: that at which it was trained)",
    )
    arguments.add_argument(
        "--scores",
        action="store_true",
        help="with rle, polygons and coco: mean probability of each class",
    )
    arguments.add_argument(
        "--tolerance",
        type=number(0.0, MAX_TOLERANCE),
        metavar="PIXELS",
        default=0.0,
        help="with polygons and coco: how far outlines may be from the pixels' edges",
    )
    add_device(arguments)
    options = arguments.parse_args(argv)

    def predict_command() -> int:
        outputs = _outputs(options.images, options.out, options.format)
        engine = load_engine(options.checkpoint, options.device, options.precision)
        try:
            selected = class_ids(options.classes, engine.card.classes)
        except UnknownClassError as error:
            raise UsageError(str(error)) from None
        rendering = Rendering(
            options.format, selected, scores=options.scores, tolerance=options.tolerance
        )
        options.out.mkdir(parents=True, exist_ok=True)
        console = Console(stderr=True)
        failed = 0
        for output, image in follow(list(outputs.items()), "predicting", console):
            try:
                photo = decode(image.read_bytes(), max_pixels=MAX_PIXELS)
                named = dataclasses.replace(rendering, name=image.name)
                answer = predict(engine, photo, named, scale=options.scale)
            except (ImageError, PhotoDoesNotFitError, OSError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                print(f"error: {image}: {reason}", file=sys.stderr)
                failed += 1
                continue
            write_bytes(output, answer)
        print(f"{len(outputs) - failed} of {len(outputs)} masks written to {options.out}")
        return 2 if failed else 0

    return run(predict_command)


if __name__ == "__main__":
    sys.exit(main())
