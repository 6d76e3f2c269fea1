"""The command line of `python -m app.train`."""

import argparse
import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from app.cli import (
    OneLineParser,
    add_data,
    add_device,
    add_split_options,
    integer,
    model_name,
    number,
    parser,
    size,
)
from app.errors import UsageError
from app.inference.render import MAX_SCALE
from app.paths import DEFAULT_CHECKPOINT
from app.train.datasets import DATASETS, SPLITS
from app.train.recipes import Recipe, choose_recipe
from app.train.run_folder import RunFolder
from model.backbones import BACKBONES
from model.fcn import ALIGNMENTS, VARIANTS

MIN_PHOTO_SCALE: Final = 0.05
"""Smallest scale to train at."""

RESUMABLE: Final = {"data", "tensorboard"}
"""Options of a run that may differ when it goes on; the data may have moved."""


def make_parser(recipe: Recipe) -> OneLineParser:
    """Return the parser, with the defaults of a recipe.

    Args:
        recipe: Of the dataset.
    """
    arguments = parser(
        "train",
        "Train an FCN on labelled images. The best checkpoint on val, figures and pictures go to "
        "the folder --out. The recipe's defaults depend on the dataset; `--dataset camvid --help` "
        "shows those for camvid.",
        "python -m app.train --dataset folder --data my-images --val-fraction 0.2 --out runs/mine",
    )
    add_data(arguments, DATASETS)
    arguments.add_argument(
        "--check",
        action="store_true",
        help="read all photos and labels, say what is wrong with them, and train nothing; the exit "
        "code is 2 if there is an error",
    )
    arguments.add_argument(
        "--out", type=Path, metavar="DIR", default=Path("runs/train"), help="folder of the run"
    )
    arguments.add_argument(
        "--resume", action="store_true", help="go on with the run in --out exactly where it stopped"
    )
    arguments.add_argument(
        "--train-split", choices=SPLITS, default="train", help="photos to train on"
    )
    arguments.add_argument(
        "--val-split",
        choices=SPLITS,
        default="val",
        help="photos to validate on; of voc and sbd, seg11valid is the paper's 736",
    )
    add_split_options(arguments)
    arguments.add_argument(
        "--leave-out",
        metavar="PREFIX",
        help="keep the training photos whose names begin so out, and validate on them: how well "
        "does it do in a place, on a drive or with a camera that it never saw?",
    )
    arguments.add_argument(
        "--photo-scale",
        type=number(MIN_PHOTO_SCALE, MAX_SCALE),
        metavar="X",
        help="train and validate on photos scaled so, by their sides, before all else; the "
        "checkpoint is then served so, with masks of the photo's own size. For photos much larger "
        "than what there is to see in them (default: that of --init-from, or 1)",
    )
    arguments.add_argument(
        "--name", type=model_name, help="name of the checkpoint (default: dataset and network)"
    )
    arguments.add_argument(
        "--seed", type=integer(0), default=0, metavar="N", help="of everything random"
    )
    arguments.add_argument(
        "--workers",
        type=integer(0),
        metavar="N",
        help="processes that read and augment (default: 0 on the CPU, up to 8 with CUDA)",
    )
    arguments.add_argument(
        "--cache",
        type=number(0),
        metavar="GB",
        default=2.0,
        help="keep a split decoded in memory if it takes no more than this, over all processes",
    )
    arguments.add_argument(
        "--compile", action="store_true", help="let torch compile the trunk, for long runs"
    )
    arguments.add_argument(
        "--tensorboard", action="store_true", help="write TensorBoard events to --out as well"
    )
    add_device(arguments)

    network = arguments.add_argument_group("network")
    network.add_argument("--variant", choices=tuple(VARIANTS), help="default: fcn8s")
    network.add_argument("--backbone", choices=tuple(BACKBONES), help="default: vgg16_bn")
    network.add_argument(
        "--head-width",
        type=integer(1),
        metavar="N",
        help="channels of fc6 and fc7; 4096 as in the paper (default with --pretrained), 256 for "
        "a checkpoint of 43 MB (default otherwise)",
    )
    network.add_argument(
        "--head-norm",
        action=argparse.BooleanOptionalAction,
        help="batch norm after fc6 and fc7 (default: with vgg16_bn, unless --pretrained brings "
        "fc6 and fc7)",
    )
    network.add_argument(
        "--learned-upsampling",
        action=argparse.BooleanOptionalAction,
        help="learn the 2x deconvolutions; otherwise they stay bilinear (default: learn)",
    )
    network.add_argument(
        "--alignment",
        choices=ALIGNMENTS,
        help="aligned: the least padding; paper: padding 100 and crops, as published "
        "(default: aligned)",
    )
    start = network.add_mutually_exclusive_group()
    start.add_argument(
        "--pretrained", action="store_true", help="start from torchvision's ImageNet weights"
    )
    start.add_argument(
        "--init-from",
        type=_checkpoint,
        metavar="FILE",
        help="start from a checkpoint, also of other classes, or from `default`, the one that "
        "ships; its network is the default, its trunk learns more slowly (--trunk-rate)",
    )
    arguments.add_argument(
        "--save-precision",
        choices=("bf16", "fp32"),
        help="number format of the kernels in best.safetensors (default: that of training)",
    )

    group = arguments.add_argument_group("recipe")
    group.add_argument(
        "--recipe",
        choices=("default", "paper"),
        default="default",
        help="where the values below come from if not given: the dataset's own defaults, or the "
        "optimiser of the authors' released nets",
    )
    for field in dataclasses.fields(Recipe):
        flag = "--" + field.name.replace("_", "-")
        default = getattr(recipe, field.name)
        group.add_argument(flag, default=default, **_RECIPE_OPTIONS[field.name])
    return arguments


