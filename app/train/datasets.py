"""Labelled images: CamVid, VOC, SBD, the user's own in four layouts, and drawings without files.

Every dataset yields photos and label maps as they are; `app.train.transforms` augments them.
"""

from pathlib import Path
from typing import Final

from app.errors import UsageError
from app.train.class_names import read_classes
from app.train.coco import open_coco
from app.train.colour_masks import open_labelmap
from app.train.data_problems import Report, refuse
from app.train.folder import open_folder
from app.train.layouts import Draw, find_photos, pair
from app.train.samples import LabelledFiles, LabelledImages, Sample, class_pixels, load_sample
from app.train.shapes import Drawings
from app.train.voc import SBD_SPLITS, VOC_SPLITS, sbd_pairs, voc_pairs
from model import ClassInfo
from model.class_lists import VOC_CLASSES

__all__ = [
    "CAMVID_CLASSES",
    "DATASETS",
    "SPLITS",
    "SPLITS_OF",
    "LabelledFiles",
    "LabelledImages",
    "Sample",
    "class_pixels",
    "load_sample",
    "open_dataset",
    "read_classes",
]

SPLITS_OF: Final = {
    "camvid": ("train", "val", "test"),
    "coco": ("train", "val", "test"),
    "folder": ("train", "val", "test"),
    "labelmap": ("train", "val", "test"),
    "sbd": SBD_SPLITS,
    "shapes": ("train", "val", "test"),
    "voc": VOC_SPLITS,
}
"""The splits that each dataset has."""
FETCHED: Final = {"sbd": sbd_pairs, "voc": voc_pairs}
"""Datasets that `--download` fetches, and what finds the files of a split."""
OWN: Final = {"coco": open_coco, "folder": open_folder, "labelmap": open_labelmap}
"""Layouts of the user's own images, which need not be split yet, and what opens them."""
DATASETS: Final = tuple(SPLITS_OF)
SPLITS: Final = tuple(dict.fromkeys(split for known in SPLITS_OF.values() for split in known))
"""The splits that any dataset has."""

CAMVID_CLASSES: Final = (
    ClassInfo("sky", (128, 128, 128)),
    ClassInfo("building", (128, 0, 0)),
    ClassInfo("pole", (192, 192, 128)),
    ClassInfo("road", (128, 64, 128)),
    ClassInfo("pavement", (0, 0, 192)),
    ClassInfo("tree", (128, 128, 0)),
    ClassInfo("sign", (192, 128, 128)),
    ClassInfo("fence", (64, 64, 128)),
    ClassInfo("car", (64, 0, 128)),
    ClassInfo("pedestrian", (64, 64, 0)),
    ClassInfo("bicyclist", (0, 128, 192)),
)
CAMVID_VOID: Final = 11
"""Void in CamVid's label files, in the 11-class layout of the SegNet tutorial."""


def open_dataset(
    name: str,
    data: Path | None,
    split: str,
    *,
    val_fraction: float | None = None,
    seed: int = 0,
    group_by: str | None = None,
    download: bool = False,
    report: Report = refuse,
) -> LabelledImages:
    """Open one split of a dataset.

    Args:
        name: One of `DATASETS`.
        data: Folder that holds it; `shapes` needs none.
        split: One of the dataset's own, `SPLITS_OF[name]`.
        val_fraction: For `coco`, `folder` and `labelmap` that are not split into train and val:
            share of the photos that is kept for val.
        seed: Which photos those are.
        group_by: What photos of a group have in common; see `layouts.Draw`.
        download: For `voc` and `sbd`: fetch into `data` what is not there.
        report: Told of each file that cannot be used or is not used. By default errors are
            raised; if it returns, the file is left out.

    Raises:
        UsageError: If something is missing or does not fit; the message says what and where.
    """
    if split not in SPLITS_OF[name]:
        raise UsageError(f"{name} has no split {split}: it has {', '.join(SPLITS_OF[name])}")
    if download and name not in FETCHED:
        raise UsageError(f"--download is for {' and '.join(FETCHED)}, not for {name}")
    draw = Draw(val_fraction, seed, group_by)
    if name not in OWN:
        draw.refuse()
    if name == "shapes":
        return Drawings(split)
    if data is None:
        raise UsageError(f"--dataset {name} needs --data DIR")
    if name in FETCHED:
        return LabelledFiles(FETCHED[name](data, split, download=download), VOC_CLASSES)
    if not data.is_dir():
        raise UsageError(f"{data}: no such folder")
    if name == "camvid":
        pairs = pair(find_photos(data / split, report), data / f"{split}annot", report)
        return LabelledFiles(pairs, CAMVID_CLASSES, void=CAMVID_VOID)
    return OWN[name](data, split, draw=draw, report=report)
