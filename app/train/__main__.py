"""`python -m app.train`: images and labels in, a checkpoint and a report out."""

import argparse
import dataclasses
import hashlib
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from app.cli import resolve_compute, run
from app.errors import UsageError
from app.inference.device import DTYPES, Compute
from app.inference.processors import usable_processors
from app.inference.room import Room
from app.train.arguments import parse
from app.train.cache import InMemory, fits_in_memory
from app.train.calibration import PixelSamples, calibrate
from app.train.check import check, class_problems
from app.train.data_problems import Report, refuse
from app.train.datasets import LabelledImages, class_pixels, open_dataset
from app.train.distributed import Processes, joined_processes, own_device
from app.train.evaluation import evaluate
from app.train.events import Events
from app.train.html_report import Provenance, write_html_report
from app.train.initialise import Start, build_network
from app.train.layouts import NotSplitError
from app.train.loss import balanced_weights
from app.train.progress import Progress
from app.train.provenance import describe_environment
from app.train.recipes import Recipe
from app.train.report import draw_curves, draw_samples
from app.train.run_folder import RunFolder
from app.train.samples import place
from app.train.scaled import Scaled
from app.train.stopping import InterruptedRunError
from app.train.subset import leave_out
from app.train.trainer import Trainer
from app.train.transforms import rare_classes
from model import FCN, Card, load_checkpoint, save_with_card

NOT_KEPT: Final = ("check", "resume", "out", "device", "workers", "download", "cache", "command")
"""Options that may differ when a run goes on, since they change no number of it."""


def train(argv: Sequence[str]) -> int:
    """Run the command.

    Raises:
        UsageError: For anything that its user can mend.
    """
    options = parse(argv)
    if options.check:
        console = Console(soft_wrap=True)
        return check(lambda report: _open_splits(options, report), options.class_weighting, console)
    compute = resolve_compute(own_device(options.device), options.precision)
    with joined_processes(compute.device) as processes:
        return _train(options, compute, processes)


def _train(options: argparse.Namespace, compute: Compute, processes: Processes) -> int:
    """Run the command as one of `processes`; the main one alone prints and writes."""
    console = Console(soft_wrap=True, quiet=not processes.is_main)
    # A run goes on in the precision it began with, whatever `auto` means on this machine.
    options.precision = compute.precision
    options.save_precision = options.save_precision or compute.precision
    folder = RunFolder(options.out, dtype=DTYPES[options.save_precision])
    if not options.resume:
        folder.refuse_run()  # before all photos are read for nothing
    environment = describe_environment(compute.device)  # now: the checkout may move on meanwhile
    events = Events(folder.path / "tensorboard") if options.tensorboard else None
    with processes.main_first():
        splits = _open_splits(options)  # before the bar: fetching shows its own progress
    with Progress(console, events if processes.is_main else None) as progress:
        progress.say(compute.reason)
        try:
            trainer, val = _prepare(options, splits, compute, processes, folder, progress)
            _run(trainer, folder, progress)
        except InterruptedRunError:
            progress.say(
                f"stopped after step {trainer.saved_step} of {trainer.steps}; "
                f"go on with --out {options.out} --resume"
            )
            return 130
    if not processes.is_main:
        return 0
    first = folder.read_config().get("command", options.command)
    provenance = Provenance(
        commands=tuple(dict.fromkeys([first, options.command])),
        environment={
            "training": progress.account(),
            "processes": str(processes.count),
            **environment,
        },
    )
    _report(folder, trainer, val, provenance, console)
    progress.say(f"best val mIoU {trainer.best:.4f}: {folder.best}")
    progress.say(f"to look at: {folder.path / 'report.html'}")
    return 0


def _run(trainer: Trainer, folder: RunFolder, progress: Progress) -> None:
    """Train.

    What ends a run before anything of it was saved, its user can mend; the same command, mended,
    then begins it anew. Later it takes another run: each goes on with its own arguments only.

    Raises:
        InterruptedRunError: As from `Trainer.run`.
        UsageError: For photos that cannot be read, too little memory, or a loss that is no number.
    """
    try:
        try:
            trainer.run(progress)
        except FloatingPointError as error:
            raise UsageError(f"{error}{_other_arguments(folder)}") from None
        except torch.OutOfMemoryError as error:
            reason = str(error).splitlines()[0]
            raise UsageError(
                f"lower --batch-size or --crop: {reason}{_other_arguments(folder)}"
            ) from None
    except UsageError:
        if trainer.processes.is_main:
            folder.forget_start()
        raise


