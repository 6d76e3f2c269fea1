"""`python -m app.train`: images and labels in, a checkpoint and a report out."""

import argparse
import dataclasses
import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from app.cli import resolve_compute, run
from app.errors import UsageError
from app.inference.device import DTYPES, Compute
from app.train.arguments import parse
from app.train.datasets import LabelledImages, class_pixels, open_dataset
from app.train.initialise import Start, build_network
from app.train.progress import Progress
from app.train.recipes import Recipe
from app.train.report import draw_curves, draw_samples
from app.train.run_folder import RunFolder
from app.train.trainer import InterruptedRunError, Trainer, balanced_weights
from model import FCN, Card, load_checkpoint


def train(argv: Sequence[str]) -> int:
    """Run the command.

    Raises:
        UsageError: For anything that its user can mend.
    """
    options = parse(argv)
    console = Console(soft_wrap=True)
    compute = resolve_compute(options.device, options.precision)
    # A run goes on in the precision it began with, whatever `auto` means on this machine.
    options.precision = compute.precision
    options.save_precision = options.save_precision or compute.precision
    folder = RunFolder(options.out, dtype=DTYPES[options.save_precision])
    splits = _open_splits(options)  # before the bar: fetching shows its own progress
    with Progress(console) as progress:
        progress.say(compute.reason)
        try:
            trainer, val = _prepare(options, splits, compute, folder, progress)
            trainer.run(progress)
        except InterruptedRunError:
            progress.say(
                f"stopped after step {trainer.step} of {trainer.steps}; "
                f"go on with --out {options.out} --resume"
            )
            return 130
        except FloatingPointError as error:
            raise UsageError(str(error)) from None
        except torch.OutOfMemoryError as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"lower --batch-size or --crop: {reason}") from None
    _report(folder, trainer, val)
    progress.say(f"best val mIoU {trainer.best:.4f}: {folder.best}")
    return 0


def _open_splits(options: argparse.Namespace) -> dict[str, LabelledImages]:
    return {
        part: open_dataset(
            options.dataset,
            options.data,
            split,
            val_fraction=options.val_fraction,
            seed=options.seed,
            download=options.download,
        )
        for part, split in (("train", options.train_split), ("val", options.val_split))
    }


def _prepare(
    options: argparse.Namespace,
    splits: dict[str, LabelledImages],
    compute: Compute,
    folder: RunFolder,
    progress: Progress,
) -> tuple[Trainer, LabelledImages]:
    """Check the data, build or restore the network, and begin or find the run's folder."""
    pixels = {split: class_pixels(dataset) for split, dataset in splits.items()}
    for split, counts in pixels.items():
        if not counts.sum():
            raise UsageError(f"no pixel of the {split} split is labelled: everything is void")
        progress.say(f"{split}: {len(splits[split])} photos, {_shares(splits[split], counts)}")
    if shared := _shared_photos(options, splits):
        progress.say(f"warning: photos in both train and val: {shared}; val will look too good")
    classes = splits["train"].classes
    recipe = Recipe(**{f.name: getattr(options, f.name) for f in dataclasses.fields(Recipe)})
    torch.manual_seed(options.seed)
    state = None
    if options.resume:
        config = folder.read_config()
        card = Card.from_json(config["card"])
        if config["data"] != _fingerprint(splits):
            raise UsageError(
                f"{folder.path}: the photos or classes are not those that the run began with"
            )
        net = FCN(card.architecture, len(classes), dropout=recipe.dropout)
        state = folder.load_state()
    if state is None:
        net, notes = build_network(_start(options), classes, dropout=recipe.dropout)
        for note in notes:
            progress.say(note)
        card = _card(options, net, splits, recipe)
        if not options.resume:
            folder.create(
                {
                    "options": _options_to_config(options),
                    "card": card.to_json(),
                    "data": _fingerprint(splits),
                }
            )
    _check_batch_norm(net, recipe)
    workers = options.workers
    if workers is None:
        workers = 0 if compute.device.type == "cpu" else min(8, os.cpu_count() or 1)
    trainer = Trainer(
        net,
        recipe,
        splits["train"],
        splits["val"],
        class_weights=balanced_weights(pixels["train"], recipe.class_weighting),
        compute=compute,
        folder=folder,
        card=card,
        seed=options.seed,
        workers=workers,
    )
    if state is not None:
        try:
            trainer.load_state(state)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UsageError(f"{folder.last}: not a state of this run: {error!r}") from error
        progress.say(f"resumed after step {trainer.step} of {trainer.steps}")
    return trainer, splits["val"]


