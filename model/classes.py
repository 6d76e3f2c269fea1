"""Classes: what the channels of a score map stand for, and the colours they are drawn in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

RGB = tuple[int, int, int]

VOID: Final = 255
"""Label of pixels that belong to no class: ignored by the loss and by every metric."""

MAX_CLASSES: Final = 255
"""Labels are 8-bit and 255 is void, so 0 to 254 can be classes."""


@dataclass(frozen=True)
class ClassInfo:
    """One class.

    Attributes:
        name: As people write it in `classes=` and read it in answers.
        color: Red, green and blue, each 0 to 255.
    """

    name: str
    color: RGB

    @property
    def hex_color(self) -> str:
        """The colour as `#rrggbb`."""
        return "#{:02x}{:02x}{:02x}".format(*self.color)


def voc_colormap(count: int) -> list[RGB]:
    """Return `count` distinct colours, those of the PASCAL VOC devkit (`VOClabelcolormap`).

    The bits of the index are dealt out to red, green and blue, from the high bit of each
    channel downwards, so neighbours differ strongly. Colour 0 is black.
    """
    colors = []
    for index in range(count):
        red = green = blue = 0
        rest = index
        for shift in range(7, -1, -1):
            red |= (rest & 1) << shift
            green |= (rest >> 1 & 1) << shift
            blue |= (rest >> 2 & 1) << shift
            rest >>= 3
        colors.append((red, green, blue))
    return colors


def named_classes(names: Sequence[str], *, background_first: bool = False) -> tuple[ClassInfo, ...]:
    """Give each name a colour of the VOC palette.

    Args:
        names: Class names in index order.
        background_first: Whether class 0 is a background, drawn black as in VOC. Otherwise
            black is skipped, since a black class could not be told from an unlit photo.
    """
    skip = 0 if background_first else 1
    colors = voc_colormap(len(names) + skip)[skip:]
    return tuple(ClassInfo(name, color) for name, color in zip(names, colors, strict=True))
