"""CVAT's archive, read by datumaro, which CVAT imports with, and by this project's training."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from app.inference.cvat import add_file, cvat_zip, merge
from app.train.datasets import open_dataset
from model import ClassInfo, named_classes

CLASSES = named_classes(["sky", "road", "car", "tree"])
LABELS = np.random.default_rng(0).integers(0, 4, (12, 15), np.uint8)


def unpacked(archive, folder, size=(15, 12)):
    """Unpack it, and add the photos that it lists."""
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        file.extractall(folder)
    (folder / "JPEGImages").mkdir()
    listing = folder / "ImageSets" / "Segmentation" / "default.txt"
    for stem in listing.read_text().splitlines():
        Image.new("RGB", size).save(folder / "JPEGImages" / f"{stem}.png")
    return folder


def training_labels(folder):
    """Return the class names and the label maps by stem, as `--dataset labelmap` reads them."""
    found = {}
    for split in ("train", "val"):
        dataset = open_dataset("labelmap", folder, split, val_fraction=0.5)
        found |= {name: dataset.label(index) for index, name in enumerate(dataset.names)}
    return [info.name for info in dataset.classes], found


def two_photos(**options):
    first = cvat_zip(LABELS, CLASSES, stem="street 1", **options)
    return merge([first, cvat_zip(LABELS[::-1].copy(), CLASSES, stem="street 2", **options)])


def test_training_reads_it(tmp_path):
    names, found = training_labels(unpacked(two_photos(), tmp_path))
    assert names == ["sky", "road", "car", "tree"]
    assert np.array_equal(found["street 1.png"], LABELS)
    assert np.array_equal(found["street 2.png"], LABELS[::-1])


def test_what_is_not_selected_is_the_background(tmp_path):
    names, found = training_labels(unpacked(two_photos(selected=(1, 3)), tmp_path))
    assert names == ["background", "road", "tree"]
    assert np.array_equal(found["street 1.png"], np.array([0, 1, 0, 2], np.uint8)[LABELS])


@pytest.mark.parametrize("selected", [None, (1, 3)])
def test_datumaro_reads_it(tmp_path, selected):
    # It asks for a Pillow below 13, so it cannot be among this project's; it works with 13.
    datumaro = pytest.importorskip("datumaro", reason="not installed: needs pip --no-deps")
    archive = cvat_zip(LABELS, CLASSES, selected, stem="street 1")
    dataset = datumaro.Dataset.import_from(str(unpacked(archive, tmp_path)), "voc_segmentation")
    (item,) = dataset
    labels = dataset.categories()[datumaro.AnnotationType.label]
    assert item.id == "street 1"
    found = {labels[mask.label].name: mask.image for mask in item.annotations}
    for index in selected or range(4):
        assert np.array_equal(found.pop(CLASSES[index].name), index == LABELS)
    assert set(found) == ({"background"} if selected else set())


@pytest.mark.parametrize(
    "classes",
    [
        (ClassInfo("a:b", (9, 9, 9)), ClassInfo("#c", (9, 9, 9)), *CLASSES[:2]),
        (ClassInfo("unlit", (0, 0, 0)), *CLASSES[:3]),
    ],
)
def test_colours_tell_classes_apart_whatever_they_are(tmp_path, classes):
    both = [cvat_zip(LABELS, classes, (0, 1, 2), stem=stem) for stem in ("a", "b")]
    names, found = training_labels(unpacked(merge(both), tmp_path))
    expected = [info.name.replace(":", "_").replace("#", "_") for info in classes[:3]]
    assert names == ["background", *expected]
    assert np.array_equal(found["a.png"], np.array([1, 2, 3, 0], np.uint8)[LABELS])


@pytest.mark.parametrize("color", [(0, 0, 0), (128, 0, 0)])
@pytest.mark.parametrize(
    ("selected", "read", "labels"),
    [
        (None, ["background", "cell", "debris", "wall"], [0, 1, 2, 3]),
        ((0, 1), ["background", "cell"], [0, 1, 0, 0]),
        ((1, 3), ["background", "cell", "wall"], [0, 1, 0, 2]),
        ((0, 2), ["background", "debris"], [0, 0, 1, 0]),
    ],
)
@pytest.mark.parametrize("cell", [(9, 9, 9), (128, 0, 0), (0, 0, 0)])
def test_a_class_background_takes_what_is_not_selected(
    tmp_path, color, selected, read, labels, cell
):
    classes = (
        ClassInfo("background", color),
        ClassInfo("cell", cell),
        ClassInfo("debris", (0, 9, 0)),
        ClassInfo("wall", (0, 0, 9)),
    )
    both = [cvat_zip(LABELS, classes, selected, stem=stem) for stem in ("a", "b")]
    names, found = training_labels(unpacked(merge(both), tmp_path))
    assert names == read
    assert np.array_equal(found["a.png"], np.array(labels, np.uint8)[LABELS])


def test_a_class_background_is_the_background():
    classes = (ClassInfo("background", (0, 0, 0)), *CLASSES[:3])
    with zipfile.ZipFile(io.BytesIO(cvat_zip(LABELS, classes, stem="a"))) as file:
        lines = file.read("labelmap.txt").decode().splitlines()
    assert [line.split(":")[0] for line in lines[1:]] == ["background", "sky", "road", "car"]


def test_photos_of_one_name_are_kept_apart_and_files_can_be_added():
    one = cvat_zip(LABELS, CLASSES, stem="a")
    archive = add_file(merge([one, one, one]), "problems.json", b"[]")
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        listed = file.read("ImageSets/Segmentation/default.txt").decode().splitlines()
        assert listed == ["a", "a_2", "a_3"]
        assert file.read("problems.json") == b"[]"
        assert file.testzip() is None


def test_nothing_cannot_be_merged():
    with pytest.raises(ValueError, match="no archive"):
        merge([])
