"""`python -m app.train --check`, as its user meets it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.train import shapes
from app.train.__main__ import main
from app.train.data_problems import SHOWN_OF_A_KIND
from model import VOID

SIZE = (30, 40)


@dataclass
class Answer:
    code: int
    out: str
    err: str

    def lines(self, word: str) -> list[str]:
        return [line for line in self.out.splitlines() if line.startswith(f"{word}: ")]


Check = Callable[..., Answer]


@pytest.fixture
def check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Check:
    def run(dataset: str, data: Path, *words: str) -> Answer:
        out = tmp_path / "run"
        argv = ["train", "--check", "--dataset", dataset, "--data", str(data), "--out", str(out)]
        monkeypatch.setattr("sys.argv", [*argv, *words])
        code = main()
        assert not out.exists()
        return Answer(code, *capsys.readouterr())

    return run


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def photo_of(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (*SIZE, 3), np.uint8)


def label_of(number: int) -> np.ndarray:
    """Half of it ground, a little void, the rest leaf and sick spot."""
    label = np.zeros(SIZE, np.uint8)
    label[:, 20:] = 1
    label[5:9, 22 + number % 3 :] = 2
    label[0, :7] = VOID
    return label


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three photos in train, two in val, all as they should be."""
    root = tmp_path / "data"
    for number in range(5):
        split = root / ("train" if number < 3 else "val")
        save(split / "images" / f"{number}.png", photo_of(number))
        save(split / "masks" / f"{number}.png", label_of(number))
    (root / "classes.txt").write_text("ground\nleaf\nsick spot\n")
    return root


def test_good_data_are_counted_and_pass(folder: Path, check: Check) -> None:
    answer = check("folder", folder, "--class-weighting", "0")
    assert answer.code == 0
    assert answer.err == ""
    assert not answer.lines("error") + answer.lines("warning")
    assert "errors: 0, warnings: 0" in answer.out
    rows = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in answer.out.splitlines()
        if line.startswith("│")
    ]
    spots = sum(int((label_of(number) == 2).sum()) for number in range(3))
    leaves = sum(int((label_of(number) == 1).sum()) for number in range(3))
    grounds = 3 * (30 * 20 - 7)
    total = grounds + leaves + spots
    assert rows[:4] == [
        ["ground", "3", f"{grounds:,}", f"{grounds / total:.2%}", "1.000"],
        ["leaf", "3", f"{leaves:,}", f"{leaves / total:.2%}", "1.000"],
        ["sick spot", "3", f"{spots:,}", f"{spots / total:.2%}", "1.000"],
        ["void", "", "21", "", ""],
    ]
    assert [row[:2] for row in rows[4:]] == [
        ["ground", "2"],
        ["leaf", "2"],
        ["sick spot", "2"],
        ["void", ""],
    ]


def test_class_weights_are_those_of_the_recipe(folder: Path, check: Check) -> None:
    answer = check("folder", folder, "--class-weighting", "1.02")
    pixels = sum(np.bincount(label_of(n).ravel(), minlength=256)[:3] for n in range(3))
    weights = 1 / np.log(1.02 + pixels / pixels.sum())
    for weight in weights / weights.mean():
        assert f" {weight:.3f} " in answer.out


def cut_photo(folder: Path) -> None:
    path = folder / "train" / "images" / "0.png"
    path.write_bytes(path.read_bytes()[:-900])


def empty_photo(folder: Path) -> None:
    (folder / "val" / "images" / "3.png").write_bytes(b"")


def cut_mask(folder: Path) -> None:
    path = folder / "train" / "masks" / "0.png"
    path.write_bytes(path.read_bytes()[:50])


def coloured_mask(folder: Path) -> None:
    save(folder / "train" / "masks" / "0.png", photo_of(0))


def label_outside(folder: Path) -> None:
    label = label_of(0)
    label[3, 3] = 3
    save(folder / "train" / "masks" / "0.png", label)


def other_size(folder: Path) -> None:
    save(folder / "train" / "masks" / "0.png", label_of(0)[1:])


def remove_mask(folder: Path) -> None:
    (folder / "train" / "masks" / "0.png").unlink()


def twin_stem(folder: Path) -> None:
    save(folder / "train" / "images" / "0.bmp", photo_of(9))


def unlabel_val(folder: Path) -> None:
    for path in (folder / "val" / "masks").iterdir():
        save(path, np.full(SIZE, VOID, np.uint8))


