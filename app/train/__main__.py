"""`python -m app.train`: images and labels in, a checkpoint and a report out."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console

from app.cli import OneLineParser, UsageError, add_data, add_device, parser, run, size
from app.inference.device import choose_compute
from app.train.datasets import DATASETS, LabelledImages, class_pixels, open_dataset
from app.train.initialise import Start, build_network
from app.train.progress import Progress
from app.train.recipes import RECIPES, Recipe
from app.train.report import draw_curves, draw_samples
from app.train.run_folder import RunFolder
from app.train.trainer import InterruptedRunError, Trainer, class_weights
from model import Card, ClassInfo, load_checkpoint
from model.backbones import BACKBONES
from model.fcn import VARIANTS

RESUMABLE: Final = {"resume", "out", "device", "workers"}
"""Arguments that may differ when a run goes on; every other one belongs to the run."""


def make_parser() -> OneLineParser:
    """Return the parser; the recipe's defaults depend on `--dataset` and are set later."""
    arguments = parser(
        "train",
        "Train an FCN on labelled images. The best checkpoint on val, figures and pictures go to "
        "the folder --out. Recipe options default by dataset: "
        + "; ".join(f"{name}: {_summary(recipe)}" for name, recipe in RECIPES.items())
        + ".",
        "python -m app.train --dataset folder --data my-images --val-fraction 0.2 --out runs/mine",
    )
    add_data(arguments, DATASETS)
    arguments.add_argument(
        "--out", type=Path, metavar="DIR", default=Path("runs/train"), help="folder of the run"
    )
    arguments.add_argument(
        "--resume", action="store_true", help="go on with the run in --out exactly where it stopped"
    )
    arguments.add_argument(
        "--val-fraction",
        type=_fraction,
        metavar="F",
        help="share of the photos kept for val, for a folder without train/ and val/",
    )
    arguments.add_argument("--name", help="name of the checkpoint (default: dataset and network)")
    arguments.add_argument("--seed", type=int, default=0, help="of everything random")
    arguments.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that read and augment (default: 0 on the CPU, up to 8 with CUDA)",
    )
    add_device(arguments)

    network = arguments.add_argument_group("network")
    network.add_argument("--variant", choices=tuple(VARIANTS), help="default: fcn8s")
    network.add_argument("--backbone", choices=BACKBONES, help="default: vgg16_bn")
    network.add_argument(
        "--head-width",
        type=_positive_int,
        metavar="N",
        help="channels of fc6 and fc7; 4096 as in the paper (default with --pretrained), 256 for "
        "a checkpoint of 43 MB (default otherwise)",
    )
    network.add_argument(
        "--head-norm",
        action=argparse.BooleanOptionalAction,
        help="batch norm after fc6 and fc7 (default: with vgg16_bn, but not with --pretrained)",
    )
    network.add_argument(
        "--learned-upsampling",
        action=argparse.BooleanOptionalAction,
        help="learn the 2x deconvolutions; otherwise they stay bilinear (default: learn)",
    )
    start = network.add_mutually_exclusive_group()
    start.add_argument(
        "--pretrained", action="store_true", help="start from torchvision's ImageNet weights"
    )
    start.add_argument(
        "--init-from",
        type=Path,
        metavar="FILE",
        help="start from a checkpoint, also of other classes; its network is the default",
    )
    arguments.add_argument(
        "--save-precision",
        choices=("bf16", "fp32"),
        default="bf16",
        help="number format of the kernels in best.safetensors",
    )

    recipe = arguments.add_argument_group("recipe")
    for field in dataclasses.fields(Recipe):
        options = _RECIPE_OPTIONS[field.name]
        recipe.add_argument("--" + field.name.replace("_", "-"), **options)
    return arguments


def _positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError("must be at least 0")
    return value


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError("must be from 0 to below 1")
    return value


def _class_weighting(text: str) -> float:
    value = float(text)
    if value != 0 and not 1 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be above 1, or 0 for equal weights")
    return value


_RECIPE_OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "epochs": {"type": _positive_int, "metavar": "N", "help": "passes over the training photos"},
    "max_steps": {"type": int, "metavar": "N", "help": "end after N optimiser steps instead"},
    "batch_size": {"type": _positive_int, "metavar": "N", "help": "photos a step"},
    "crop": {"type": size, "metavar": "HxW", "help": "what a step sees of a photo, pixels"},
    "scale": {
        "type": float,
        "nargs": 2,
        "metavar": ("LOW", "HIGH"),
        "help": "random scale before the crop",
    },
    "color_jitter": {
        "type": _not_negative,
        "metavar": "X",
        "help": "strength of random brightness, contrast and saturation",
    },
    "flip": {"action": argparse.BooleanOptionalAction, "help": "mirror photos at random"},
    "learning_rate": {"type": _not_negative, "metavar": "X", "help": "peak of AdamW's rate"},
    "warmup": {"type": _fraction, "metavar": "F", "help": "share of steps with a rising rate"},
    "weight_decay": {"type": _not_negative, "metavar": "X", "help": "of kernels"},
    "class_weighting": {
        "type": _class_weighting,
        "metavar": "C",
        "help": "class weights 1 / ln(C + frequency); 0 for equal ones",
    },
    "dropout": {"type": _fraction, "metavar": "F", "help": "after fc6 and fc7"},
    "ema": {"type": _fraction, "metavar": "F", "help": "decay of the averaged weights, 0: none"},
    "val_every": {"type": _positive_int, "metavar": "N", "help": "epochs between validations"},
}


