"""Drawings of shapes with exact labels: data for a first try and for tests, without any files."""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from model import ClassInfo

SHAPE_CLASSES: Final = (
    ClassInfo("background", (0, 0, 0)),
    ClassInfo("circle", (220, 60, 60)),
    ClassInfo("square", (70, 130, 230)),
    ClassInfo("triangle", (250, 200, 60)),
)
COUNTS: Final = {"train": 1024, "val": 32, "test": 32}
"""Drawings of each split; `test` is what neither training nor the choice of weights has seen."""


class Drawings:
    """Bright circles, squares and triangles on dark, noisy, shaded ground.

    Drawing i of a split is the same in every run. Colour tells shapes from
    the ground but not from each other, so a network has to learn form.

    Args:
        split: `train`, `val` or `test`; they share no drawing.
        size: (height, width) in pixels.
    """

    classes = SHAPE_CLASSES

    def __init__(self, split: str, *, size: tuple[int, int] = (64, 96)) -> None:
        self._split = list(COUNTS).index(split)
        self._size = size
        self.names = [f"{split}-{index:03d}" for index in range(COUNTS[split])]

    def __len__(self) -> int:
        """Return the number of drawings."""
        return len(self.names)

    def photo(self, index: int) -> NDArray[np.uint8]:
        """Return drawing `index`, HxWx3."""
        return self._draw(index)[0]

    def photo_size(self, index: int) -> tuple[int, int]:
        """Return the (height, width) of drawing `index`."""
        return self._size

    def label(self, index: int) -> NDArray[np.uint8]:
        """Return the labels of drawing `index`, HxW."""
        return self._draw(index)[1]

    def _draw(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        random = np.random.default_rng((self._split, index))
        height, width = self._size
        photo = Image.new("RGB", (width, height), _color(random, 20, 110))
        label = Image.new("L", (width, height), 0)
        placed: list[tuple[float, float, float]] = []
        for _ in range(random.integers(1, 4)):
            kind = int(random.integers(1, len(SHAPE_CLASSES)))
            radius = random.uniform(0.22, 0.42) * min(height, width)
            # Mostly inside the picture and clear of each other: what is left of a covered
            # shape has no form to be known by.
            x = random.uniform(radius / 2, width - radius / 2)
            y = random.uniform(radius / 2, height - radius / 2)
            if any(math.hypot(x - u, y - v) < radius + r for u, v, r in placed):
                continue
            placed.append((x, y, radius))
            outline = _outline(kind, (x, y), radius, angle=random.uniform(0, 2 * math.pi))
            ImageDraw.Draw(photo).polygon(outline, fill=_color(random, 120, 236))
            ImageDraw.Draw(label).polygon(outline, fill=kind)
        shade = np.linspace(random.uniform(-40, 40), random.uniform(-40, 40), width)
        noise = random.normal(0, 8, (height, width, 3)) + shade[:, None]
        shaded = np.clip(np.asarray(photo) + noise, 0, 255).astype(np.uint8)
        return shaded, np.array(label)


def _outline(
    kind: int, center: tuple[float, float], radius: float, angle: float
) -> list[tuple[float, float]]:
    """Return the corners of a regular polygon; a circle is one of 48 corners."""
    corners = {1: 48, 2: 4, 3: 3}[kind]
    x, y = center
    turns = [angle + 2 * math.pi * corner / corners for corner in range(corners)]
    return [(x + radius * math.cos(turn), y + radius * math.sin(turn)) for turn in turns]


def _color(random: np.random.Generator, low: int, high: int) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in random.integers(low, high, 3))
    return red, green, blue
