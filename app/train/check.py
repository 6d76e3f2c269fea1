"""`python -m app.train --check`: look at all the data and say what is wrong, without training."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.cli import follow
from app.errors import UsageError
from app.train.data_problems import (
    DataError,
    DataWarning,
    MissingClassWarning,
    NearEmptyWarning,
    NothingLabelledError,
    OneClassError,
    Problems,
    RepeatedPhotoWarning,
    Report,
    SharedPhotoWarning,
)
from app.train.loss import balanced_weights
from app.train.samples import LabelledImages, check_sizes, place
from model import VOID

NEARLY_NOTHING: Final = 1e-3
"""Share of its pixels below which a label map is taken for one that was forgotten."""


@dataclass(frozen=True)
class Census:
    """What a split holds.

    Attributes:
        pixels: Of each class, C values.
        photos: In which each class is seen, C values.
        void: Pixels of no class.
        readable: Photos that were read whole.
    """

    pixels: NDArray[np.int64]
    photos: NDArray[np.int64]
    void: int
    readable: int


def check(
    open_splits: Callable[[Report], Mapping[str, LabelledImages]],
    class_weighting: float,
    console: Console,
) -> int:
    """Print what the splits hold and what is wrong with them.

    Args:
        open_splits: Opens `train` and `val` and goes on after what it reports.
        class_weighting: Of the recipe, for the class weights.
        console: Where to print.

    Returns:
        The command's exit code: 0, with warnings or without, or 2 if there is an error.

    Raises:
        UsageError: If the data cannot even be opened; what was found until then is printed.
    """
    problems = Problems()
    try:
        splits = open_splits(problems.add)
    except UsageError:
        _print(problems, console)
        raise
    seen: dict[bytes, tuple[str, str]] = {}
    census = {
        split: _look(split, dataset, seen, problems, console) for split, dataset in splits.items()
    }
    names = [info.name for info in splits["train"].classes]
    for split, counts in census.items():
        for problem in class_problems(split, names, counts.pixels):
            problems.add(problem)
    weights = {"train": balanced_weights(census["train"].pixels, class_weighting).tolist()}
    for split, counts in census.items():
        title = f"{split}: {counts.readable} photos"
        console.print(_table(title, names, counts, weights.get(split)))
    _print(problems, console)
    errors, warnings = problems.count(DataError), problems.count(DataWarning)
    _say(f"errors: {errors}, warnings: {warnings}", console)
    return 2 if errors else 0


def class_problems(
    split: str, names: Sequence[str], pixels: NDArray[np.int64]
) -> list[DataError | DataWarning]:
    """Return what is wrong with the labels of a split as a whole.

    Args:
        split: `train` or `val`.
        names: Of the classes.
        pixels: Of each class, C values.
    """
    seen = np.flatnonzero(pixels)
    if not seen.size:
        text = f"no pixel of the {split} split is labelled: everything is void"
        return [NothingLabelledError(text)]
    if split == "train" and seen.size == 1 < len(names):
        text = (
            f"all labelled pixels of train are {names[seen[0]]}: there is nothing to tell apart; "
            "in masks of class indices 255 means void, not white"
        )
        return [OneClassError(text)]
    missing = [name for name, count in zip(names, pixels, strict=True) if not count]
    if not missing:
        return []
    it, is_ = ("it", "is") if len(missing) == 1 else ("they", "are")
    consequence = {
        "train": f"{it} cannot be learned",
        "val": f"nothing will tell how well {it} {is_} learned",
    }
    text = f"{split} has no pixel of {', '.join(missing)}: {consequence[split]}"
    return [MissingClassWarning(text)]


def _look(
    split: str,
    dataset: LabelledImages,
    seen: dict[bytes, tuple[str, str]],
    problems: Problems,
    console: Console,
) -> Census:
    """Read every sample whole.

    Args:
        split: `train` or `val`.
        dataset: The split.
        seen: Where the photos are that were read before, by a hash of their pixels. It grows.
        problems: What is found goes here.
        console: Shows the progress.
    """
    pixels, photos = np.zeros((2, len(dataset.classes)), np.int64)
    names = [info.name for info in dataset.classes]
    void = readable = 0
    for index in follow(range(len(dataset)), f"reading {split}", console):
        where = place(dataset, index)
        photo = _attempt(dataset.photo, index, problems)
        if photo is not None:
            readable += 1
            _compare(photo, (split, where), seen, problems)
        label = _attempt(dataset.label, index, problems)
        if label is None:
            continue
        if photo is not None:
            try:
                check_sizes(dataset, index, photo.shape[:2], label.shape)
            except DataError as error:
                problems.add(error)
        counts = np.bincount(label.ravel(), minlength=256)
        own = counts[: len(pixels)]
        if emptiness := _emptiness(own, label.size, names):
            problems.add(NearEmptyWarning(f"{where}: {emptiness}"))
        pixels += own
        photos += own > 0
        void += int(counts[VOID])
    return Census(pixels, photos, void, readable)


def _attempt(
    read: Callable[[int], NDArray[np.uint8]], index: int, problems: Problems
) -> NDArray[np.uint8] | None:
    try:
        return read(index)
    except DataError as error:
        problems.add(error)
        return None


def _compare(
    photo: NDArray[np.uint8],
    here: tuple[str, str],
    seen: dict[bytes, tuple[str, str]],
    problems: Problems,
) -> None:
    """Look whether a photo was seen before, under whatever name and in whatever lossless format.

    Args:
        photo: HxWx3.
        here: Its split and place.
        seen: Splits and places of the others, by hash.
        problems: What is found goes here.
    """
    digest = hashlib.blake2b(repr(photo.shape).encode())
    digest.update(photo.data)
    first = seen.setdefault(digest.digest(), here)
    if first is here:
        return
    text = f"{here[1]} ({here[0]}) is the same photo as {first[1]} ({first[0]})"
    shared = first[0] != here[0]
    problems.add(SharedPhotoWarning(text) if shared else RepeatedPhotoWarning(text))


def _emptiness(pixels: NDArray[np.int64], size: int, names: Sequence[str]) -> str | None:
    """Return what is empty about a label map, if anything.

    Args:
        pixels: Of each class, C values.
        size: Height times width.
        names: Of the classes.
    """
    labelled, most = int(pixels.sum()), int(pixels.max())
    if labelled < NEARLY_NOTHING * size:
        return f"{labelled} of its {size} pixels are labelled"
    if len(pixels) > 1 and labelled - most < NEARLY_NOTHING * labelled:
        rest = f" but {labelled - most}" if labelled > most else ""
        return f"all its labelled pixels{rest} are {names[int(pixels.argmax())]}"
    return None


def _table(
    title: str, names: Sequence[str], counts: Census, weights: Sequence[float] | None
) -> Table:
    """Return a row a class: the photos with it, its pixels and, if given, its weight."""
    table = Table("class", "photos", "pixels", "share", title=escape(title))
    if weights is not None:
        table.add_column("weight")
    for column in table.columns[1:]:
        column.justify = "right"
    shares = counts.pixels / max(1, int(counts.pixels.sum()))
    for index, name in enumerate(names):
        row = [f"{counts.photos[index]}", f"{counts.pixels[index]:,}", f"{shares[index]:.2%}"]
        if weights is not None:
            row.append(f"{weights[index]:.3f}")
        table.add_row(escape(name), *row)
    table.add_section()
    table.add_row("void", "", f"{counts.void:,}")
    return table


def _print(problems: Problems, console: Console) -> None:
    for line in problems.lines():
        _say(line, console)


def _say(text: str, console: Console) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
