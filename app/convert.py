"""`python -m app.convert`: the FCN paper's published weights -> a checkpoint."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import torch

from app.cli import check_places, model_name, parser, run
from app.errors import UsageError
from app.inference.device import DTYPES
from app.train.datasets import read_classes
from model import Card, ClassInfo, save_checkpoint
from model.caffemodel import PublishedWeightsError
from model.class_lists import NYUD_CLASSES, SIFT_FLOW_CLASSES, VOC_CLASSES
from model.files import sha256
from model.published import (
    NETS,
    NYUD_MEAN,
    SIFT_FLOW_MEAN,
    VOC_MEAN,
    PublishedNet,
    read_published,
)


class Task(NamedTuple):
    """What a net was trained for.

    Attributes:
        name: Begins the checkpoint's default name; empty for classes of the user's own.
        classes: In index order.
        mean: Of the net's input, red, green, blue, 0 to 255.
    """

    name: str
    classes: tuple[ClassInfo, ...]
    mean: tuple[float, float, float]


TASKS: Final = {
    "voc": Task("voc", VOC_CLASSES, VOC_MEAN),
    "nyud": Task("nyud", NYUD_CLASSES, NYUD_MEAN),
    "sift-flow": Task("sift-flow", SIFT_FLOW_CLASSES, SIFT_FLOW_MEAN),
}


def convert(
    source: Path, out: Path, *, net: str | None, classes: str | None, name: str | None, dtype: str
) -> str:
    """Write a checkpoint of published weights.

    Args:
        source: A `.pth` or `.caffemodel`.
        out: The checkpoint.
        net: A key of `model.published.NETS`, or None to tell it by the file's layers.
        classes: A key of `TASKS`, the path of a `classes.txt`, or None to tell them by number.
        name: Of the checkpoint; None for one made of task and net.
        dtype: Number format of the kernels, a key of `DTYPES`.

    Returns:
        A line that says what was made.

    Raises:
        UsageError: If the weights cannot be used, or the classes are not as many as theirs.
        OSError: If a file cannot be read or written.
    """
    task = _named_task(classes) if classes is not None else None
    digest = sha256(source)
    try:
        published = read_published(source, net=net)
    except PublishedWeightsError as error:
        raise UsageError(str(error)) from None
    network = published.net
    if task is None:
        task = _task_by_number(source, network.num_classes)
    if len(task.classes) != network.num_classes:
        raise UsageError(
            f"{source} has {network.num_classes} classes, --classes {classes} "
            f"has {len(task.classes)}"
        )
    network.mean.copy_(torch.tensor(task.mean).view(3, 1, 1))
    card = Card(
        name=name or _default_name(task, published),
        architecture=network.architecture,
        classes=task.classes,
        training={"converted_from": source.name, "sha256": digest, "net": published.name},
    )
    save_checkpoint(out, network, card, dtype=DTYPES[dtype])
    return f"{out}: {card.name}, {_summary(published)}, {out.stat().st_size / 1e6:.1f} MB"


def _named_task(classes: str) -> Task:
    return TASKS.get(classes) or Task("", read_classes(Path(classes)), VOC_MEAN)


def _task_by_number(source: Path, num_classes: int) -> Task:
    for task in TASKS.values():
        if len(task.classes) == num_classes:
            return task
    known = ", ".join(f"{name} has {len(task.classes)}" for name, task in TASKS.items())
    raise UsageError(
        f"{source} has {num_classes} classes ({known}): name them with --classes FILE, "
        "a class name a line"
    )


def _default_name(task: Task, published: PublishedNet) -> str:
    # "fcn-alexnet" says its backbone itself.
    backbone = "" if "-alexnet" in published.name else published.net.architecture.backbone
    return "-".join(word for word in (task.name, published.name, backbone) if word)


def _summary(published: PublishedNet) -> str:
    sizes = [parameter.numel() for parameter in published.net.parameters()]
    parts = [
        f"{published.net.num_classes} classes",
        f"{len(sizes)} tensors",
        f"{sum(sizes):,} parameters",
    ]
    if published.left_out:
        parts.append(f"without {', '.join(published.left_out)}")
    if published.guessed:
        parts.append("taken for the staged net (at-once weights need --net fcn8s-atonce)")
    return ", ".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    arguments = parser(
        "convert",
        "Make a checkpoint of weights that the FCN paper's authors (.caffemodel) or pytorch-fcn "
        "(.pth) published. It gives the published net's masks and serves like any other.",
        "python -m app.convert fcn8s-heavy-pascal.caffemodel --out voc-fcn8s.safetensors",
    )
    arguments.add_argument("source", type=Path, metavar="SRC", help=".pth or .caffemodel")
    arguments.add_argument(
        "--out", type=Path, metavar="FILE", required=True, help="the checkpoint, .safetensors"
    )
    arguments.add_argument(
        "--net",
        choices=tuple(NETS),
        help="which net it is; needed only for at-once weights in a .pth, else the file tells",
    )
    arguments.add_argument(
        "--classes",
        metavar="LIST",
        help=f"{', '.join(TASKS)}, or a file with a class name a line, optionally R G B "
        "(default: the list with the file's number of classes)",
    )
    arguments.add_argument(
        "--name", type=model_name, help="name of the checkpoint (default: dataset and network)"
    )
    arguments.add_argument(
        "--save-precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="number format of the kernels; bf16 halves the file and moves a few pixels",
    )
    options = arguments.parse_args(argv)

    def convert_command() -> int:
        check_places(options.out)
        if options.out.exists() and options.out.samefile(options.source):
            raise UsageError(f"{options.source} would be overwritten; give another --out")
        line = convert(
            options.source,
            options.out,
            net=options.net,
            classes=options.classes,
            name=options.name,
            dtype=options.save_precision,
        )
        print(line)
        return 0

    return run(convert_command)


if __name__ == "__main__":
    sys.exit(main())
