"""Which photos evaluate and calibrate look at, given what the checkpoint tells of its training."""

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from app import calibrate, evaluate
from app.errors import UsageError
from app.labelled_split import add_labelled_split, open_labelled_split
from app.train.datasets import open_dataset
from app.train.layouts import NotSplitError
from model import Architecture, Card, load_checkpoint, named_classes, save_checkpoint

SHARE, SEED = 0.4, 7
NAMES = [f"{number}.png" for number in range(10)]
SPOT = (20, 20, 20)


def write_photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 4)).save(path)


def write_folder(data: Path, names: Sequence[str], split: str = "") -> None:
    (data / split / "masks").mkdir(parents=True, exist_ok=True)
    (data / "classes.txt").write_text("background\nspot\n")
    for name in names:
        write_photo(data / split / "images" / name)
        Image.fromarray(np.ones((4, 8), np.uint8)).save(data / split / "masks" / name)


def write_labelmap(data: Path, names: Sequence[str], split: str = "default") -> None:
    masks, lists = data / "SegmentationClass", data / "ImageSets" / "Segmentation"
    for folder in (masks, lists):
        folder.mkdir(parents=True, exist_ok=True)
    (data / "labelmap.txt").write_text("background:0,0,0::\nspot:20,20,20::\n")
    (lists / f"{split}.txt").write_text("".join(f"{Path(name).stem}\n" for name in names))
    for name in names:
        write_photo(data / "JPEGImages" / name)
        Image.new("RGB", (8, 4), SPOT).save(masks / name)


