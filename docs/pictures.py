"""Makes the README's first picture: `python docs/pictures.py [CHECKPOINT]`.

A drawn street (anybody's photo would be somebody's), and what comes out of the default checkpoint
for it: the overlay and one mask a class, as `POST /segment` answers them.
"""

import io
import sys
from pathlib import Path
from typing import Final

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from street import draw_street

from app.inference.engine import Engine
from app.inference.masks import overlay_png
from app.paths import DEFAULT_CHECKPOINT

OUT: Final = Path(__file__).parent / "images" / "street.png"
DRAWN: Final = 0
"""Which street; every number draws another one."""


def main() -> None:
    """Write the picture."""
    engine = Engine.load(Path(sys.argv[1]) if sys.argv[1:] else DEFAULT_CHECKPOINT)
    classes = engine.card.classes
    photo = np.asarray(draw_street(DRAWN, noise=2.0))
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