def white_for_the_second_class(folder: Path) -> None:
    (folder / "classes.txt").write_text("ground\nleaf\n")
    for path in folder.glob("*/masks/*.png"):
        save(path, np.where(np.array(Image.open(path)) > 0, 255, 0).astype(np.uint8))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_photo, "train/images/0.png: The PNG file is damaged, cut short"),
        (empty_photo, "val/images/3.png: "),
        (cut_mask, "train/masks/0.png: cannot be read as a label map"),
        (coloured_mask, "train/masks/0.png: label maps hold one class index a pixel"),
        (label_outside, "train/masks/0.png: label 3 is outside the 3 classes"),
        (other_size, "train/images/0.png is 40x30, its label map is 40x29"),
        (remove_mask, "train/images/0.png: its label map "),
        (twin_stem, "train/images/0.png: 0.bmp has the same stem"),
        (unlabel_val, "no pixel of the val split is labelled"),
        (white_for_the_second_class, "all labelled pixels of train are ground: there is nothing"),
    ],
)
def test_an_error_is_a_line_and_exit_code_2(
    folder: Path, check: Check, damage: Callable[[Path], None], message: str
) -> None:
    damage(folder)
    answer = check("folder", folder)
    assert answer.code == 2
    (line,) = answer.lines("error")
    assert message in line
    assert "errors: 1" in answer.out


def unused_mask(folder: Path) -> None:
    save(folder / "val" / "masks" / "old.png", label_of(0))


def class_without_pixels(folder: Path) -> None:
    for path in (folder / "val" / "masks").iterdir():
        save(path, np.minimum(label_of(0), 1))


def class_without_training(folder: Path) -> None:
    (folder / "classes.txt").write_text("ground\nleaf\nsick spot\nfruit\n")
    label = label_of(3)
    label[20:] = 3
    save(folder / "val" / "masks" / "3.png", label)


def forgotten_mask(folder: Path) -> None:
    label = np.full(SIZE, VOID, np.uint8)
    label[0, 0] = 1
    save(folder / "train" / "masks" / "0.png", label)


def one_class(folder: Path) -> None:
    save(folder / "train" / "masks" / "0.png", np.zeros(SIZE, np.uint8))


def speck(folder: Path) -> None:
    label = np.zeros(SIZE, np.uint8)
    label[0, 0] = 1
    save(folder / "train" / "masks" / "0.png", label)


def photo_in_both(folder: Path) -> None:
    save(folder / "val" / "images" / "3.png", photo_of(0))


def photo_twice(folder: Path) -> None:
    save(folder / "train" / "images" / "1.png", photo_of(0))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (unused_mask, "val/masks/old.png: no photo belongs to this label map"),
        (class_without_pixels, "val has no pixel of sick spot: nothing will tell how well"),
        (class_without_training, "train has no pixel of fruit: it cannot be learned"),
        (forgotten_mask, "train/images/0.png: 1 of its 1200 pixels are labelled"),
        (one_class, "train/images/0.png: all its labelled pixels are ground"),
        (speck, "train/images/0.png: all its labelled pixels but 1 are ground"),
        (photo_in_both, "val/images/3.png (val) is the same photo as "),
        (photo_twice, "train/images/1.png (train) is the same photo as "),
    ],
)
def test_a_warning_is_a_line_and_exit_code_0(
    folder: Path, check: Check, damage: Callable[[Path], None], message: str
) -> None:
    damage(folder)
    answer = check("folder", folder)
    assert answer.code == 0
    (line,) = answer.lines("warning")
    assert message in line
    assert "errors: 0, warnings: 1" in answer.out


def test_the_same_photo_is_found_under_another_name_and_format(folder: Path, check: Check) -> None:
    (folder / "val" / "images" / "3.png").unlink()
    save(folder / "val" / "images" / "3.bmp", photo_of(0))
    (line,) = check("folder", folder).lines("warning")
    assert f"{folder}/val/images/3.bmp (val)" in line
    assert f"{folder}/train/images/0.png (train)" in line


def test_everything_is_listed_errors_first(folder: Path, check: Check) -> None:
    for damage in (photo_twice, cut_photo, unused_mask, label_outside):
        damage(folder)
    save(folder / "val" / "masks" / "4.png", label_of(4)[1:])
    answer = check("folder", folder)
    assert answer.code == 2
    found = [line for line in answer.out.splitlines() if line.startswith(("error:", "warning:"))]
    assert [line.split(":")[0] for line in found] == ["error"] * 3 + ["warning"]
    assert "errors: 3, warnings: 1" in answer.out


def test_what_is_wrong_everywhere_does_not_hide_the_rest(folder: Path, check: Check) -> None:
    count = SHOWN_OF_A_KIND + 5
    for number in range(count):
        save(folder / "train" / "images" / f"more{number}.png", photo_of(100 + number))
    label_outside(folder)
    answer = check("folder", folder)
    lines = answer.lines("error")
    assert len(lines) == SHOWN_OF_A_KIND + 2
    assert lines[SHOWN_OF_A_KIND] == (
        "error: and 5 more photos, masks or lines of lists that lack the others"
    )
    assert "label 3 is outside" in lines[-1]
    assert f"errors: {count + 1}" in answer.out