def _check_batch_norm(net: FCN, recipe: Recipe) -> None:
    """Refuse steps in which a batch norm would see a single cell, which has no variance."""
    norms = any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    if norms and recipe.batch_size == 1 and recipe.crop and max(recipe.crop) <= 32:
        raise UsageError(
            f"--batch-size 1 with --crop {recipe.crop[0]}x{recipe.crop[1]} leaves batch norm a "
            "single cell: give more of either"
        )


def _start(options: argparse.Namespace) -> Start:
    return Start(
        **{field.name: getattr(options, field.name) for field in dataclasses.fields(Start)}
    )


def _card(
    options: argparse.Namespace, net: FCN, splits: dict[str, LabelledImages], recipe: Recipe
) -> Card:
    architecture = net.architecture
    started_from = "random weights"
    if options.init_from:
        started_from = f"checkpoint {load_checkpoint(options.init_from)[1].name}"
    elif options.pretrained:
        started_from = "ImageNet weights of torchvision"
    return Card(
        name=options.name or f"{options.dataset}-{architecture.variant}-{architecture.backbone}",
        architecture=architecture,
        classes=splits["train"].classes,
        training={
            "dataset": options.dataset,
            "splits": {"train": options.train_split, "val": options.val_split},
            "photos": {split: len(dataset) for split, dataset in splits.items()},
            "val_fraction": options.val_fraction,
            "recipe": dataclasses.asdict(recipe),
            "seed": options.seed,
            "precision": options.precision,
            "started_from": started_from,
            "torch": torch.__version__,
        },
    )


def _options_to_config(options: argparse.Namespace) -> dict[str, Any]:
    return {
        key: str(value) if isinstance(value, Path) else value
        for key, value in vars(options).items()
        if key not in ("resume", "out", "device", "workers", "download")
    }


def _fingerprint(splits: dict[str, LabelledImages]) -> str:
    """Return a hash of the classes and of the photos' names, by split."""
    words = [info.name for info in splits["train"].classes]
    for split, dataset in splits.items():
        words += [split, *dataset.names]
    return hashlib.sha256("\0".join(words).encode()).hexdigest()


def _shared_photos(options: argparse.Namespace, splits: dict[str, LabelledImages]) -> int:
    """Count the photos that are in both splits; SBD's, for one, overlap with VOC's."""
    if options.dataset == "folder" and options.train_split != options.val_split:
        return 0  # train/images/1.jpg and val/images/1.jpg need not be one photo
    return len(set(splits["train"].names) & set(splits["val"].names))


def _shares(dataset: LabelledImages, pixels: NDArray[np.int64]) -> str:
    """Describe how the labelled pixels are spread over the classes."""
    total = pixels.sum()
    return ", ".join(
        f"{info.name} {count / total:.2%}"
        for info, count in zip(dataset.classes, pixels, strict=True)
    )


def _report(folder: RunFolder, trainer: Trainer, val: LabelledImages) -> None:
    """Draw the run as it ended; samples are predicted by the best weights."""
    draw_curves(trainer.history, folder.path / "curves.png")
    trainer.use_weights(load_checkpoint(folder.best)[0])
    draw_samples(val, trainer.predict, folder.path / "samples.png")


def main() -> int:
    """Entry point."""
    return run(lambda: train(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