def _checkpoint(text: str) -> Path:
    return DEFAULT_CHECKPOINT if text == "default" else Path(text)


class _Range(argparse.Action):
    """Stores several values as a tuple, which recipes have, instead of a list."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, tuple(values))


def _crop(text: str) -> tuple[int, int] | None:
    return None if text == "whole" else size(text)


def _class_weighting(text: str) -> float:
    value = number(0)(text)
    if 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not above 1, nor 0 for equal weights")
    return value


_RECIPE_OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "epochs": {
        "type": integer(0),
        "metavar": "N",
        "help": "passes over the training photos; 0: as --max-steps needs",
    },
    "max_steps": {"type": integer(0), "metavar": "N", "help": "end after N steps; 0: no limit"},
    "batch_size": {"type": integer(1), "metavar": "N", "help": "photos a forward"},
    "accumulate": {"type": integer(1), "metavar": "N", "help": "batches a step"},
    "crop": {
        "type": _crop,
        "metavar": "HxW",
        "help": "what a step sees of a photo, pixels, or `whole`",
    },
    "scale": {
        "action": _Range,
        "type": number(0.1, 10),
        "nargs": 2,
        "metavar": ("LOW", "HIGH"),
        "help": "random scale before the crop",
    },
    "color_jitter": {
        "type": number(0),
        "metavar": "X",
        "help": "strength of random brightness, contrast and saturation",
    },
    "flip": {"action": argparse.BooleanOptionalAction, "help": "mirror photos at random"},
    "distortion": {
        "type": number(0, 1),
        "metavar": "P",
        "help": "chance of each of gamma, uneven light, hue, blur and noise",
    },
    "balanced_crops": {
        "type": number(0, 1),
        "metavar": "P",
        "help": "share of the crops laid over a class drawn from the photo's, rare or not",
    },
    "pasting": {
        "type": number(0, 1),
        "metavar": "P",
        "help": "share of the photos that get pixels of rare classes from others",
    },
    "half_size": {
        "type": number(0, 1),
        "metavar": "F",
        "help": "share of the epochs, from the first, on photos and crops of half the size",
    },
    "late_scale": {
        "action": _Range,
        "type": number(0.1, 10),
        "nargs": 2,
        "metavar": ("LOW", "HIGH"),
        "help": "random scale after the epochs at half size, if it changes then",
    },
    "optimizer": {"choices": ("adamw", "sgd"), "help": "how weights follow gradients"},
    "momentum": {"type": number(0, 0.9999), "metavar": "F", "help": "of sgd"},
    "learning_rate": {"type": number(0), "metavar": "X", "help": "peak of the rate"},
    "bias_rate": {
        "type": number(0),
        "metavar": "X",
        "help": "what the rate is multiplied by for biases and norms",
    },
    "trunk_rate": {
        "type": number(0, 1),
        "metavar": "X",
        "help": "what the rate is multiplied by in the trunk (default with --init-from: 0.1)",
    },
    "clip": {"type": number(0), "metavar": "X", "help": "largest norm of a gradient, 0: no limit"},
    "schedule": {
        "choices": ("cosine", "constant"),
        "help": "what the rate does after the warm-up",
    },
    "warmup": {
        "type": number(0, 0.9999),
        "metavar": "F",
        "help": "share of steps with a rising rate",
    },
    "weight_decay": {"type": number(0), "metavar": "X", "help": "of kernels"},
    "loss": {"choices": ("mean", "sum"), "help": "over the labelled pixels of a step"},
    "class_weighting": {
        "type": _class_weighting,
        "metavar": "C",
        "help": "class weights 1 / ln(C + frequency); 0 for equal ones",
    },
    "logit_adjustment": {
        "type": number(0, 1),
        "metavar": "F",
        "help": "share of the class weights' logarithm taken off the logits of what is validated "
        "and saved",
    },
    "label_smoothing": {
        "type": number(0, 0.9999),
        "metavar": "F",
        "help": "share of a pixel's target that is spread over all classes",
    },
    "dice": {"type": number(0), "metavar": "X", "help": "weight of a soft Dice loss that is added"},
    "auxiliary": {
        "type": number(0),
        "metavar": "X",
        "help": "weight of each of the losses at coarser strides that are added",
    },
    "dropout": {"type": number(0, 0.9999), "metavar": "F", "help": "after fc6 and fc7"},
    "ema": {
        "type": number(0, 0.9999),
        "metavar": "F",
        "help": "decay of the averaged weights, 0: none",
    },
    "val_every": {"type": integer(1), "metavar": "N", "help": "epochs between validations"},
    "patience": {
        "type": integer(0),
        "metavar": "N",
        "help": "end after N epochs without a better val mIoU, 0: never",
    },
}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line, with defaults from the dataset's recipe or the resumed run.

    Raises:
        UsageError: If arguments contradict each other or the run to resume.
    """
    first = OneLineParser(prog="fcn train", add_help=False)
    first.add_argument("--dataset", default="folder")
    first.add_argument("--recipe", default="default")
    first.add_argument("--variant")
    first.add_argument("--init-from")
    first.add_argument("--scale", nargs=2)
    first.add_argument("--resume", action="store_true")
    chosen = first.parse_known_args(argv)[0]
    # A resumed run brings its own values, and wrong words are for the whole parser to refuse.
    known = chosen.variant in (None, *VARIANTS) and chosen.recipe == "paper"
    name = "paper" if known and not chosen.resume else "default"
    recipe = choose_recipe(
        name, chosen.dataset, chosen.variant, fine_tuning=chosen.init_from is not None
    )
    if chosen.scale:
        # The recipe's was chosen beside the recipe's own scale.
        recipe = dataclasses.replace(recipe, late_scale=None)
    arguments = make_parser(recipe)
    options = arguments.parse_args(argv)
    if options.resume:
        saved = saved_options(RunFolder(options.out))
        arguments.set_defaults(**saved)
        options = arguments.parse_args(argv)
        for key in saved.keys() - RESUMABLE:
            if getattr(options, key) not in (saved[key], "auto"):
                flag = "--" + key.replace("_", "-")
                raise UsageError(
                    f"{options.out} was started with {flag} {saved[key]}: a run goes on with the "
                    "arguments it began with"
                )
        options.precision = saved["precision"]
    for flag, (low, high) in (
        ("--scale", options.scale),
        ("--late-scale", options.late_scale or (1, 1)),
    ):
        if low > high:
            raise UsageError(f"{flag} {low} {high}: the lower factor comes first")
    if options.group_by and options.val_fraction is None:
        raise UsageError("--group-by says what --val-fraction keeps together: give both")
    if not (options.epochs or options.max_steps):
        raise UsageError("--epochs 0 needs --max-steps: the run would never end")
    if options.crop is None and options.batch_size > 1:
        raise UsageError("--crop whole needs --batch-size 1: whole photos may differ in size")
    if options.crop is None and options.pasting:
        raise UsageError("--crop whole needs --pasting 0: pasted photos must have one size")
    if options.precision == "fp16":
        raise UsageError("--precision fp16 is for serving; training takes fp32 or bf16")
    options.command = shlex.join(["python", "-m", "app.train", *argv])
    return options


def saved_options(folder: RunFolder) -> dict[str, Any]:
    """Return the options that a run was started with.

    Raises:
        UsageError: If there is no run, or its `config.json` is damaged.
    """
    try:
        options = dict(folder.read_config()["options"])
        missing = {field.name for field in dataclasses.fields(Recipe)} - options.keys()
        if missing:
            raise UsageError(
                f"{folder.config}: another version began this run: it knew no "
                f"{', '.join(sorted(missing))}"
            )
        for key in ("data", "init_from"):
            options[key] = None if options[key] is None else Path(options[key])
        for key in ("scale", "late_scale", "crop"):
            options[key] = options[key] and tuple(options[key])
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{folder.config}: damaged: {error!r}") from None
    return options
