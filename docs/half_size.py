"""Write a copy of CamVid at half size, on which recipes can be compared in minutes.

    python docs/half_size.py CAMVID HALF

A step on it costs a third of one at full size. docs/training.md has what came out.
"""

import sys
from pathlib import Path

from PIL import Image

SPLITS = ("train", "val")


def halve(source: Path, target: Path, resampling: Image.Resampling) -> None:
    """Write every image of a folder at half its height and width, as PNG."""
    target.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        with Image.open(path) as image:
            half = image.resize((image.width // 2, image.height // 2), resampling)
        half.save(target / f"{path.stem}.png")


def main() -> None:
    """Halve photos by averaging, labels by taking every other one."""
    camvid, out = map(Path, sys.argv[1:])
    for split in SPLITS:
        halve(camvid / split, out / split, Image.Resampling.BOX)
        halve(camvid / f"{split}annot", out / f"{split}annot", Image.Resampling.NEAREST)


if __name__ == "__main__":
    main()
