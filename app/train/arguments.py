"""The command line of `python -m app.train`."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from app.cli import (
    OneLineParser,
    add_data,
    add_device,
    add_split_options,
    integer,
    number,
    parser,
    size,
)
from app.errors import UsageError
from app.train.datasets import DATASETS
from app.train.recipes import RECIPES, Recipe
from app.train.run_folder import RunFolder
from model.backbones import BACKBONES
from model.checkpoint import NAME_PATTERN
from model.fcn import VARIANTS

RESUMABLE: Final = {"data"}
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
        "--out", type=Path, metavar="DIR", default=Path("runs/train"), help="folder of the run"
    )
    arguments.add_argument(
        "--resume", action="store_true", help="go on with the run in --out exactly where it stopped"
    )
    add_split_options(arguments)
    arguments.add_argument(
        "--name", type=_name, help="name of the checkpoint (default: dataset and network)"
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
    add_device(arguments)

    network = arguments.add_argument_group("network")
    network.add_argument("--variant", choices=tuple(VARIANTS), help="default: fcn8s")
    network.add_argument("--backbone", choices=BACKBONES, help="default: vgg16_bn")
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
        help="number format of the kernels in best.safetensors (default: that of training)",
    )

    group = arguments.add_argument_group("recipe")
    for field in dataclasses.fields(Recipe):
        flag = "--" + field.name.replace("_", "-")
        default = getattr(recipe, field.name)
        group.add_argument(flag, default=default, **_RECIPE_OPTIONS[field.name])
    return arguments


def _class_weighting(text: str) -> float:
    value = number(0)(text)
    if 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not above 1, nor 0 for equal weights")
    return value


def _name(text: str) -> str:
    if not NAME_PATTERN.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no model name: letters, digits and any of _ . : + - only"
        )
    return text


_RECIPE_OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "epochs": {"type": integer(1), "metavar": "N", "help": "passes over the training photos"},
    "max_steps": {"type": integer(0), "metavar": "N", "help": "end after N steps; 0: no limit"},
    "batch_size": {"type": integer(2), "metavar": "N", "help": "photos a step"},
    "crop": {"type": size, "metavar": "HxW", "help": "what a step sees of a photo, pixels"},
    "scale": {
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
    "learning_rate": {"type": number(0), "metavar": "X", "help": "peak of AdamW's rate"},
    "warmup": {
        "type": number(0, 0.9999),
        "metavar": "F",
        "help": "share of steps with a rising rate",
    },
    "weight_decay": {"type": number(0), "metavar": "X", "help": "of kernels"},
    "class_weighting": {
        "type": _class_weighting,
        "metavar": "C",
        "help": "class weights 1 / ln(C + frequency); 0 for equal ones",
    },
    "dropout": {"type": number(0, 0.9999), "metavar": "F", "help": "after fc6 and fc7"},
    "ema": {
        "type": number(0, 0.9999),
        "metavar": "F",
        "help": "decay of the averaged weights, 0: none",
    },
    "val_every": {"type": integer(1), "metavar": "N", "help": "epochs between validations"},
}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line, with defaults from the dataset's recipe or the resumed run.

    Raises:
        UsageError: If arguments contradict each other or the run to resume.
    """
    first = OneLineParser(prog="fcn train", add_help=False)
    first.add_argument("--dataset", default="folder")
    dataset = first.parse_known_args(argv)[0].dataset
    arguments = make_parser(RECIPES.get(dataset, RECIPES["folder"]))
    options = arguments.parse_args(argv)
    if options.resume:
        saved = saved_options(RunFolder(options.out))
        arguments.set_defaults(**saved)
        options = arguments.parse_args(argv)
        options.scale = tuple(options.scale)
        for key in saved.keys() - RESUMABLE:
            if getattr(options, key) not in (saved[key], "auto"):
                flag = "--" + key.replace("_", "-")
                raise UsageError(
                    f"{options.out} was started with {flag} {saved[key]}: a run goes on with the "
                    "arguments it began with"
                )
        options.precision = saved["precision"]
    low, high = options.scale = tuple(options.scale)
    if low > high:
        raise UsageError(f"--scale {low} {high}: the lower factor comes first")
    if options.precision == "fp16":
        raise UsageError("--precision fp16 is for serving; training takes fp32 or bf16")
    return options


def saved_options(folder: RunFolder) -> dict[str, Any]:
    """Return the options that a run was started with.

    Raises:
        UsageError: If there is no run, or its `config.json` is damaged.
    """
    try:
        options = dict(folder.read_config()["options"])
        for key in ("data", "init_from"):
            options[key] = None if options[key] is None else Path(options[key])
        for key in ("crop", "scale"):
            options[key] = tuple(options[key])
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{folder.config}: damaged: {error!r}") from None
    return options