def _other_arguments(folder: RunFolder) -> str:
    """Say how a run comes by other arguments, if it has come too far to be begun anew."""
    if not folder.best.exists():
        return ""
    return (
        ". This run goes on with the arguments it began with only: give others to a new one in "
        f"another --out, with --init-from {folder.best} --trunk-rate 1"
    )


def _open_splits(options: argparse.Namespace, report: Report = refuse) -> dict[str, LabelledImages]:
    def open_split(split: str, val_fraction: float | None) -> LabelledImages:
        return open_dataset(
            options.dataset,
            options.data,
            split,
            val_fraction=val_fraction,
            seed=options.seed,
            group_by=options.group_by,
            download=options.download,
            report=report,
        )

    if options.leave_out is not None:
        # A part of train is judged on: there need not be any other.
        if options.val_fraction is not None:
            raise UsageError("--leave-out says what to validate on: give no --val-fraction")
        try:
            train = open_split(options.train_split, None)
        except NotSplitError:
            train = open_split(options.train_split, 0.0)
        splits = leave_out(train, options.leave_out)
    else:
        splits = {
            "train": open_split(options.train_split, options.val_fraction),
            "val": open_split(options.val_split, options.val_fraction),
        }
    names = {part: [info.name for info in splits[part].classes] for part in splits}
    if names["train"] != names["val"]:
        raise UsageError(
            f"the classes of train ({', '.join(names['train'])}) are not those of val "
            f"({', '.join(names['val'])})"
        )
    return splits


def _prepare(
    options: argparse.Namespace,
    splits: dict[str, LabelledImages],
    compute: Compute,
    processes: Processes,
    folder: RunFolder,
    progress: Progress,
) -> tuple[Trainer, LabelledImages]:
    """Check the data, build or restore the network, and begin or find the run's folder."""
    options.photo_scale = _photo_scale(options)
    if options.photo_scale != 1:
        progress.say(f"photos at scale {options.photo_scale:g}, in training and where it is served")
        splits = {split: Scaled(splits[split], options.photo_scale) for split in splits}
    # Each process reads all of a split.
    cache = options.cache / processes.count
    splits = {split: _in_memory(dataset, cache) for split, dataset in splits.items()}
    pixels = {split: class_pixels(dataset) for split, dataset in splits.items()}
    names = [info.name for info in splits["train"].classes]
    for split, counts in pixels.items():
        progress.say(f"{split}: {len(splits[split])} photos, {_shares(splits[split], counts)}")
        for problem in class_problems(split, names, counts):
            refuse(problem)
            progress.say(f"warning: {problem}")
    if shared := _shared_photos(options, splits):
        progress.say(f"warning: photos in both train and val: {shared}; val will look too good")
    classes = splits["train"].classes
    recipe = Recipe(**{f.name: getattr(options, f.name) for f in dataclasses.fields(Recipe)})
    state = None
    if options.resume:
        config = folder.read_config()
        card = Card.from_json(config["card"])
        if config["data"] != _fingerprint(splits):
            raise UsageError(
                f"{folder.path}: the photos or classes are not those that the run began with"
            )
        if processes.is_main:
            folder.clear_leftovers()
        state = folder.load_state()
    torch.manual_seed(options.seed)
    if state is not None:
        net = FCN(card.architecture, len(classes), dropout=recipe.dropout)
    else:
        with processes.main_first():
            net, notes = build_network(_start(options), classes, dropout=recipe.dropout)
        for note in notes:
            progress.say(note)
        card = _card(options, net, splits, recipe)
        _check_batches(net, recipe, processes)
    _check_memory(net, splits["val"], compute)
    workers = options.workers
    if workers is None:
        share = usable_processors() // processes.count
        workers = 0 if compute.device.type == "cpu" else min(8, max(1, share))
    try:
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
            processes=processes,
            compile=options.compile,
            rare_classes=rare_classes(pixels["train"]),
        )
    except torch.OutOfMemoryError as error:
        raise UsageError(f"the network does not fit: {str(error).splitlines()[0]}") from None
    # Last of all: whoever mends what was refused gives the same command again.
    if not options.resume and processes.is_main:
        folder.create(
            {
                "options": _options_to_config(options),
                "card": card.to_json(),
                "data": _fingerprint(splits),
                "command": options.command,
            }
        )
    if state is not None:
        try:
            trainer.load_state(state)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UsageError(f"{folder.last}: not a state of this run: {error!r}") from error
        progress.say(f"resumed after step {trainer.step} of {trainer.steps}")
    return trainer, splits["val"]


