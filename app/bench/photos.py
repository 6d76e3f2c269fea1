"""What is sent: drawn photographs of given sizes, or a user's own files."""

import argparse
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from app.errors import UsageError
from app.inference.decode import ImageError, read_header

FILE_FORMATS: Final = {"jpeg": ("JPEG", {"quality": 85}), "png": ("PNG", {})}
"""Name of a file format -> Pillow's name and options. 85 is what cameras and resizers write."""

_MOST_PIXELS: Final = 1 << 28
_MOST_SIZES: Final = 10_000
_COARSEST: Final = 3
_NOISE: Final = 4.0
"""Standard deviation of a sensor's noise, of 255. With it 480x360 takes about 30 kB as JPEG."""

_WORD: Final = re.compile(
    r"(?P<width>\d{1,5})x(?P<height>\d{1,5})"
    r"(?:-(?P<to_width>\d{1,5})x(?P<to_height>\d{1,5})/(?P<count>\d{1,5}))?"
    r"(?::(?P<weight>\d{1,6}(?:\.\d{1,6})?))?"
)


@dataclass(frozen=True)
class Sizes:
    """Sizes to draw photos in.

    Attributes:
        low: Width and height, or their lower bounds.
        high: Their upper bounds.
        count: How many different sizes lie between the two; 1 where they are equal.
        weight: Share of the requests, against the other sizes' weights, of all `count` together.
    """

    low: tuple[int, int]
    high: tuple[int, int]
    count: int = 1
    weight: float = 1.0

    def draw(self, generator: np.random.Generator) -> list[tuple[int, int]]:
        """Return `count` different (width, height)."""
        if self.count == 1 and self.low == self.high:
            return [self.low]
        widths = self.high[0] - self.low[0] + 1
        area = widths * (self.high[1] - self.low[1] + 1)
        places = generator.choice(area, size=self.count, replace=False).tolist()
        return [(self.low[0] + place % widths, self.low[1] + place // widths) for place in places]


class Photo(NamedTuple):
    """A photo to send.

    Attributes:
        width: In pixels, as it is shown.
        height: The same.
        body: Its file.
        media_type: Of the file.
        weight: Share of the requests, against the other photos' weights.
    """

    width: int
    height: int
    body: bytes
    media_type: str
    weight: float

    @property
    def size(self) -> str:
        """`480x360`."""
        return f"{self.width}x{self.height}"


def parse_sizes(text: str) -> tuple[Sizes, ...]:
    """Parse `480x360,96x96:3,64x64-640x480/500`: width x height, each with a weight if not 1.

    The last form means 500 different sizes between the two corners.

    Raises:
        argparse.ArgumentTypeError: It does not read so.
    """
    return tuple(_parse_word(word.strip()) for word in text.split(","))


def _parse_word(word: str) -> Sizes:
    match = _WORD.fullmatch(word)
    if match is None:
        raise argparse.ArgumentTypeError(
            f"{word!r} is no size; sizes look like 480x360, 96x96:3 (three times as often) or "
            "64x64-640x480/500 (500 sizes between the two)"
        )
    low = int(match["width"]), int(match["height"])
    high = (int(match["to_width"]), int(match["to_height"])) if match["to_width"] else low
    count = int(match["count"] or 1)
    weight = float(match["weight"] or 1)
    if min(low) < 1 or high[0] < low[0] or high[1] < low[1]:
        raise argparse.ArgumentTypeError(f"{word!r}: there is no size between these")
    if high[0] * high[1] > _MOST_PIXELS:
        raise argparse.ArgumentTypeError(f"{word!r}: more than {_MOST_PIXELS} pixels")
    area = math.prod(b - a + 1 for a, b in zip(low, high, strict=True))
    if not 1 <= count <= min(area, _MOST_SIZES):
        raise argparse.ArgumentTypeError(f"{word!r}: there are 1 to {min(area, _MOST_SIZES)} sizes")
    if weight <= 0:
        raise argparse.ArgumentTypeError(f"{word!r}: a weight is more than 0")
    return Sizes(low, high, count, weight)


def drawn_photos(sizes: Sequence[Sizes], *, file_format: str, seed: int) -> list[Photo]:
    """Draw a photo of every size; equal arguments give equal files.

    Args:
        sizes: Their sizes.
        file_format: A key of `FILE_FORMATS`.
        seed: Other seeds give other sizes and photos.
    """
    pillow_format, options = FILE_FORMATS[file_format]
    generator = np.random.default_rng(seed)
    photos = []
    for entry in sizes:
        for width, height in entry.draw(generator):
            file = io.BytesIO()
            Image.fromarray(draw(width, height, generator)).save(file, pillow_format, **options)
            weight = entry.weight / entry.count
            photos.append(Photo(width, height, file.getvalue(), f"image/{file_format}", weight))
    return photos


def draw(width: int, height: int, generator: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Draw what costs a codec about as much as a photograph, HxWx3.

    Colours vary on every scale, the more the coarser (photographs have spectra of about 1/f),
    shapes have hard edges, and everything lies under a sensor's noise.
    """
    canvas = np.full((height, width, 3), 128, np.float32)
    cells = _COARSEST
    while cells < max(width, height) / 2:
        grid = generator.normal(0, 1, (max(1, cells * height // max(width, height)), cells, 3))
        colours = Image.fromarray(np.clip(128 + 40 * grid, 0, 255).astype(np.uint8))
        smooth = colours.resize((width, height), Image.Resampling.BILINEAR)
        canvas += (np.asarray(smooth, np.float32) - 128) * (1.5 * _COARSEST / cells)
        cells *= 2
    for _ in range(12):
        x, y = generator.integers(0, width), generator.integers(0, height)
        shape_width, shape_height = 1 + width // 6, 1 + height // 4
        canvas[y : y + shape_height, x : x + shape_width] += generator.normal(0, 30, 3)
    canvas += generator.normal(0, _NOISE, (height, width, 1)).astype(np.float32)
    return np.clip(canvas, 0, 255).astype(np.uint8)


def own_photos(folder: Path) -> tuple[list[Photo], int]:
    """Read every photo in a folder, and count the files that are none.

    Raises:
        UsageError: If there is no photo.
        OSError: If it cannot be read.
    """
    photos = []
    skipped = 0
    for path in sorted(folder.iterdir()):
        if not path.is_file():
            continue
        body = path.read_bytes()
        try:
            header = read_header(body, max_pixels=_MOST_PIXELS)
        except ImageError:
            skipped += 1
            continue
        media_type = f"image/{header.format.lower()}"
        photos.append(Photo(header.width, header.height, body, media_type, 1.0))
    if not photos:
        raise UsageError(f"{folder}: no photo in it")
    return photos, skipped