def write_coco(data: Path, names: Sequence[str], split: str = "default") -> None:
    (data / "annotations").mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {"categories": [{"id": 1, "name": "spot"}]}
    document["images"] = [
        {"id": number, "file_name": name, "width": 8, "height": 4}
        for number, name in enumerate(names)
    ]
    square = [[0, 0, 8, 0, 8, 4, 0, 4]]
    document["annotations"] = [
        {"id": number, "image_id": number, "category_id": 1, "segmentation": square}
        for number in range(len(names))
    ]
    (data / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    for name in names:
        write_photo(data / "images" / name)


LAYOUTS = {"coco": write_coco, "folder": write_folder, "labelmap": write_labelmap}


def trained_on(dataset: str, train: int = 6, val: int = 4, **more: object) -> Card:
    """Return the card of a training that drew val from ten photos."""
    training = {
        "dataset": dataset,
        "photos": {"train": train, "val": val},
        "val_fraction": SHARE,
        "seed": SEED,
        **more,
    }
    return Card("c", Architecture(), named_classes(["background", "spot"]), training)


def looked_at(card: Card, dataset: str, data: Path, *words: str) -> tuple[list[str], str]:
    """Return the names of the photos that a command would look at, and what it says."""
    arguments = argparse.ArgumentParser()
    add_labelled_split(arguments)
    options = arguments.parse_args(["--dataset", dataset, "--data", str(data), *words])
    console = Console(file=StringIO())
    opened = open_labelled_split(options, card, console)
    return [Path(name).name for name in opened.names], console.file.getvalue()


def drawn(dataset: str, data: Path, split: str = "val", seed: int = SEED) -> list[str]:
    opened = open_dataset(dataset, data, split, val_fraction=SHARE, seed=seed)
    return [Path(name).name for name in opened.names]


@pytest.mark.parametrize(("dataset", "write"), LAYOUTS.items())
def test_unsplit_photos_are_drawn_as_the_training_drew_them(
    tmp_path: Path, dataset: str, write: Callable[..., None]
) -> None:
    write(tmp_path, NAMES)
    card = trained_on(dataset)
    val = drawn(dataset, tmp_path)
    assert val != drawn(dataset, tmp_path, seed=0)
    assert looked_at(card, dataset, tmp_path) == (val, "")
    train = drawn(dataset, tmp_path, "train")
    assert looked_at(card, dataset, tmp_path, "--split", "train") == (train, "")
    other = drawn(dataset, tmp_path, seed=1)
    assert looked_at(card, dataset, tmp_path, "--seed", "1") == (other, "")


@pytest.mark.parametrize(("dataset", "write"), LAYOUTS.items())
def test_groups_are_kept_together_as_the_training_kept_them(
    tmp_path: Path, dataset: str, write: Callable[..., None]
) -> None:
    names = [f"street{street}_{frame}.png" for street in range(5) for frame in range(2)]
    write(tmp_path, names)
    val, said = looked_at(trained_on(dataset, group_by="street[0-9]"), dataset, tmp_path)
    assert len(val) == 4
    assert len({name.partition("_")[0] for name in val}) == 2
    assert said == ""
    asked = looked_at(trained_on(dataset), dataset, tmp_path, "--group-by", "street[0-9]")
    assert asked == (val, "")


@pytest.mark.parametrize(("dataset", "write"), LAYOUTS.items())
def test_photos_that_are_split_need_no_draw_though_the_training_drew(
    tmp_path: Path, dataset: str, write: Callable[..., None]
) -> None:
    write(tmp_path, NAMES[:3], "test")
    card = trained_on(dataset)
    assert looked_at(card, dataset, tmp_path, "--split", "test") == (NAMES[:3], "")
    with pytest.raises(UsageError, match="--val-fraction is for a folder that is not split"):
        looked_at(card, dataset, tmp_path, "--split", "test", "--val-fraction", "0.4")


@pytest.mark.parametrize(("dataset", "write"), LAYOUTS.items())
def test_photos_added_since_the_training_are_warned_of(
    tmp_path: Path, dataset: str, write: Callable[..., None]
) -> None:
    # As many fall to val as before, and yet they are others.
    write(tmp_path, [*NAMES, "new.png"])
    val, said = looked_at(trained_on(dataset), dataset, tmp_path)
    assert len(val) == 4
    assert said.startswith(f"warning: {tmp_path}: 11 photos to draw from, 10 when")
    assert said.count("\n") == 1
    _, said = looked_at(trained_on(dataset), dataset, tmp_path, "--val-fraction", str(SHARE))
    assert said.startswith("warning: ")


@pytest.mark.parametrize(("dataset", "write"), LAYOUTS.items())
def test_what_the_training_left_out_is_val(
    tmp_path: Path, dataset: str, write: Callable[..., None]
) -> None:
    left_out = ["night1.png", "night2.png"]
    write(tmp_path, [*NAMES, *left_out])
    prefix = open_dataset(dataset, tmp_path, "train", val_fraction=0.0).names[-1].rpartition("2")[0]
    card = trained_on(dataset, val_fraction=None, left_out=prefix)
    assert looked_at(card, dataset, tmp_path) == (left_out, "")
    assert looked_at(card, dataset, tmp_path, "--split", "train") == (NAMES, "")


def test_without_a_share_from_anywhere_unsplit_photos_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, NAMES)
    for card in (trained_on("coco"), trained_on("folder", val_fraction=None)):
        with pytest.raises(NotSplitError, match="give the share for val"):
            looked_at(card, "folder", tmp_path)


@pytest.mark.parametrize("command", ["evaluate", "calibrate"])
def test_the_commands_look_at_them(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    net, card = load_checkpoint(checkpoint)
    classes = named_classes(["background", "spot"])
    card = dataclasses.replace(card, classes=classes, training=trained_on("folder").training)
    source = tmp_path / "trained.safetensors"
    save_checkpoint(source, net, card)
    write_folder(tmp_path / "heldout", NAMES[:2], "test")
    write_folder(tmp_path / "grown", [*NAMES, "new.png"])
    main = {"evaluate": evaluate.main, "calibrate": calibrate.main}[command]
    fixed = ["--checkpoint", str(source), "--dataset", "folder", "--device", "cpu"]
    if command == "calibrate":
        fixed += ["--out", str(tmp_path / "out.safetensors")]
    assert main([*fixed, "--data", str(tmp_path / "heldout"), "--split", "test"]) == 0
    assert "warning" not in capsys.readouterr().out
    assert main([*fixed, "--data", str(tmp_path / "grown")]) == 0
    assert capsys.readouterr().out.startswith("warning: ")