def _photo_scale(options: argparse.Namespace) -> float:
    """Return what was asked for, or what the checkpoint to start from was trained at."""
    if options.photo_scale is not None:
        scale: float = options.photo_scale
        return scale
    return load_checkpoint(options.init_from)[1].scale if options.init_from else 1.0


def _in_memory(dataset: LabelledImages, gigabytes: float) -> LabelledImages:
    """Read a dataset into memory if it takes no more than that."""
    return InMemory(dataset) if fits_in_memory(dataset, gigabytes * 1e9) else dataset


def _check_batches(net: FCN, recipe: Recipe, processes: Processes) -> None:
    """Refuse batches with nothing for some process, or with no variance for a batch norm."""
    if recipe.batch_size < processes.count:
        raise UsageError(
            f"--batch-size {recipe.batch_size} is shared by {processes.count} processes: "
            "give each at least one photo"
        )
    norms = any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    if not norms or recipe.batch_size > 1 or not recipe.crop:
        return
    if max(recipe.crop) <= (64 if recipe.half_size else 32):
        raise UsageError(
            f"--batch-size 1 with --crop {recipe.crop[0]}x{recipe.crop[1]} leaves batch norm a "
            "single cell: give more of either"
        )


def _check_memory(net: FCN, val: LabelledImages, compute: Compute) -> None:
    """Refuse photos to validate on, which are seen whole, that are too large for the memory."""
    index = max(range(len(val)), key=lambda index: math.prod(val.photo_size(index)))
    size = height, width = val.photo_size(index)
    with torch.device("meta"):
        seen = FCN(net.architecture, net.num_classes).cast_convolutions(compute.dtype)
    try:
        with Room(seen, compute.device).taking(1, size, size):
            pass  # only asked for: the forwards come later
    except torch.OutOfMemoryError:
        raise UsageError(
            f"{place(val, index)}: {width}x{height} is too large for the memory that is left: "
            "photos are validated on whole; lower --photo-scale, or shrink this one and its labels"
        ) from None


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
            "splits": {
                "train": options.train_split,
                "val": options.train_split if options.leave_out else options.val_split,
            },
            "photos": {split: len(dataset) for split, dataset in splits.items()},
            "val_fraction": options.val_fraction,
            **({"group_by": options.group_by} if options.group_by else {}),
            **({"left_out": options.leave_out} if options.leave_out else {}),
            "recipe": dataclasses.asdict(recipe),
            "seed": options.seed,
            "precision": options.precision,
            "started_from": started_from,
            "torch": torch.__version__,
        },
        scale=options.photo_scale,
    )


def _options_to_config(options: argparse.Namespace) -> dict[str, Any]:
    return {
        key: str(value) if isinstance(value, Path) else value
        for key, value in vars(options).items()
        if key not in NOT_KEPT
    }


def _fingerprint(splits: dict[str, LabelledImages]) -> str:
    """Return a hash of the classes and of the photos' names, by split."""
    words = [info.name for info in splits["train"].classes]
    for split, dataset in splits.items():
        words += [split, *dataset.names]
    # A file name may hold bytes that are no text.
    return hashlib.sha256("\0".join(words).encode(errors="surrogateescape")).hexdigest()


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


def _report(
    folder: RunFolder,
    trainer: Trainer,
    val: LabelledImages,
    provenance: Provenance,
    console: Console,
) -> None:
    """Show the run as it ended; what is predicted, the best weights predict.

    It costs about two more validations: only figures, indices of photos and the logits of some
    pixels are kept of the first, and the second counts all pixels' probabilities. The best
    weights are written again with the temperature that makes these come true.
    """
    draw_curves(trainer.history, folder.path / "curves.png")
    net, card = load_checkpoint(folder.best)
    trainer.use_weights(net)
    draw_samples(val, trainer.predict, folder.path / "samples.png")
    samples = PixelSamples(val)
    evaluation = evaluate(samples.predictor(trainer.logits), val, console)
    calibration = calibrate(trainer.logits, val, console, samples)
    console.print(calibration.summary(), markup=False, highlight=False)
    source = {"dataset": card.training["dataset"], "split": card.training["splits"]["val"]}
    card = calibration.completed(card, source)
    save_with_card(folder.best, folder.best, card)
    write_html_report(
        folder.path / "report.html",
        card=card,
        history=trainer.history,
        dataset=val,
        predict=trainer.predict,
        evaluation=evaluation,
        calibration=calibration,
        provenance=provenance,
    )


def main() -> int:
    """Entry point."""
    return run(lambda: train(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
