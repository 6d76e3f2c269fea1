"""`--dataset labelmap`: folders as CVAT ("Segmentation mask 1.1") and labelme2voc leave them."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.errors import UsageError
from app.train.datasets import LabelledImages, load_sample, open_dataset
from model import VOID
from model.classes import voc_colormap

# As CVAT writes it: by name, the background wherever its name falls.
LABELMAP = """\
# label:color_rgb:parts:actions
Traffic light:250,170,30::
background:0,0,0::
car:0,0,142:wheel,door:driving
void:10,10,10::
"""
LIGHT, BACKGROUND, CAR = range(3)
COLORS = {LIGHT: (250, 170, 30), BACKGROUND: (0, 0, 0), CAR: (0, 0, 142)}
PALETTE = [value for color in voc_colormap(256) for value in color]


def save_photo(path: Path, size: tuple[int, int] = (6, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(sum(path.stem.encode())).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def label_map(stem: str) -> np.ndarray:
    label = np.full((6, 8), BACKGROUND, np.uint8)
    label[1:4, 2:5] = CAR
    label[5, sum(stem.encode()) % 8] = LIGHT
    return label


def painted(label: np.ndarray) -> np.ndarray:
    mask = np.zeros((*label.shape, 3), np.uint8)
    for index, color in COLORS.items():
        mask[label == index] = color
    return mask


def save_mask(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def add(root: Path, stem: str) -> None:
    save_photo(root / "JPEGImages" / f"{stem}.jpg")
    save_mask(root / "SegmentationClass" / f"{stem}.png", painted(label_map(stem)))
    save_mask(root / "SegmentationObject" / f"{stem}.png", painted(label_map(stem)))


def save_list(root: Path, name: str, *stems: str) -> None:
    path = root / "ImageSets" / "Segmentation" / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{stem}\n" for stem in stems))


@pytest.fixture
def cvat(tmp_path: Path) -> Path:
    """A CVAT task of four photos, one of them from a subfolder."""
    root = tmp_path / "cvat"
    stems = ("a", "b", "c", "night/a")
    for stem in stems:
        add(root, stem)
    (root / "labelmap.txt").write_text(LABELMAP)
    save_list(root, "default", *stems)
    return root


@pytest.fixture
def labelme(tmp_path: Path) -> Path:
    """What labelme2voc writes; -1, its `__ignore__`, is 255 in the PNGs."""
    root = tmp_path / "labelme"
    for stem in ("a", "b"):
        save_photo(root / "JPEGImages" / f"{stem}.jpg")
        label = np.zeros((6, 8), np.uint8)
        label[2:4] = 1
        label[0] = VOID
        mask = Image.fromarray(label, mode="P")
        mask.putpalette(PALETTE)
        (root / "SegmentationClassPNG").mkdir(exist_ok=True)
        mask.save(root / "SegmentationClassPNG" / f"{stem}.png")
        (root / "SegmentationClass").mkdir(exist_ok=True)
        np.save(root / "SegmentationClass" / f"{stem}.npy", label.astype(np.int32))
    (root / "class_names.txt").write_text("_background_\nleaf")
    return root


def labels(dataset: LabelledImages) -> dict[str, np.ndarray]:
    return {name: dataset.label(index) for index, name in enumerate(dataset.names)}


def test_colours_become_the_classes_of_labelmap_txt(cvat: Path) -> None:
    found = {}
    for split in ("train", "val"):
        dataset = open_dataset("labelmap", cvat, split, val_fraction=0.5)
        assert [(info.name, info.color) for info in dataset.classes] == [
            ("Traffic light", (250, 170, 30)),
            ("background", (0, 0, 0)),
            ("car", (0, 0, 142)),
        ]
        assert len(dataset) == 2
        assert load_sample(dataset, 0).photo.shape == (3, 6, 8)
        found |= labels(dataset)
    assert sorted(found) == ["a.jpg", "b.jpg", "c.jpg", "night/a.jpg"]
    for name, label in found.items():
        assert np.array_equal(label, label_map(name.removesuffix(".jpg")))


def test_void_is_what_is_called_so_and_the_colour_of_voc(cvat: Path) -> None:
    mask = painted(label_map("a"))
    mask[0, 0], mask[0, 1] = (10, 10, 10), (224, 224, 192)
    save_mask(cvat / "SegmentationClass" / "a.png", mask)
    save_list(cvat, "train", "a")
    save_list(cvat, "val", "b")
    expected = label_map("a")
    expected[0, :2] = VOID
    assert np.array_equal(open_dataset("labelmap", cvat, "train").label(0), expected)


def test_a_listed_colour_of_voc_s_void_is_a_class(cvat: Path) -> None:
    (cvat / "labelmap.txt").write_text(LABELMAP.replace("0,0,142", "224,224,192"))
    mask = np.full((6, 8, 3), (224, 224, 192), np.uint8)
    save_mask(cvat / "SegmentationClass" / "a.png", mask)
    save_list(cvat, "train", "a")
    save_list(cvat, "val", "b")
    assert (open_dataset("labelmap", cvat, "train").label(0) == CAR).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_masks_may_be_stored_in_any_mode_with_colours(cvat: Path, mode: str) -> None:
    path = cvat / "SegmentationClass" / "a.png"
    with Image.open(path) as mask:
        converted = mask.quantize(16, dither=Image.Dither.NONE) if mode == "P" else mask
        (converted if mode == "P" else mask.convert(mode)).save(path)
    with Image.open(path) as mask:
        assert mask.mode == mode
    save_list(cvat, "train", "a")
    save_list(cvat, "val", "b")
    assert np.array_equal(open_dataset("labelmap", cvat, "train").label(0), label_map("a"))


@pytest.mark.parametrize(
    ("train", "val"), [("train", "val"), ("Train", "Validation"), ("train2024", "valid")]
)
def test_lists_named_after_splits_are_the_split(cvat: Path, train: str, val: str) -> None:
    save_list(cvat, train, "a", "a", "", "night/a")
    save_list(cvat, val, "b")
    assert open_dataset("labelmap", cvat, "train").names == ["a.jpg", "night/a.jpg"]
    assert open_dataset("labelmap", cvat, "val").names == ["b.jpg"]
    with pytest.raises(UsageError, match="no test split: it has train, val"):
        open_dataset("labelmap", cvat, "test")
    with pytest.raises(UsageError, match="--val-fraction is for a folder that is not split"):
        open_dataset("labelmap", cvat, "train", val_fraction=0.5)
    save_list(cvat, "test", "c")
    assert open_dataset("labelmap", cvat, "test").names == ["c.jpg"]


def test_photos_of_a_test_list_are_never_drawn(cvat: Path) -> None:
    save_list(cvat, "default", "a", "b", "c")
    save_list(cvat, "Test", "night/a")
    names = [
        name
        for split in ("train", "val")
        for name in open_dataset("labelmap", cvat, split, val_fraction=0.4).names
    ]
    assert sorted(names) == ["a.jpg", "b.jpg", "c.jpg"]
    assert open_dataset("labelmap", cvat, "test").names == ["night/a.jpg"]


def test_without_lists_every_photo_counts(cvat: Path) -> None:
    (cvat / "ImageSets" / "Segmentation" / "default.txt").unlink()
    splits = [open_dataset("labelmap", cvat, s, val_fraction=0.25) for s in ("train", "val")]
    assert [len(dataset) for dataset in splits] == [3, 1]
    assert not set(splits[0].names) & set(splits[1].names)
    with pytest.raises(UsageError, match="give the share for val"):
        open_dataset("labelmap", cvat, "train")


@pytest.mark.parametrize("layout", ["old", "new"])
@pytest.mark.parametrize("names", ["_background_\nleaf", "__ignore__\n_background_\nleaf\n"])
def test_labelme2voc_in_its_layouts(labelme: Path, layout: str, names: str) -> None:
    (labelme / "class_names.txt").write_text(names)
    if layout == "new":
        (labelme / "SegmentationClass").rename(labelme / "SegmentationClassNpy")
        (labelme / "SegmentationClassPNG").rename(labelme / "SegmentationClass")
    dataset = open_dataset("labelmap", labelme, "train", val_fraction=0.5)
    assert [(info.name, info.color) for info in dataset.classes] == [
        ("_background_", (0, 0, 0)),
        ("leaf", (128, 0, 0)),
    ]
    label = dataset.label(0)
    assert (label[0] == VOID).all()
    assert (label[2:4] == 1).all()
    assert (label[[1, 4, 5]] == 0).all()


def test_a_dataset_travels_to_worker_processes(cvat: Path) -> None:
    dataset = open_dataset("labelmap", cvat, "train", val_fraction=0.5)
    copy = pickle.loads(pickle.dumps(dataset))
    assert np.array_equal(copy.label(0), dataset.label(0))
    assert np.array_equal(copy.photo(0), dataset.photo(0))


def read_everything(root: Path) -> None:
    for split in ("train", "val"):
        dataset = open_dataset("labelmap", root, split, val_fraction=0.5)
        for index in range(len(dataset)):
            load_sample(dataset, index)


def foreign_colour(root: Path) -> None:
    mask = painted(label_map("a"))
    mask[4, 7] = mask[5, 0] = (1, 2, 3)
    save_mask(root / "SegmentationClass" / "a.png", mask)


def indices_for_colours(root: Path) -> None:
    save_mask(root / "SegmentationClass" / "a.png", label_map("a"))


def deep_mask(root: Path) -> None:
    save_mask(root / "SegmentationClass" / "a.png", label_map("a").astype(np.uint16))


def cut_mask(root: Path) -> None:
    path = root / "SegmentationClass" / "a.png"
    path.write_bytes(path.read_bytes()[:60])


def small_mask(root: Path) -> None:
    save_mask(root / "SegmentationClass" / "a.png", painted(label_map("a"))[:, 1:])


def remove_mask(root: Path) -> None:
    (root / "SegmentationClass" / "a.png").unlink()


def remove_photo(root: Path) -> None:
    (root / "JPEGImages" / "a.jpg").unlink()


def remove_photos(root: Path) -> None:
    for path in sorted((root / "JPEGImages").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def remove_photo_folder(root: Path) -> None:
    remove_photos(root)
    (root / "JPEGImages").rmdir()


def twin_photo(root: Path) -> None:
    save_photo(root / "JPEGImages" / "a.png")


def remove_labelmap(root: Path) -> None:
    (root / "labelmap.txt").unlink()


def twin_lists(root: Path) -> None:
    save_list(root, "val", "a")
    save_list(root, "validation", "a")


def test_a_list_without_photos_is_named(cvat: Path) -> None:
    save_list(cvat, "train", "a")
    save_list(cvat, "val")
    with pytest.raises(UsageError, match=r"val\.txt: lists no photos"):
        open_dataset("labelmap", cvat, "val")


def labelmap(text: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        (root / "labelmap.txt").write_text(text)

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            foreign_colour,
            r"SegmentationClass/a\.png: the colour 1,2,3 at x 7, y 4 stands for no class \(2",
        ),
        (indices_for_colours, r"SegmentationClass/a\.png: the colour 1,1,1 at x 0, y 0"),
        (deep_mask, r"SegmentationClass/a\.png: a mask in colours is expected, this is I;16"),
        (cut_mask, r"SegmentationClass/a\.png: cannot be read as a label map"),
        (small_mask, r"JPEGImages/a\.jpg is 8x6, its label map is 7x6"),
        (
            remove_mask,
            r"JPEGImages/a\.jpg: its label map .*a\.png is missing, though .*default\.txt",
        ),
        (remove_photo, r"default\.txt: lists 'a', but JPEGImages has no such photo"),
        (remove_photos, r'JPEGImages: no photos; CVAT exports them if "Save images" is chosen'),
        (remove_photo_folder, r"JPEGImages: no photos; CVAT"),
        (twin_photo, r"a\.png: a\.jpg has the same stem"),
        (remove_labelmap, r"neither labelmap\.txt, .* nor labelme2voc's class_names\.txt is there"),
        (twin_lists, r"val\.txt and .*validation\.txt are both for val"),
        (labelmap("car\n"), r"labelmap\.txt, line 1: 'car' is not label:R,G,B::"),
        (labelmap("#\ncar:0,0,300::"), r"labelmap\.txt, line 2: colours are 0 to 255"),
        (labelmap("a:1,1,1::\nb:1,1,1::"), r"line 2: another label has the colour of 'b'"),
        (labelmap("a:1,1,1::\na:1,1,2::"), r"labelmap\.txt: two classes have the same name"),
        (labelmap("a,b:1,1,1::"), r"line 1: 'a,b' cannot be told from a list"),
        (labelmap("# nothing"), r"labelmap\.txt: 0 classes"),
    ],
)
def test_damage_is_one_line_that_names_the_file(
    cvat: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(cvat)
    with pytest.raises(UsageError, match=message) as error:
        read_everything(cvat)
    assert "\n" not in str(error.value)
