import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.errors import UsageError
from app.train.datasets import (
    CAMVID_CLASSES,
    SPLITS,
    SPLITS_OF,
    class_pixels,
    load_sample,
    open_dataset,
    read_classes,
)
from model import VOID


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def save_grey(path: Path, label: np.ndarray, bits: int) -> None:
    """Save a grey PNG of fewer than eight bits a pixel, as Pillow cannot."""
    rows = (label[..., None] >> np.arange(bits - 1, -1, -1) & 1).reshape(len(label), -1)
    lines = b"".join(b"\0" + np.packbits(row.astype(np.uint8)).tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", label.shape[1], len(label), bits, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    )


def add_pair(root: Path, stem: str, label: np.ndarray, suffix: str = ".png") -> None:
    save(root / "images" / f"{stem}{suffix}", np.full((*label.shape, 3), 77))
    save(root / "masks" / f"{stem}.png", label)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five photos of two classes, without train/ and val/."""
    (tmp_path / "classes.txt").write_text("leaf 10 200 30\nsick spot\n")
    for number in range(5):
        label = np.full((6, 8), number % 2)
        label[0, 0] = VOID
        add_pair(tmp_path, f"photo{number}", label, ".png" if number else ".jpg")
    return tmp_path


def test_folder_is_split_by_fraction_reproducibly_and_without_overlap(folder: Path) -> None:
    train, val = (open_dataset("folder", folder, s, val_fraction=0.4) for s in ("train", "val"))
    assert (len(train), len(val)) == (3, 2)
    assert not set(train.names) & set(val.names)
    assert open_dataset("folder", folder, "val", val_fraction=0.4).names == val.names
    names = {
        tuple(open_dataset("folder", folder, "val", val_fraction=0.4, seed=s).names)
        for s in range(9)
    }
    assert len(names) > 1


def test_photos_that_are_added_move_hardly_any_to_the_other_side(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("leaf\nspot\n")

    def drawn() -> dict[str, set[str]]:
        return {
            split: set(open_dataset("folder", tmp_path, split, val_fraction=0.2).names)
            for split in ("train", "val")
        }

    for number in range(40):
        add_pair(tmp_path, f"b{number}", np.zeros((2, 2)))
    before = drawn()
    for number in range(40):  # by name before and behind those
        add_pair(tmp_path, f"{'ac'[number % 2]}{number}", np.zeros((2, 2)))
    after = drawn()
    assert len(after["val"]) == 16
    assert len(before["train"] & after["val"]) <= 2  # any order at all would move six


def test_photos_of_a_group_stay_together(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("leaf\nspot\n")
    for street in range(8):
        for frame in range(5):
            add_pair(tmp_path, f"street{street}_{frame}", np.zeros((2, 2)))

    def streets(split: str, group_by: str) -> list[str]:
        found = open_dataset("folder", tmp_path, split, val_fraction=0.2, group_by=group_by)
        return [name.partition("_")[0] for name in found.names]

    for group_by in (r"street\d", r"^[^_]+"):
        train, val = streets("train", group_by), streets("val", group_by)
        assert not set(train) & set(val)
        assert (len(train), len(val)) == (30, 10)  # a fifth, in whole streets
    with pytest.raises(UsageError, match=r"--group-by _0 finds nothing in street0_1"):
        streets("val", "_0")
    with pytest.raises(UsageError, match="all photos are of the group street"):
        streets("val", "street")


def test_the_last_group_is_left_to_train(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("leaf\nspot\n")
    for name in ("a1", "a2", "a3", "b1"):
        add_pair(tmp_path, name, np.zeros((2, 2)))
    splits = [
        open_dataset("folder", tmp_path, split, val_fraction=0.9, group_by="[ab]").names
        for split in ("train", "val")
    ]
    assert sorted(map(len, splits)) == [1, 3]


def test_folder_with_train_and_val(folder: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        add_pair(folder / split, f"in-{split}", np.zeros((2, 2)))
    (folder / "images").rename(folder / "unused")
    assert open_dataset("folder", folder, "val").names == ["in-val.png"]


def test_samples_are_tensors_with_void_as_255(folder: Path) -> None:
    dataset = open_dataset("folder", folder, "train", val_fraction=0.2)
    photo, label = load_sample(dataset, 0)
    assert photo.shape == (3, 6, 8)
    assert label.shape == (6, 8)
    assert label[0, 0] == VOID
    assert photo.unique().tolist() == [77]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_labels_of_few_bits_are_indices_too(tmp_path: Path, bits: int) -> None:
    label = np.arange(24).reshape(4, 6) % 2**bits
    add_pair(tmp_path, "a", label)
    add_pair(tmp_path, "b", label)
    save_grey(tmp_path / "masks" / "a.png", label, bits)
    (tmp_path / "classes.txt").write_text("".join(f"class {n}\n" for n in range(16)))
    train, val = (
        open_dataset("folder", tmp_path, split, val_fraction=0.5) for split in ("train", "val")
    )
    for dataset in (train, val):
        assert np.array_equal(load_sample(dataset, 0).label, label)


def test_classes_have_names_and_colours(folder: Path) -> None:
    leaf, spot = read_classes(folder / "classes.txt")
    assert (leaf.name, leaf.color) == ("leaf", (10, 200, 30))
    assert spot.name == "sick spot"


def test_class_pixels_leave_void_out(folder: Path) -> None:
    dataset = open_dataset("folder", folder, "train", val_fraction=0.2)
    assert class_pixels(dataset).sum() == len(dataset) * (6 * 8 - 1)


def test_camvid_reads_jpg_and_png_and_maps_its_void(tmp_path: Path) -> None:
    for stem, suffix in (("a", ".jpg"), ("b", ".png")):
        save(tmp_path / "train" / (stem + suffix), np.zeros((3, 4, 3)))
        save(tmp_path / "trainannot" / f"{stem}.png", np.full((3, 4), 11 if stem == "a" else 10))
    dataset = open_dataset("camvid", tmp_path, "train")
    assert dataset.classes == CAMVID_CLASSES
    assert [np.unique(dataset.label(index)).tolist() for index in (0, 1)] == [[VOID], [10]]


def test_drawings_repeat_and_splits_differ() -> None:
    first, again = open_dataset("shapes", None, "train"), open_dataset("shapes", None, "train")
    val = open_dataset("shapes", None, "val")
    assert np.array_equal(first.photo(3), again.photo(3))
    assert np.array_equal(first.label(3), again.label(3))
    assert not np.array_equal(first.photo(3), val.photo(3))
    assert (class_pixels(first) > 0).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "0 classes"),
        ("a 300 0 0", "line 1: colours"),
        ("a\na", "same name"),
        ("a,b", "cannot be told"),
        ("7", "cannot be told"),
        ("\n".join(f"class{n}" for n in range(256)), "256 classes"),
    ],
)
def test_wrong_classes_are_refused(folder: Path, text: str, message: str) -> None:
    (folder / "classes.txt").write_text(text)
    with pytest.raises(UsageError, match=message):
        open_dataset("folder", folder, "train", val_fraction=0.2)


def break_label_value(folder: Path) -> None:
    save(folder / "masks" / "photo1.png", np.full((6, 8), 9))


def break_label_mode(folder: Path) -> None:
    save(folder / "masks" / "photo1.png", np.zeros((6, 8, 3)))


def break_label_size(folder: Path) -> None:
    save(folder / "masks" / "photo1.png", np.zeros((6, 9)))


def turn_photo(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(folder / "images" / "photo1.png", exif=exif)


def break_label_file(folder: Path) -> None:
    (folder / "masks" / "photo1.png").write_text("not a picture")


def break_photo_file(folder: Path) -> None:
    (folder / "images" / "photo1.png").write_text("not a picture")


def remove_label(folder: Path) -> None:
    (folder / "masks" / "photo1.png").unlink()


def double_stem(folder: Path) -> None:
    save(folder / "images" / "photo1.jpg", np.zeros((6, 8, 3)))


def remove_photos(folder: Path) -> None:
    for path in (folder / "images").iterdir():
        path.unlink()


def read_everything(folder: Path) -> None:
    for split in ("train", "val"):
        dataset = open_dataset("folder", folder, split, val_fraction=0.2)
        for index in range(len(dataset)):
            load_sample(dataset, index)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_label_value, r"photo1\.png: label 9 is outside the 2 classes"),
        (break_label_mode, r"photo1\.png: .*this one is RGB"),
        (break_label_size, r"photo1\.png is 8x6, its label map is 9x6$"),
        (turn_photo, r"photo1\.png is 6x8, its label map is 8x6; .* EXIF"),
        (break_label_file, r"masks/photo1\.png: cannot be read"),
        (break_photo_file, r"images/photo1\.png"),
        (remove_label, r"photo1\.png: its label map .* is missing"),
        (double_stem, r"photo1\.png: photo1\.jpg has the same stem"),
        (remove_photos, "no photos"),
    ],
)
def test_damage_is_named_with_its_file(folder: Path, damage, message: str) -> None:
    damage(folder)
    with pytest.raises(UsageError, match=message):
        read_everything(folder)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("camvid", None, "needs --data"),
        ("folder", Path("nowhere"), "no such folder"),
    ],
)
def test_missing_data_is_named(name: str, data: Path | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_dataset(name, data, "train")


def test_an_unknown_split_is_answered_with_the_known_ones(folder: Path) -> None:
    for name, known in SPLITS_OF.items():
        with pytest.raises(UsageError, match=f"{name} has no split minival: .*{', '.join(known)}"):
            open_dataset(name, folder, "minival")
        assert set(known) <= set(SPLITS)


@pytest.mark.parametrize("name", ["camvid", "folder", "shapes"])
def test_what_cannot_be_fetched_is_said(folder: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"--download is for sbd and voc, not for {name}"):
        open_dataset(name, folder, "val", download=True)


def test_an_unsplit_folder_asks_for_a_fraction(folder: Path) -> None:
    with pytest.raises(UsageError, match="--val-fraction"):
        open_dataset("folder", folder, "train")