def test_a_split_still_to_be_drawn_is_checked_once(folder: Path, check: Check) -> None:
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    for kind in ("images", "masks"):
        for path in sorted(folder.glob(f"*/{kind}/*.png")):
            shutil.move(path, folder / kind / path.name)
    (folder / "masks" / "0.png").unlink()
    answer = check("folder", folder, "--val-fraction", "0.5")
    assert answer.code == 2
    assert len(answer.lines("error")) == 1
    assert "train: 2 photos" in answer.out
    assert "val: 2 photos" in answer.out


def test_data_that_cannot_be_opened_are_one_line(folder: Path, check: Check) -> None:
    (folder / "classes.txt").unlink()
    answer = check("folder", folder)
    assert answer.code == 2
    assert answer.out == ""
    assert answer.err == (
        f"error: {folder}/classes.txt: no such file; it has a class name a line, optionally R G B\n"
    )


def test_what_was_found_before_the_end_is_shown(folder: Path, check: Check) -> None:
    remove_mask(folder)
    shutil.rmtree(folder / "val")
    answer = check("folder", folder)
    assert answer.code == 2
    assert len(answer.lines("error")) == 1
    assert "neither images/ nor val/images/ is there" in answer.err


def test_colours_and_lists_of_a_cvat_export(tmp_path: Path, check: Check) -> None:
    root = tmp_path / "cvat"
    colors = np.array([(0, 0, 0), (0, 200, 0)], np.uint8)
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    for split, stems in (("train", "abc"), ("val", "de")):
        for stem in stems:
            save(root / "JPEGImages" / f"{stem}.png", photo_of(ord(stem)))
            mask = colors[label_of(ord(stem)) % 2]
            mask[0, 0] = (9, 9, 9) if stem in "ad" else (0, 0, 0)
            save(root / "SegmentationClass" / f"{stem}.png", mask)
        listing = root / "ImageSets" / "Segmentation" / f"{split}.txt"
        listing.write_text("\n".join([*stems, f"gone-{split}"]))
    save(root / "SegmentationClass" / "old.png", colors[label_of(0) % 2])
    (root / "labelmap.txt").write_text("background:0,0,0::\nleaf:0,200,0::\n")
    answer = check("labelmap", root)
    assert answer.code == 2
    errors = "\n".join(answer.lines("error"))
    assert len(answer.lines("error")) == 4
    for text in (
        "train.txt: lists 'gone-train', but JPEGImages has no such photo",
        "val.txt: lists 'gone-val', but JPEGImages has no such photo",
        "SegmentationClass/a.png: the colour 9,9,9 at x 0, y 0",
        "SegmentationClass/d.png: the colour 9,9,9 at x 0, y 0",
    ):
        assert text in errors
    (warning,) = answer.lines("warning")
    assert "SegmentationClass/old.png: no photo belongs" in warning


def test_annotations_of_a_coco_file(tmp_path: Path, check: Check) -> None:
    root = tmp_path / "coco"
    outline = [[5, 5, 30, 5, 30, 25, 5, 25]]
    images = [
        {"id": n, "file_name": f"{n}.png", "height": SIZE[0], "width": SIZE[1]} for n in range(5)
    ]
    annotations = [
        {"id": 70 + n, "image_id": n, "category_id": 1, "segmentation": outline} for n in range(4)
    ]
    annotations += [
        {"id": 80, "image_id": 0, "category_id": 2, "segmentation": outline},
        {"id": 81, "image_id": 0, "category_id": 1, "segmentation": [[1, 2, 3]]},
        {"id": 82, "image_id": 9, "category_id": 1, "segmentation": outline},
    ]
    for number in range(3):
        save(root / "images" / f"{number}.png", photo_of(number))
    categories = [{"id": 1, "name": "leaf"}]
    content = {"categories": categories, "images": images, "annotations": annotations}
    (root / "result.json").write_text(json.dumps(content))
    answer = check("coco", root, "--val-fraction", "0.4")
    assert answer.code == 2
    assert [line.split("result.json: ")[1].split(":")[0] for line in answer.lines("error")] == [
        "annotation 82",
        "annotation 80",
        "annotation 81",
        "image 3",
    ]
    (warning,) = answer.lines("warning")
    assert "image 4, 4.png, has no annotations and is left out" in warning


def test_train_and_val_of_other_classes_are_refused(tmp_path: Path, check: Check) -> None:
    root = tmp_path / "coco"
    for number, (split, name) in enumerate((("train", "leaf"), ("val", "stem"))):
        save(root / "images" / f"{number}.png", photo_of(number))
        content = {
            "categories": [{"id": 1, "name": name}],
            "images": [
                {"id": 1, "file_name": f"{number}.png", "height": SIZE[0], "width": SIZE[1]}
            ],
            "annotations": [
                {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]]}
            ],
        }
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    answer = check("coco", root)
    assert answer.code == 2
    assert (
        "the classes of train (background, leaf) are not those of val (background, stem)"
        in answer.err
    )


def test_drawings_pass(check: Check, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(shapes.COUNTS, "train", 20)
    answer = check("shapes", tmp_path)
    assert answer.code == 0
    assert "train: 20 photos" in answer.out
