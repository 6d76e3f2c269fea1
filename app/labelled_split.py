"""The labelled photos that a command looks at, drawn as the checkpoint's training drew them."""

import argparse

from rich.console import Console

from app.cli import add_data, add_split_options, integer
from app.errors import UsageError
from app.train.datasets import DATASETS, SPLITS, LabelledImages, open_dataset
from app.train.layouts import NotSplitError
from app.train.subset import leave_out
from model import Card


def add_labelled_split(arguments: argparse.ArgumentParser) -> None:
    """Add what says which labelled photos to look at."""
    add_data(arguments, DATASETS)
    arguments.add_argument("--split", choices=SPLITS, default="val", help="which part")
    add_split_options(arguments)
    arguments.add_argument(
        "--seed",
        type=integer(0),
        metavar="N",
        help="of that choice (default, like the share: those that the checkpoint was trained with)",
    )


def open_labelled_split(
    options: argparse.Namespace, card: Card, console: Console
) -> LabelledImages:
    """Open the split that `add_labelled_split` asked for.

    Data that are not split are drawn as the checkpoint's training drew them, or val is what that
    left out. Data that are split, such as photos collected since, need no draw, whatever the
    training needed.

    Args:
        options: The command's.
        card: The checkpoint's.
        console: Told if there are more or fewer photos than when the training drew from them: the
            same share and seed then give other splits.

    Raises:
        UsageError: If it cannot be opened, or its classes are not the checkpoint's.
    """
    trained = card.training if card.training.get("dataset") == options.dataset else {}
    seed = trained.get("seed", 0) if options.seed is None else options.seed
    group_by = trained.get("group_by") if options.group_by is None else options.group_by

    def open_split(split: str, val_fraction: float | None) -> LabelledImages:
        return open_dataset(
            options.dataset,
            options.data,
            split,
            val_fraction=val_fraction,
            seed=seed,
            group_by=group_by,
            download=options.download,
        )

    val_fraction = options.val_fraction
    try:
        dataset = open_split(options.split, val_fraction)
    except NotSplitError:
        val_fraction = trained.get("val_fraction")
        left_out = trained.get("left_out")
        if left_out is not None and options.split != "test":
            dataset = leave_out(open_split("train", 0.0), left_out)[options.split]
        elif val_fraction is None:
            raise
        else:
            dataset = open_split(options.split, val_fraction)
    check_classes(card, dataset)
    as_trained = tuple(trained.get(key) for key in ("val_fraction", "seed", "group_by"))
    drawn = (val_fraction, seed, group_by)
    if val_fraction is not None and drawn == as_trained and "photos" in trained:
        now = sum(
            len(dataset if split == options.split else open_split(split, val_fraction))
            for split in ("train", "val")
        )
        then = sum(trained["photos"].values())
        if now != then:
            _warn(options, now, then, console)
    return dataset


def check_classes(card: Card, dataset: LabelledImages) -> None:
    """Refuse to compare labels that do not mean the same.

    Raises:
        UsageError: If the names differ; it says where.
    """
    ours = [info.name for info in card.classes]
    theirs = [info.name for info in dataset.classes]
    if ours != theirs:
        raise UsageError(
            f"the checkpoint's classes ({', '.join(ours)}) are not the dataset's "
            f"({', '.join(theirs)})"
        )


def _warn(options: argparse.Namespace, now: int, then: int, console: Console) -> None:
    console.print(
        f"warning: {options.data}: {now} photos to draw from, {then} when the checkpoint was "
        f"trained: {options.split} is drawn otherwise than then and may hold photos that it was "
        "trained on",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
