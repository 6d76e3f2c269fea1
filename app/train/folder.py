"""Photos and masks in folders of their own: the layout for masks drawn with any tool.

```
classes.txt        a class name a line, in index order; optionally R G B after it
images/ masks/     the same stems; each pixel of a mask is the index of its class, 255 for void
train/ val/        instead of the two, with images/ and masks/ each; test/ likewise
```
"""

from pathlib import Path

from app.errors import UsageError
from app.train.class_names import read_classes
from app.train.data_problems import Report
from app.train.layouts import Draw, draw_split, find_photos, pair
from app.train.samples import LabelledFiles, LabelledImages


def open_folder(data: Path, split: str, *, draw: Draw, report: Report) -> LabelledImages:
    """Open a split of the user's own folder.

    Args:
        data: The folder.
        split: `train`, `val` or `test`.
        draw: Which photos go to val, where there is no `train/` and `val/`.
        report: Told of photos and masks that lack each other.

    Raises:
        NotSplitError: If it has to be drawn and there is no fraction.
        UsageError: If something is missing or does not fit.
    """
    classes = read_classes(data / "classes.txt")
    if (data / "images").is_dir():
        pairs = pair(find_photos(data / "images", report), data / "masks", report)
        return LabelledFiles(draw_split(pairs, split, draw, data), classes)
    draw.refuse()
    folder = data / split
    if not folder.is_dir():
        raise UsageError(f"{data}: neither images/ nor {split}/images/ is there")
    pairs = pair(find_photos(folder / "images", report), folder / "masks", report)
    return LabelledFiles(pairs, classes)
