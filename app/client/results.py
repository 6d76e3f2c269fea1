"""What calls return: a segmented photo, the model, the state of the server."""

import functools
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.client.files import write_bytes
from app.client.photos import Photo, shown

VOID: Final = 255
"""Label of pixels of no class, or of one that was not asked for."""


@dataclass(frozen=True)
class ClassInfo:
    """One class of the model.

    Attributes:
        index: Its label in label maps, 0 to 254.
        name: Its name.
        color: Red, green and blue, each 0 to 255.
    """

    index: int
    name: str
    color: tuple[int, int, int]


@dataclass(frozen=True)
class Model:
    """What the server serves, as `GET /model` tells it.

    Attributes:
        name: Of the checkpoint.
        version: SHA-256 of the checkpoint file.
        classes: In index order.
        architecture: Variant, backbone and the rest that makes up the network.
        training: How it was trained, with its validation figures.
        temperature: Logits are divided by it before they become probabilities.
        scale: At which the network sees photos that no scale is given for.
        device: What it runs on, such as `cuda:0`.
        precision: Number format of its convolutions.
    """

    name: str
    version: str
    classes: tuple[ClassInfo, ...]
    architecture: Mapping[str, Any]
    training: Mapping[str, Any] | None
    temperature: float
    scale: float
    device: str
    precision: str


@dataclass(frozen=True)
class Health:
    """What the server is doing, as `GET /health` tells it.

    Attributes:
        status: starting, ready, draining or failed.
        version: Of the service.
        uptime_s: Seconds since it started.
        model: Name of the model; None until it is loaded.
        device: What it runs on; None until then.
        precision: Number format of its convolutions; None until then.
        notice: What whoever runs it should know; usually None.
        waiting: Requests admitted and not yet answered; None until there is a queue.
    """

    status: str
    version: str
    uptime_s: float
    model: str | None
    device: str | None
    precision: str | None
    notice: str | None
    waiting: int | None


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A segmented photo.

    Attributes:
        label_map: Index of each pixel's class, HxW uint8; 255 where a class is that was not asked
            for. The pixels of the server's PNG.
        classes: The model's, in index order. While servers of different models answer at one URL,
            it may hold only those that the photo has.
        scores: Mean probability of each class over its mask, by name; None unless asked for.
            A class without pixels has none.
        model: Name of the model.
        model_version: SHA-256 of its checkpoint file.
        request_id: As in the server's log.
        timing: Milliseconds of the server's stages, such as `forward`, by name.
    """

    label_map: NDArray[np.uint8]
    classes: tuple[ClassInfo, ...]
    scores: Mapping[str, float] | None
    model: str
    model_version: str
    request_id: str
    timing: Mapping[str, float]
    _selected: frozenset[int] = field(repr=False)
    _photo: bytes = field(repr=False)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as Pillow says it: those of the photo as it is shown."""
        height, width = self.label_map.shape
        return width, height

    @functools.cached_property
    def fractions(self) -> Mapping[str, float]:
        """Share of the photo's pixels, 0 to 1, of each class that was asked for, by name."""
        pixels = np.bincount(self.label_map.ravel(), minlength=VOID + 1)
        return {
            info.name: int(pixels[info.index]) / self.label_map.size
            for info in self.classes
            if info.index in self._selected
        }

    def mask(self, class_name: str | int) -> NDArray[np.bool_]:
        """Return where a class is, HxW bool; nowhere, if the photo has none of it.

        Args:
            class_name: Its name, or its index.

        Raises:
            KeyError: If the model has no such class, or it was not asked for.
        """
        for info in self.classes:
            if class_name in (info.name, info.index):
                if info.index not in self._selected:
                    raise KeyError(f"class {class_name!r} is not among those asked for")
                where: NDArray[np.bool_] = self.label_map == info.index
                return where
        known = ", ".join(f"{info.name} ({info.index})" for info in self.classes)
        raise KeyError(f"unknown class {class_name!r}; known, by name (or index): {known}")

    def to_image(self) -> Image.Image:
        """Return the label map with the classes' colours as palette; 255 is transparent."""
        image = Image.fromarray(self.label_map)
        image.putpalette(self._palette())
        if (self.label_map == VOID).any():
            image.info["transparency"] = VOID
        return image

    def overlay(self, photo: Photo | None = None, *, alpha: float = 0.5) -> Image.Image:
        """Return a photo with the colours of its classes over it, RGB.

        Args:
            photo: The one that was segmented, or another of its size; None takes that one.
            alpha: Weight of the colours, 0 (photo only) to 1 (colours only).

        Raises:
            OSError: If the photo cannot be read or decoded here: Pillow knows fewer formats than
                the server; `Client.download(photo, format="overlay")` asks the server.
            ValueError: If the photo has another size, or alpha is outside 0 to 1.
        """
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha is {alpha}, outside 0 to 1")
        image = shown(self._photo if photo is None else photo)
        if image.size != self.size:
            raise ValueError(f"the photo is {image.size} and the mask {self.size} pixels large")
        colours = Image.fromarray(self.label_map)
        colours.putpalette(self._palette())
        weights = np.where(self.label_map == VOID, 0, round(255 * alpha)).astype(np.uint8)
        image.paste(colours.convert("RGB"), mask=Image.fromarray(weights))
        return image

    def save(self, path: str | Path) -> None:
        """Write the label map as a PNG whose palette index is the class, whole or not at all.

        Raises:
            OSError: If it cannot be written.
            ValueError: If the name does not end in `.png`: other formats would change labels.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise ValueError(f"{path}: label maps are saved as .png")
        buffer = io.BytesIO()
        self.to_image().save(buffer, "PNG")
        write_bytes(path, buffer.getvalue())

    def _palette(self) -> bytes:
        colours = np.zeros((VOID + 1, 3), np.uint8)
        for info in self.classes:
            colours[info.index] = info.color
        return colours.tobytes()


def paint(size: tuple[int, int], masks: Sequence[tuple[int, Sequence[int]]]) -> NDArray[np.uint8]:
    """Paint masks into one label map, HxW; pixels of none become 255.

    Args:
        size: Height and width.
        masks: Class index and COCO run lengths of each mask: column by column, zeros first.

    Raises:
        ValueError: If lengths are below zero or do not add up to the size, or masks overlap.
    """
    height, width = size
    pixels = height * width
    starts, ends, labels = [], [], []
    for class_id, counts in masks:
        lengths = np.asarray(counts, dtype=np.int64)
        if lengths.ndim != 1 or (lengths < 0).any() or lengths.sum() != pixels:
            raise ValueError(f"the run lengths of class {class_id} do not fill {height} x {width}")
        borders = np.concatenate(([0], np.cumsum(lengths)))
        held = lengths[1::2] > 0
        starts.append(borders[1:-1:2][held])
        ends.append(borders[2::2][held])
        labels.append(np.full(ends[-1].size, class_id, np.uint8))
    if not masks:
        return np.full(size, VOID, np.uint8)
    start, end, label = (np.concatenate(parts) for parts in (starts, ends, labels))
    order = np.argsort(start)
    start, end, label = start[order], end[order], label[order]
    if (start[1:] < end[:-1]).any():
        raise ValueError("two masks hold the same pixel")
    # What lies between two runs, and after the last, is void.
    values = np.full(2 * label.size + 1, VOID, np.uint8)
    values[1::2] = label
    borders = np.empty(2 * label.size + 2, np.int64)
    borders[0], borders[-1] = 0, pixels
    borders[1:-1:2], borders[2:-1:2] = start, end
    columns = np.repeat(values, np.diff(borders))
    return np.ascontiguousarray(columns.reshape(width, height).T)
