"""Makes the data of docs/training.md's table on few photos: `python docs/few_photos.py CAMVID OUT`.

CamVid's val split, which the shipped checkpoint was not trained on, becomes a user's folder with
classes of its own: 40 photos, evenly spread, for training, the other 61 for val.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from app.train.datasets import open_dataset

CLASSES = {
    "road": ("road",),
    "pavement": ("pavement",),
    "vehicle": ("car", "bicyclist"),
    "person": ("pedestrian",),
    "other": ("sky", "building", "pole", "tree", "sign", "fence"),
}
TRAINING_PHOTOS = 40


def main() -> None:
    """Write the folder."""
    camvid, out = map(Path, sys.argv[1:])
    dataset = open_dataset("camvid", camvid, "val")
    table = np.full(256, 255, np.uint8)
    for index, names in enumerate(CLASSES.values()):
        for position, info in enumerate(dataset.classes):
            if info.name in names:
                table[position] = index
    train = set(np.linspace(0, len(dataset) - 1, TRAINING_PHOTOS).round().astype(int).tolist())
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (out / split / kind).mkdir(parents=True)
    (out / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    for index, name in enumerate(dataset.names):
        folder = out / ("train" if index in train else "val")
        shutil.copy(camvid / "val" / name, folder / "images" / name)
        label = Image.fromarray(table[dataset.label(index)])
        label.save(folder / "masks" / f"{Path(name).stem}.png")


if __name__ == "__main__":
    main()
