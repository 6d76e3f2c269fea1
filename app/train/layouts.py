"""How people lay out their own images: photos beside masks, and who is in train and val."""

import hashlib
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from app.errors import UsageError
from app.train.data_problems import PairingError, Report, UnusedFileWarning

PHOTO_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")

_SPLIT_NAMES: Final = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
"""What tools call the splits: COCO `val2017`, CVAT `Validation`, Roboflow `valid`."""

SampleT = TypeVar("SampleT", bound=tuple[Any, ...])


class NotSplitError(UsageError):
    """The data are not split into train and val, and no share for val was given."""


def find_photos(folder: Path, report: Report, *, nested: bool = False) -> dict[str, Path]:
    """Return the photos in a folder by stem, sorted.

    Args:
        folder: Where they are.
        report: Told of photos that share a stem; only the first of them is kept.
        nested: Look into subfolders too; their names are then part of the stem, as in `a/1`.

    Raises:
        UsageError: If there is no such folder or no photo in it.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    photos: dict[str, Path] = {}
    for path in sorted(folder.rglob("*") if nested else folder.iterdir()):
        if path.suffix.lower() not in PHOTO_SUFFIXES or path.name.startswith("."):
            continue
        stem = stem_in(folder, path)
        if stem in photos:
            report(PairingError(f"{path}: {photos[stem].name} has the same stem"))
        else:
            photos[stem] = path
    if not photos:
        raise UsageError(f"{folder}: no photos ({', '.join(PHOTO_SUFFIXES)})")
    return photos


def stem_in(folder: Path, path: Path) -> str:
    """Return a file's path inside a folder, without its suffix and with slashes."""
    return path.relative_to(folder).with_suffix("").as_posix()


def pair(photos: Mapping[str, Path], masks: Path, report: Report) -> list[tuple[Path, Path]]:
    """Return photos with the masks of the same stem.

    Args:
        photos: By stem.
        masks: Folder of the masks, PNG.
        report: Told of photos without a mask, which are left out, and of masks without a photo.
    """
    pairs = []
    for stem, photo in photos.items():
        mask = masks / f"{stem}.png"
        if mask.is_file():
            pairs.append((photo, mask))
        else:
            report(PairingError(f"{photo}: its label map {mask} is missing"))
    report_unused_masks(photos, masks, report)
    return pairs


def report_unused_masks(stems: Collection[str], masks: Path, report: Report) -> None:
    """Report the masks in a folder whose stem no photo in use has."""
    for mask in sorted(masks.rglob("*.png")):
        if stem_in(masks, mask) not in stems:
            report(UnusedFileWarning(f"{mask}: no photo belongs to this label map"))


def files_by_split(named: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Return the files that are named after a split: `val2017`, `Validation` and `val` are val.

    Args:
        named: What a file is called, without what all such names begin or end with, and the file.

    Raises:
        UsageError: If two are for one split.
    """
    files: dict[str, Path] = {}
    for name, path in named:
        split = _SPLIT_NAMES.get(re.sub(r"\d+$", "", name).lower())
        if split in files:
            raise UsageError(f"{files[split]} and {path} are both for {split}: keep one")
        if split:
            files[split] = path
    return files


def has_split(files: Collection[str], split: str, data: Path) -> bool:
    """Return whether there is a file for a split, or train and val are still to be drawn.

    Args:
        files: The splits that files are there for. Train and val split the data if both are.
        split: The one that is asked for.
        data: Folder that the message names.

    Raises:
        UsageError: If the data are split otherwise.
    """
    if split in files and (split == "test" or {"train", "val"} <= set(files)):
        return True
    if {"train", "val"} <= set(files):
        raise UsageError(f"{data} has no {split} split: it has {', '.join(files)}")
    return False


@dataclass(frozen=True)
class Draw:
    """How data that are not split into train and val are split.

    Attributes:
        fraction: Share of the photos for val; None if nothing is to be drawn. Either split gets one
            group at least; with 0, train has all.
        seed: Which photos those are; the same for every run.
        group_by: A regular expression. Photos in whose names it finds the same stay together, names
            being paths inside the folder that holds them all, without suffix; None lets each go
            by itself.
    """

    fraction: float | None = None
    seed: int = 0
    group_by: str | None = None

    def refuse(self) -> None:
        """Refuse to draw where the data are split already.

        Raises:
            UsageError: If there is a fraction.
        """
        if self.fraction is not None:
            raise UsageError("--val-fraction is for a folder that is not split into train and val")


def draw_split(samples: Sequence[SampleT], split: str, draw: Draw, data: Path) -> list[SampleT]:
    """Return the part of unsplit data that a split gets: at random, in the order given.

    A hash of its name, or of its group's, decides where a photo goes. So when photos are added,
    those that were there stay where they were, but for the few at the border between the two: a
    network that is trained on from an older one would otherwise be validated on photos that it
    knows.

    Args:
        samples: All of them; the first item of each is its photo's path.
        split: `train` or `val`.
        draw: Which of them go to val.
        data: Folder that holds them.

    Raises:
        NotSplitError: If there is no fraction.
        UsageError: If there is another split, fewer than two photos, all of one group, or one of
            none.
    """
    if split == "test":
        raise UsageError(f"{data} has no test split: only train and val are drawn from its photos")
    if draw.fraction is None:
        raise NotSplitError(
            f"{data} is not split into train and val: give the share for val, as in "
            "--val-fraction 0.2"
        )
    if draw.fraction == 0 and split == "train":
        return list(samples)
    if len(samples) < 2:
        raise UsageError(f"{data}: two labelled photos are the least that can be split")
    groups = _groups([sample[0] for sample in samples], draw.group_by)
    if len(groups) < 2:
        ((name, _),) = groups
        raise UsageError(f"--group-by {draw.group_by}: all photos are of the group {name}")

    def rank(group: tuple[str, list[int]]) -> bytes:
        return hashlib.blake2b(b"%d/%s" % (draw.seed, os.fsencode(group[0]))).digest()

    wanted = max(1, round(draw.fraction * len(samples)))
    val: list[int] = []
    for _, indices in sorted(groups, key=rank)[:-1]:
        if len(val) < wanted:
            val += indices
    chosen = val if split == "val" else set(range(len(samples))).difference(val)
    return [samples[index] for index in sorted(chosen)]


def _groups(photos: Sequence[Path], group_by: str | None) -> list[tuple[str, list[int]]]:
    """Return the photos that stay together, by index, and what decides where they go.

    Raises:
        UsageError: If a photo is of no group.
    """
    if group_by is None:
        return [(photo.stem, [index]) for index, photo in enumerate(photos)]
    folder = Path(os.path.commonpath([photo.parent for photo in photos]))
    groups: dict[str, list[int]] = {}
    for index, photo in enumerate(photos):
        name = stem_in(folder, photo)
        found = re.search(group_by, name)
        if not found:
            raise UsageError(f"--group-by {group_by} finds nothing in {name}")
        groups.setdefault(found[0], []).append(index)
    return list(groups.items())
