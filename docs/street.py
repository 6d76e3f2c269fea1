"""Makes the README's first picture: `python docs/street.py [CHECKPOINT]`.

A street drawn here (anybody's photo would be somebody's), and what comes out of the default
checkpoint for it: the overlay and one mask a class, as `POST /segment` answers them.
"""

import io
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from app.inference.engine import Engine
from app.inference.masks import overlay_png
from app.paths import DEFAULT_CHECKPOINT

OUT: Final = Path(__file__).parent / "images" / "street.png"

WIDTH: Final = 480
HEIGHT: Final = 360
FINE: Final = 3
"""Drawn this much larger, then shrunk: edges come out as soft as a camera's."""

VANISHING: Final = (262, 152)

Colour = tuple[int, int, int]
Point = tuple[float, float]


class Street:
    """A canvas of a photo's size with the few brushes that a street needs."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.image = Image.new("RGB", (WIDTH * FINE, HEIGHT * FINE))
        self.draw = ImageDraw.Draw(self.image)

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        """Fill a polygon; corners in photo pixels."""
        self.draw.polygon([(x * FINE, y * FINE) for x, y in points], fill=colour)

    def ellipse(self, x: float, y: float, a: float, b: float, colour: Colour) -> None:
        """Fill an ellipse around (x, y) with half axes a and b."""
        box = [(x - a) * FINE, (y - b) * FINE, (x + a) * FINE, (y + b) * FINE]
        self.draw.ellipse(box, fill=colour)

    def line(self, start: Point, end: Point, width: float, colour: Colour) -> None:
        """Draw a line."""
        points = [(start[0] * FINE, start[1] * FINE), (end[0] * FINE, end[1] * FINE)]
        self.draw.line(points, fill=colour, width=max(1, round(width * FINE)))

    def sky(self) -> None:
        """Bright, paler towards the horizon."""
        self.polygon([(0, 0), (WIDTH, 0), (WIDTH, HEIGHT), (0, HEIGHT)], (96, 88, 80))
        for row in range(VANISHING[1] + 20):
            share = row / VANISHING[1]
            red, green, blue = (
                round(a + (b - a) * share) for a, b in ((150, 226), (200, 240), (245, 250))
            )
            self.line((0, row), (WIDTH, row), 2, (red, green, blue))

    def ground(self) -> None:
        """Road, its marks, and a pavement on either side."""
        x, y = VANISHING
        self.polygon(
            [(0, HEIGHT), (0, 240), (x - 6, y), (x + 6, y), (WIDTH, 238), (WIDTH, HEIGHT)],
            (58, 59, 68),
        )
        self.polygon(
            [(0, 255), (x - 12, y + 4), (x - 5, y + 4), (58, HEIGHT), (0, HEIGHT)], (112, 108, 106)
        )
        self.polygon([(WIDTH, 246), (x + 12, y + 3), (x + 7, y + 3), (WIDTH, 292)], (118, 114, 112))
        for joint in np.geomspace(6, 110, 12):  # rows of slabs
            foot = y + 2 + joint * 1.9
            self.line((x - 6 - joint * 3.1, foot), (x - 5 - joint * 0.98, foot), 0.6, (84, 81, 80))
        self.line((x - 5, y + 4), (60, HEIGHT), 3.0, (134, 130, 126))
        self.line((x - 4.5, y + 4), (65, HEIGHT), 1.5, (40, 40, 42))
        self.line((x - 4, y + 5), (74, HEIGHT), 1.2, (150, 140, 92))
        for near, far in ((1.0, 0.82), (0.66, 0.52), (0.4, 0.33), (0.26, 0.22)):
            a, b = ((x + 70 * s, y + 208 * s) for s in (near, far))
            self.line(a, b, 3.5 * near, (178, 178, 180))

    def houses(self) -> None:
        """A row of fronts on the left that runs into the distance."""
        edges = (0, 78, 128, 166, 194, 216, 232, 246)
        tops = (-40, 4, -8, 30, 62, 84, 104)
        walls = ((168, 160, 150), (120, 98, 84), (176, 168, 152), (112, 86, 74))
        for house, top in enumerate(tops):
            left, right = edges[house], edges[house + 1]
            self.front(left, right, top, walls[house % len(walls)])
        behind = [(244, 120), (262, 126), (282, 124), (300, 130), (300, 156), (244, 156)]
        self.polygon(behind, (142, 130, 120))

    def front(self, left: float, right: float, top: float, wall: Colour) -> None:
        """One house with its shop and two floors of windows; `top` is the row of its left roof."""
        x, y = VANISHING

        def rectangle(start: float, end: float, low: float, high: float, colour: Colour) -> None:
            """Shares of the front's width and height; its edges run to the vanishing point."""
            corners = []
            for along, up in ((start, low), (end, low), (end, high), (start, high)):
                column = left + (right - left) * along
                foot = y + (262 - y) * (x - column) / x
                roof = y - (y - top) * (x - column) / (x - left)
                corners.append((column, foot + (roof - foot) * up))
            self.polygon(corners, colour)

        rectangle(0, 1, 0, 1, wall)
        columns = max(2, round((right - left) / 16))
        for start in np.arange(columns) / columns:
            for low, high, margin, tone in (
                (0.1, 0.36, 0, 18),
                (0.5, 0.68, 0.28, 30),
                (0.78, 0.92, 0.28, 30),
            ):
                shade = int(self.random.integers(tone, 2 * tone))
                end = start + (1 - margin) / columns
                rectangle(start + margin / columns, end, low, high, (shade, shade, shade + 6))
        red, green, blue = (int(value) for value in self.random.integers(40, 110, 3))
        rectangle(0, 1, 0.37, 0.45, (red, green, blue))

    def tree(self, x: float, y: float, length: float, angle: float, width: float) -> None:
        """Branch, and branch again."""
        end = x + length * math.cos(angle), y - length * math.sin(angle)
        tone = int(self.random.integers(58, 96))
        self.line((x, y), end, width, (tone + 14, tone, tone - 12))
        if length > 2.6:
            for _ in range(3 if length < 16 else 2):
                turn = self.random.normal(0, 0.5)
                self.tree(
                    *end, length * self.random.uniform(0.62, 0.84), angle + turn, width * 0.66
                )

    def wall_and_trees(self) -> None:
        """What lines the right side: trees behind a low wall."""
        for x, size in (
            (290, 13),
            (306, 16),
            (326, 20),
            (352, 24),
            (384, 29),
            (424, 34),
            (470, 38),
        ):
            foot = 160 + (x - 290) * 0.24
            for _ in range(2):
                self.tree(x, foot, size, math.pi / 2 + self.random.normal(0, 0.08), size / 7)
        x, y = VANISHING
        self.polygon([(x + 14, y - 3), (WIDTH, 196), (WIDTH, 248), (x + 14, y + 4)], (122, 112, 98))
        self.polygon(
            [(x + 14, y - 3), (WIDTH, 192), (WIDTH, 199), (x + 14, y - 2)], (150, 140, 124)
        )

    def car(self, x: float, y: float, size: float, paint: Colour) -> None:
        """Comes towards us; (x, y) is the middle of its foot, `size` half of its width."""

        def shape(half: list[Point], colour: Colour) -> None:
            """A polygon and its mirror image; corners of the right half, in half widths."""
            corners = half + [(-u, v) for u, v in reversed(half)]
            self.polygon([(x + u * size, y - v * size) for u, v in corners], colour)

        def pair(u: float, v: float, a: float, b: float, colour: Colour) -> None:
            for side in (-u, u):
                self.ellipse(x + side * size, y - v * size, a * size, b * size, colour)

        self.ellipse(x, y, size * 1.08, size * 0.12, (30, 30, 34))
        pair(0.8, 0.12, 0.17, 0.2, (18, 18, 20))  # wheels
        shape([(1, 0.15), (1, 0.62), (0.84, 0.8)], paint)
        red, green, blue = paint
        shape([(0.82, 0.78), (0.62, 1.3)], (red // 3, green // 3, blue // 3))
        shape([(0.7, 0.82), (0.56, 1.22)], (70, 84, 96))  # windscreen
        pair(0.68, 0.56, 0.15, 0.12, (232, 232, 222))  # lights
        shape([(0.4, 0.5), (0.36, 0.34)], (24, 24, 28))
        shape([(0.24, 0.3), (0.24, 0.2)], (220, 220, 210))  # number plate

    def cyclist(self, x: float, y: float, s: float, jacket: Colour) -> None:
        """Seen from behind; (x, y) is where the wheel stands, s the height."""
        self.ellipse(x, y - 0.2 * s, 0.035 * s, 0.2 * s, (20, 20, 22))
        for side in (-1, 1):
            self.polygon(
                [
                    (x + side * 0.02 * s, y - 0.52 * s),
                    (x + side * 0.13 * s, y - 0.5 * s),
                    (x + side * 0.1 * s, y - 0.12 * s),
                    (x + side * 0.03 * s, y - 0.12 * s),
                ],
                (28, 28, 38),
            )
            self.line(
                (x + side * 0.12 * s, y - 0.76 * s),
                (x + side * 0.17 * s, y - 0.5 * s),
                0.06 * s,
                jacket,
            )
        self.ellipse(x, y - 0.66 * s, 0.14 * s, 0.2 * s, jacket)
        self.ellipse(x, y - 0.92 * s, 0.065 * s, 0.08 * s, (34, 30, 32))

    def lamp(self, x: float, foot: float, top: float) -> None:
        """A pole with a traffic light."""
        self.line((x, foot), (x, top), 2.4, (86, 88, 90))
        self.polygon(
            [(x - 5, top), (x + 5, top), (x + 5, top + 24), (x - 5, top + 24)], (16, 16, 18)
        )
        self.ellipse(x, top + 19, 3, 3, (60, 230, 130))

    def photo(self) -> NDArray[np.uint8]:
        """Return what a camera would make of it, HEIGHT x WIDTH x 3."""
        small = self.image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
        soft = np.asarray(small.filter(ImageFilter.GaussianBlur(0.6)), np.float32)
        grain = self.random.normal(0, 1, (HEIGHT, WIDTH, 1)) * 2.5
        coarse = Image.fromarray(self.random.integers(0, 256, (90, 120), dtype=np.uint8))
        stains = (
            np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.float32) - 128
        )
        shaded = soft + grain + 0.02 * stains[..., None]
        return np.clip(shaded, 0, 255).astype(np.uint8)


def street(seed: int = 4) -> NDArray[np.uint8]:
    """Draw the street: HEIGHT x WIDTH x 3, RGB."""
    scene = Street(seed)
    scene.sky()
    scene.ground()
    scene.wall_and_trees()
    scene.houses()
    scene.lamp(196, 236, 112)
    scene.car(298, 178, 15, (150, 156, 164))
    scene.car(394, 270, 52, (52, 60, 92))
    scene.cyclist(232, 226, 66, (40, 40, 46))
    scene.cyclist(250, 206, 50, (120, 112, 110))
    return scene.photo()


def main() -> None:
    """Write the picture."""
    engine = Engine.load(Path(sys.argv[1]) if sys.argv[1:] else DEFAULT_CHECKPOINT)
    classes = engine.card.classes
    photo = street()
    (segmentation,) = engine.segment([photo])
    label_map = segmentation.label_map
    overlay = np.asarray(Image.open(io.BytesIO(overlay_png(photo, label_map, classes))))
    shown = [
        i
        for i in np.argsort(-np.bincount(label_map.ravel(), minlength=len(classes)))
        if (label_map == i).any()
    ]
    figure = plt.figure(figsize=(12, 4.7), dpi=100)
    for place, picture, title in (
        (0.005, photo, "a photo goes in"),
        (0.34, overlay, "format=overlay"),
    ):
        axes = figure.add_axes((place, 0.03, 0.328, 0.87))
        axes.imshow(picture)
        axes.set_title(title, fontsize=12)
        axes.axis("off")
    figure.text(0.84, 0.925, "format=zip: a mask for each class", ha="center", fontsize=12)
    for position, class_id in enumerate(shown[:9]):
        axes = figure.add_axes(
            (0.682 + 0.106 * (position % 3), 0.64 - 0.29 * (position // 3), 0.1, 0.24)
        )
        axes.imshow(label_map == class_id, cmap="gray", vmin=0, vmax=1)
        red, green, blue = (value / 255 for value in classes[class_id].color)
        axes.set_xlabel(
            f"{classes[class_id].name}, {np.mean(label_map == class_id):.1%}", fontsize=8
        )
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set(color=(red, green, blue), linewidth=2.5)
    figure.savefig(OUT)


if __name__ == "__main__":
    main()
