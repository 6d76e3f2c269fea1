"""A network that costs nothing, and the real service around it.

`python -m app.bench.null --port 9000` serves it: with real HTTP, decoding, queueing and encoding,
and no forward, so that what is measured is the service itself. Nothing else starts it: no
setting and no checkpoint can put it in place of a network.
"""

import functools
import sys
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from app.inference.engine import Engine, Segmentation
from app.inference.network import NO_EXTRAS, Extras
from app.serve.settings import Settings, SettingsError, exit_with_usage_error, load_settings
from model import FCN, Architecture, Card, named_classes

CLASSES: Final = 11
"""As many as CamVid has."""

_BLOBS: Final = (6, 8)
"""Height and width of the grid that masks are made of: segments like those of street scenes."""


class NullEngine(Engine):
    """An engine that answers with a drawn label map, the same one for every photo of a size."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        architecture = Architecture(backbone="alexnet", variant="fcn32s", head_width=1)
        classes = named_classes([f"class {index}" for index in range(CLASSES)])
        card = Card("null", architecture, classes)
        net = FCN(architecture, CLASSES)
        super().__init__(net, card, "0" * 64, device="cpu", precision="fp32")

    @property
    def most_lanes(self) -> int:
        """One: what costs nothing has nothing to gain by running side by side."""
        return 1

    def segment_batch(
        self,
        batch: Tensor,
        *,
        size: tuple[int, int] | None = None,
        extras: Extras = NO_EXTRAS,
    ) -> list[Segmentation]:
        """Return a label map of the right size for each photo; see `Engine.segment_batch`."""
        height, width = size or batch.shape[-2:]
        label_map = _label_map(height, width)
        wanted = np.array(extras.probabilities, np.uint8)[:, None, None]
        segmentation = Segmentation(
            label_map,
            np.full(CLASSES, 0.5, np.float32) if extras.scores else None,
            np.full_like(label_map, 128) if extras.confidence else None,
            np.where(label_map == wanted, 0.5, 0.05).astype(np.float16) if wanted.size else None,
        )
        return [segmentation for _ in batch]


def load_engine(checkpoint: Path | None, device: str, precision: str) -> Engine:
    """Load a checkpoint, or without one the network that costs nothing.

    Raises:
        CheckpointError: If the file is no checkpoint that can be used.
        ValueError: If the device does not exist here.
        OSError: If the file cannot be read.
    """
    if checkpoint is None:
        return NullEngine()
    return Engine.load(checkpoint, device=device, precision=precision)


@functools.lru_cache(maxsize=64)
def _label_map(height: int, width: int) -> NDArray[np.uint8]:
    """Draw smooth segments of every class, HxW; read-only, because answers share it."""
    generator = np.random.default_rng(0)
    best = np.full((height, width), -1.0, np.float32)
    labels = np.zeros((height, width), np.uint8)
    for index in range(CLASSES):
        cells = Image.fromarray(generator.random(_BLOBS, np.float32))
        score = np.asarray(cells.resize((width, height), Image.Resampling.BICUBIC))
        labels[score > best] = index
        np.maximum(best, score, out=best)
    labels.setflags(write=False)
    return labels


def _load(settings: Settings, serving: Engine | None) -> Engine:
    engine = NullEngine()
    engine.measure_caps(most_images=settings.batch_images, most_pixels=settings.batch_pixels)
    return engine


def main() -> int:
    """Serve it; takes the arguments and settings of `python -m app.serve`."""
    from app.serve.__main__ import bind, build_parser, serve
    from app.serve.logs import configure_logging

    given = {key: value for key, value in vars(build_parser().parse_args()).items() if value}
    try:
        settings = load_settings(**given)
        listener = bind(settings.host, settings.port)
    except SettingsError as error:
        exit_with_usage_error("python -m app.bench.null", error)
    configure_logging(settings.log_format)
    return serve(settings, listener, load=_load)


if __name__ == "__main__":
    sys.exit(main())
