"""A user's folder of drawings, for tests that need files."""

from pathlib import Path

from PIL import Image

from app.train.shapes import Drawings


def draw_folder(path: Path, *, train: int, val: int, size: tuple[int, int] = (64, 96)) -> Path:
    """Write drawings as `--dataset folder` reads them and return `path`.

    Args:
        path: An empty folder.
        train: Drawings for training.
        val: For validation.
        size: (height, width) of each.
    """
    (path / "classes.txt").write_text("background\ncircle\nsquare\ntriangle\n")
    for split, count in (("train", train), ("val", val)):
        drawings = Drawings(split, size=size)
        for kind in ("images", "masks"):
            (path / split / kind).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(drawings.photo(index)).save(path / split / "images" / f"{index}.png")
            Image.fromarray(drawings.label(index)).save(path / split / "masks" / f"{index}.png")
    return path
