"""`python -m app.predict`: masks for image files."""

import argparse
import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

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
    UnknownClassError,
    class_ids,
    needed_extras,
    render_document,
    render_file,
)
from app.inference.room import PhotoDoesNotFitError
from model.files import write_atomically

MAX_PIXELS: Final = 2**26
"""Largest photo, in pixels: a guard against broken files that claim absurd sizes."""


def predict(
    engine: Engine,
    photo: NDArray[np.uint8],
    name: str,
    selected: tuple[int, ...] | None,
    options: argparse.Namespace,
) -> bytes:
    """Segment one photo, HxWx3, and return the bytes of its answer; `name` is told in JSON."""
    height, width = photo.shape[:2]
    network_input = resize(photo, scaled_size(height, width, options.scale))
    classes, mask_format = engine.card.classes, options.format
    extras = needed_extras(mask_format, classes, selected, scores=options.scores)
    segmentation = engine.segment([network_input], size=(height, width), extras=extras)[0]
    if not mask_format.is_json:
        return render_file(segmentation, photo, mask_format, classes, selected, name=name)
    about = {"name": engine.card.name, "version": engine.version}
    masks = render_document(
        segmentation, mask_format, classes, selected, name=name, tolerance=options.tolerance
    )
    document: dict[str, Any]
    if mask_format is MaskFormat.COCO:
        document = {"info": {"model": about}, "licenses": [], **masks}
    else:
        document = {
            **({"type": "FeatureCollection"} if mask_format is MaskFormat.POLYGONS else {}),
            "model": about,
            "image": {"name": name, "width": width, "height": height},
            **masks,
        }
    return (json.dumps(document) + "\n").encode()


def _outputs(images: Sequence[Path], out: Path, mask_format: MaskFormat) -> dict[Path, Path]:
    """Return output -> input, refusing two inputs that would overwrite each other."""
    outputs: dict[Path, Path] = {}
    for image in images:
        output = out / f"{image.stem}{mask_format.suffix}"
        if output in outputs:
            raise UsageError(f"{image} and {outputs[output]} would both be written to {output}")
        if output.resolve() == image.resolve():
            raise UsageError(f"{image} would be overwritten by its own mask; give another --out")
        outputs[output] = image
    return outputs


def _write(content: bytes, path: Path) -> None:
    path.write_bytes(content)


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
        default=1.0,
        help="scale the network sees",
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
        options.out.mkdir(parents=True, exist_ok=True)
        console = Console(stderr=True)
        failed = 0
        for output, image in follow(list(outputs.items()), "predicting", console):
            try:
                photo = decode(image.read_bytes(), max_pixels=MAX_PIXELS)
                answer = predict(engine, photo, image.name, selected, options)
            except (ImageError, PhotoDoesNotFitError, OSError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                print(f"error: {image}: {reason}", file=sys.stderr)
                failed += 1
                continue
            write_atomically(output, functools.partial(_write, answer))
        print(f"{len(outputs) - failed} of {len(outputs)} masks written to {options.out}")
        return 2 if failed else 0

    return run(predict_command)


if __name__ == "__main__":
    sys.exit(main())