def _summary(recipe: Recipe) -> str:
    height, width = recipe.crop
    return (
        f"{recipe.epochs} epochs of batches of {recipe.batch_size}, crop {height}x{width}, scale "
        f"{recipe.scale[0]} to {recipe.scale[1]}, class weighting {recipe.class_weighting}"
    )


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line, with defaults from the dataset's recipe or the resumed run.

    Raises:
        UsageError: If arguments contradict each other or the run to resume.
    """
    arguments = make_parser()
    first = arguments.parse_args(argv)
    arguments.set_defaults(**dataclasses.asdict(RECIPES[first.dataset]))
    if not first.resume:
        options = arguments.parse_args(argv)
    else:
        saved = _options_from_config(RunFolder(first.out).read_config())
        arguments.set_defaults(**{key: saved[key] for key in saved if key not in RESUMABLE})
        options = arguments.parse_args(argv)
        for key in saved.keys() - RESUMABLE:
            if getattr(options, key) != saved[key]:
                flag = "--" + key.replace("_", "-")
                raise UsageError(
                    f"{first.out} was started with {flag} {saved[key]}: a run goes on with the "
                    "arguments it began with"
                )
    low, high = options.scale
    if not 0.1 <= low <= high <= 10:
        raise UsageError(f"--scale {low} {high}: two factors from 0.1 to 10, the lower one first")
    options.scale = (low, high)
    if options.max_steps < 0:
        raise UsageError("--max-steps must be at least 0")
    if options.precision == "fp16":
        raise UsageError("--precision fp16 is for serving; training takes fp32 or bf16")
    return options


def _options_to_config(options: argparse.Namespace) -> dict[str, Any]:
    return {
        key: str(value) if isinstance(value, Path) else value
        for key, value in vars(options).items()
        if key not in RESUMABLE
    }


def _options_from_config(config: dict[str, Any]) -> dict[str, Any]:
    options = dict(config["options"])
    for key in ("data", "init_from"):
        if options[key] is not None:
            options[key] = Path(options[key])
    for key in ("crop", "scale"):
        options[key] = tuple(options[key])
    return options


def train(argv: Sequence[str]) -> int:
    """Run the command.

    Raises:
        UsageError: For anything that its user can mend.
    """
    options = parse(argv)
    console = Console(stderr=False, soft_wrap=True)
    folder = RunFolder(
        options.out,
        dtype=torch.bfloat16 if options.save_precision == "bf16" else torch.float32,
    )
    try:
        compute = choose_compute(options.device, options.precision)
    except ValueError as error:
        raise UsageError(str(error)) from None
    workers = options.workers
    if workers is None:
        workers = 0 if compute.device.type == "cpu" else min(8, torch.get_num_threads())

    splits = {
        split: open_dataset(
            options.dataset,
            options.data,
            split,
            val_fraction=options.val_fraction,
            seed=options.seed,
        )
        for split in ("train", "val")
    }
    pixels = {split: class_pixels(dataset) for split, dataset in splits.items()}
    for split, counts in pixels.items():
        if not counts.sum():
            raise UsageError(f"no pixel of the {split} split is labelled: everything is void")

    recipe = Recipe(**{f.name: getattr(options, f.name) for f in dataclasses.fields(Recipe)})
    torch.manual_seed(options.seed)
    net, notes = build_network(
        Start(
            variant=options.variant,
            backbone=options.backbone,
            head_width=options.head_width,
            head_norm=options.head_norm,
            learned_upsampling=options.learned_upsampling,
            pretrained=options.pretrained,
            init_from=options.init_from,
        ),
        splits["train"].classes,
        dropout=recipe.dropout,
    )
    architecture = net.architecture
    card = Card(
        name=options.name or f"{options.dataset}-{architecture.variant}-{architecture.backbone}",
        architecture=architecture,
        classes=splits["train"].classes,
        training={
            "dataset": options.dataset,
            "photos": {split: len(dataset) for split, dataset in splits.items()},
            "recipe": dataclasses.asdict(recipe),
            "seed": options.seed,
            "precision": compute.precision,
            "started_from": _started_from(options),
            "torch": torch.__version__,
        },
    )
    Card.from_json(card.to_json())  # a name that no reader accepts is refused before training
    trainer = Trainer(
        net,
        recipe,
        splits["train"],
        splits["val"],
        weights=class_weights(pixels["train"], recipe.class_weighting),
        compute=compute,
        folder=folder,
        card=card,
        seed=options.seed,
        workers=workers,
    )
    if options.resume:
        state = folder.load_state()
        if state is not None:
            trainer.load_state(state)
            notes = [f"resumed after step {trainer.step} of {trainer.steps}"]
    else:
        folder.create({"options": _options_to_config(options), "card": card.to_json()})

    with Progress(console) as progress:
        progress.say(f"{compute.reason}")
        for split, dataset in splits.items():
            progress.say(f"{split}: {len(dataset)} photos, {_shares(dataset, pixels[split])}")
        for note in notes:
            progress.say(note)
        try:
            trainer.run(progress)
        except InterruptedRunError:
            progress.say(
                f"stopped after step {trainer.step} of {trainer.steps}; "
                f"go on with --out {options.out} --resume"
            )
            return 130
        except FloatingPointError as error:
            raise UsageError(str(error)) from None
    _report(folder, trainer, splits["val"])
    progress.say(f"best val mIoU {trainer.best:.4f}: {folder.best}")
    return 0


def _started_from(options: argparse.Namespace) -> str:
    if options.init_from:
        return f"checkpoint {load_checkpoint(options.init_from)[1].name}"
    return "ImageNet weights of torchvision" if options.pretrained else "random weights"


def _shares(dataset: LabelledImages, pixels: Any) -> str:
    """Describe how the labelled pixels are spread over the classes."""
    classes: tuple[ClassInfo, ...] = dataset.classes
    total = pixels.sum()
    return ", ".join(
        f"{info.name} {count / total:.2%}" for info, count in zip(classes, pixels, strict=True)
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
