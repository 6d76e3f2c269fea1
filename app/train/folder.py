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
from app.train.layouts import draw_split, find_photos, pair, refuse_fraction
from app.train.samples import LabelledFiles, LabelledImages


def open_folder(
    data: Path, split: str, *, val_fraction: float | None, seed: int, report: Report
) -> LabelledImages:
    """Open a split of the user's own folder.

    Args:
        data: The folder.
        split: `train`, `val` or `test`.
        val_fraction: Share for val where there is no `train/` and `val/`.
        seed: Which photos those are.
        report: Told of photos and masks that lack each other.

    Raises:
        NotSplitError: If it has to be drawn and there is no fraction.
        UsageError: If something is missing or does not fit.
    """
    classes = read_classes(data / "classes.txt")
    if (data / "images").is_dir():
        pairs = pair(find_photos(data / "images", report), data / "masks", report)
        return LabelledFiles(draw_split(pairs, split, val_fraction, seed, data), classes)
    refuse_fraction(val_fraction)
    folder = data / split
    if not folder.is_dir():
        raise UsageError(f"{data}: neither images/ nor {split}/images/ is there")
    pairs = pair(find_photos(folder / "images", report), folder / "masks", report)
    return LabelledFiles(pairs, classes)
