"""A street, drawn: enough like one that the default checkpoint finds road, sky and cars in it."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE = (480, 360)


def draw_street(seed: int = 0, *, size: tuple[int, int] = SIZE, noise: float = 5.0) -> Image.Image:
    """Draw a street as seen from a car; every seed draws another one.

    Args:
        seed: Of the random numbers.
        size: (width, height) in pixels.
        noise: Standard deviation of a sensor's noise, of 255.
    """
    random = np.random.default_rng(seed)
    # Twice as large and then reduced: no edge is sharper than a lens makes it.
    width, height = 960, 720
    image = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(image)
    horizon, middle = 330, int(480 + random.integers(-60, 60))
    for y in range(horizon + 20):
        share = y / horizon
        draw.line([(0, y), (width, y)], (int(226 + 16 * share), int(232 + 10 * share), 240))
    _houses(draw, random, 0, middle - 130, horizon)
    _houses(draw, random, middle + 130, width, horizon)
    draw.rectangle((0, horizon, width, height), (164, 154, 148))
    draw.polygon(
        [(middle - 42, horizon), (middle + 42, horizon), (width + 40, height), (-40, height)],
        (92, 92, 94),
    )
    for near, far in ((40, 75), (110, 170), (230, 330)):
        wide = near / 22
        draw.polygon(
            [
                (middle - wide, horizon + near),
                (middle + wide, horizon + near),
                (middle + 2 * wide, horizon + far),
                (middle - 2 * wide, horizon + far),
            ],
            (205, 204, 198),
        )
    for side in (-1, 1):
        for distance in (1.0, 0.55):
            x = middle + side * (140 + 230 * distance)
            _tree(draw, random, x, horizon + 130 * distance, 150 * distance)
    _car(draw, (46, 50, 58), middle - 190, horizon + 150, 1.25)
    _car(draw, (30, 36, 52), middle + 120, horizon + 70, 0.7)
    _walker(draw, middle + 330, horizon + 170, 1.1)
    image = image.filter(ImageFilter.GaussianBlur(1.4)).resize(size, Image.Resampling.LANCZOS)
    grain = random.normal(0, noise, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))


def _houses(
    draw: ImageDraw.ImageDraw, random: np.random.Generator, left: float, right: float, base: int
) -> None:
    x = left
    while x < right:
        wide = min(int(random.integers(110, 190)), right - x)
        top = int(random.integers(30, 150))
        brick = int(random.integers(110, 175))
        draw.rectangle((x, top, x + wide, base + 6), (brick, brick - 22, brick - 42))
        draw.polygon(
            [(x, top), (x + wide, top), (x + wide - 14, top - 34), (x + 14, top - 34)],
            (92, 70, 64),
        )
        for row in range(top + 22, base - 40, 62):
            for column in range(int(x) + 16, int(x + wide) - 24, 44):
                draw.rectangle((column, row, column + 22, row + 36), (74, 66, 62), (96, 84, 74))
        x += wide


def _tree(
    draw: ImageDraw.ImageDraw, random: np.random.Generator, x: float, base: float, size: float
) -> None:
    draw.rectangle((x - size / 12, base - size, x + size / 12, base), (62, 54, 44))
    for _ in range(160):
        dx, dy = random.normal(0, size / 2.6, 2)
        green = int(random.integers(52, 108))
        radius = size / 8
        at = (x + dx - radius, base - 1.45 * size + dy * 0.8 - radius)
        draw.ellipse((*at, at[0] + 2 * radius, at[1] + 2 * radius), (green - 24, green, green - 34))


def _car(
    draw: ImageDraw.ImageDraw, color: tuple[int, int, int], x: float, base: float, size: float
) -> None:
    wide, high = 150 * size, 62 * size
    draw.ellipse((x - 6, base - 8, x + wide + 6, base + 10), (58, 58, 62))
    draw.rounded_rectangle((x, base - high, x + wide, base), 16 * size, color)
    draw.polygon(
        [
            (x + wide * 0.12, base - high + 4),
            (x + wide * 0.24, base - high * 1.75),
            (x + wide * 0.76, base - high * 1.75),
            (x + wide * 0.88, base - high + 4),
        ],
        color,
    )
    draw.polygon(
        [
            (x + wide * 0.2, base - high + 2),
            (x + wide * 0.29, base - high * 1.62),
            (x + wide * 0.71, base - high * 1.62),
            (x + wide * 0.8, base - high + 2),
        ],
        (52, 62, 74),
    )
    for left in (0.06, 0.74):
        lamp = (x + wide * left, base - high * 0.68, x + wide * (left + 0.2), base - high * 0.4)
        draw.rounded_rectangle(lamp, 5, (150, 44, 40))
        draw.rectangle((lamp[0], base - 6, lamp[2], base + 12 * size), (24, 24, 26))
    draw.rectangle(
        (x + wide * 0.4, base - high * 0.4, x + wide * 0.6, base - high * 0.2), (190, 186, 150)
    )


def _walker(draw: ImageDraw.ImageDraw, x: float, base: float, size: float) -> None:
    for leg in (-9, 3):
        draw.rectangle((x + leg * size, base - 58 * size, x + (leg + 8) * size, base), (40, 44, 60))
    body = (x - 15 * size, base - 112 * size, x + 15 * size, base - 52 * size)
    draw.rounded_rectangle(body, 9 * size, (60, 88, 70))
    draw.ellipse(
        (x - 9 * size, base - 134 * size, x + 9 * size, base - 112 * size), (190, 148, 126)
    )
