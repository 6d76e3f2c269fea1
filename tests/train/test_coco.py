"""`--dataset coco`: files as COCO, CVAT, Label Studio and Roboflow write them."""

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from app.errors import UsageError
from app.train.datasets import load_sample, open_dataset
from model import VOID

SIZE = (20, 30)
SQUARE = [[4.0, 3.0, 14.0, 3.0, 14.0, 12.0, 4.0, 12.0]]
TRIANGLE = [[16.2, 1.5, 29.7, 9.1, 17.4, 18.6]]
TWO_PARTS = [[1, 14, 9, 14, 9, 19, 1, 19], [20, 10, 28, 10, 28, 15, 20, 15]]

Document = dict[str, Any]


def runs(form: str) -> dict[str, Any]:
    """A mask as COCO's string or as the list that CVAT writes for its brush."""
    mask = np.zeros(SIZE, np.uint8, order="F")
    mask[2:17, 20:26] = mask[5, 3:9] = 1
    rle = coco_mask.encode(mask)
    if form == "string":
        return {"size": list(SIZE), "counts": rle["counts"].decode()}
    flat = mask.ravel(order="F")
    starts = np.flatnonzero(np.diff(flat)) + 1
    return {"size": list(SIZE), "counts": np.diff([0, *starts, flat.size]).tolist()}


def annotation(
    number: int, image: int, category: int, segmentation: Any, *, crowd: int = 0
) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": segmentation,
        "iscrowd": crowd,
        "bbox": [0, 0, 5, 5],
        "area": 25,
    }


def document() -> Document:
    """Three categories, their ids with gaps and not in order; four photos, one without labels."""
    return {
        "categories": [
            {"id": 7, "name": "traffic light"},
            {"id": 2, "name": "car"},
            {"id": 5, "name": "tree"},
        ],
        "images": [
            {"id": 10 + n, "file_name": f"{n}.jpg", "height": SIZE[0], "width": SIZE[1]}
            for n in range(4)
        ],
        "annotations": [
            annotation(1, 10, 2, SQUARE),
            annotation(2, 10, 7, TRIANGLE),
            annotation(3, 11, 5, runs("string")),
            annotation(4, 11, 2, TWO_PARTS),
            annotation(5, 12, 5, runs("list"), crowd=1),
        ],
    }


def save_photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(sum(path.stem.encode())).integers(0, 256, (*SIZE, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def save(path: Path, content: Document) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """As CVAT exports a task: one file, photos in images/default."""
    save(tmp_path / "annotations" / "instances_default.json", document())
    for n in range(4):
        save_photo(tmp_path / "images" / "default" / f"{n}.jpg")
    return tmp_path


def labels_of(root: Path, **options: Any) -> dict[str, np.ndarray]:
    found = {}
    for split in ("train", "val"):
        dataset = open_dataset("coco", root, split, **options)
        found |= {Path(dataset.names[i]).name: dataset.label(i) for i in range(len(dataset))}
    return found


def reference(path: Path, label_of: dict[int, int]) -> dict[str, np.ndarray]:
    """What pycocotools' own reader makes of a file, painted by falling area."""
    coco = COCO(path)
    labels = {}
    for image in coco.imgs.values():
        masks = [
            (coco.annToMask(ann).astype(bool), label_of[ann["category_id"]])
            for ann in coco.imgToAnns[image["id"]]
        ]
        if masks:
            label = np.zeros((image["height"], image["width"]), np.uint8)
            for mask, index in sorted(masks, key=lambda pair: -pair[0].sum()):
                label[mask] = index
            labels[image["file_name"]] = label
    return labels


def test_label_maps_are_those_of_pycocotools(data: Path) -> None:
    expected = reference(data / "annotations" / "instances_default.json", {2: 1, 5: 2, 7: 3})
    found = labels_of(data, val_fraction=0.4)
    assert sorted(found) == sorted(expected) == ["0.jpg", "1.jpg", "2.jpg"]
    for name, label in found.items():
        assert label.dtype == np.uint8
        assert len(np.unique(label)) > 1
        assert np.array_equal(label, expected[name])


def test_the_background_comes_first_then_categories_by_id(data: Path) -> None:
    classes = open_dataset("coco", data, "train", val_fraction=0.4).classes
    assert [(info.name, info.color) for info in classes] == [
        ("background", (0, 0, 0)),
        ("car", (128, 0, 0)),
        ("tree", (0, 128, 0)),
        ("traffic light", (128, 128, 0)),
    ]


def test_photos_without_annotations_are_left_out(data: Path) -> None:
    datasets = [open_dataset("coco", data, split, val_fraction=0.4) for split in ("train", "val")]
    assert [len(dataset) for dataset in datasets] == [2, 1]
    assert "images/default/3.jpg" not in [name for dataset in datasets for name in dataset.names]
    assert load_sample(datasets[0], 0).photo.shape == (3, *SIZE)


@pytest.mark.parametrize("order", [1, -1])
def test_the_smaller_of_two_instances_is_seen(data: Path, order: int) -> None:
    content = document()
    large, small = [[0, 0, 30, 0, 30, 20, 0, 20]], [[10, 5, 15, 5, 15, 10, 10, 10]]
    pair = [annotation(1, 10, 2, large), annotation(2, 10, 5, small)]
    content["annotations"][:2] = pair[::order]
    save(data / "annotations" / "instances_default.json", content)
    label = labels_of(data, val_fraction=0.4)["0.jpg"]
    assert (label[6:9, 11:14] == 2).all()
    assert label[0, 0] == label[19, 29] == 1


@pytest.mark.parametrize("project", ["streets", "car"])
def test_the_category_of_roboflows_project_is_no_class(data: Path, project: str) -> None:
    expected = open_dataset("coco", data, "train", val_fraction=0.4).classes
    path = data / "annotations" / "instances_default.json"
    content = document()
    root = {"id": 0, "name": project, "supercategory": "none"}
    rest = [{**category, "supercategory": project} for category in content["categories"]]
    save(path, {**content, "categories": [root, *rest]})
    assert open_dataset("coco", data, "train", val_fraction=0.4).classes == expected


def test_a_category_above_others_that_is_drawn_is_a_class(data: Path) -> None:
    path = data / "annotations" / "instances_default.json"
    content = document()
    root = {"id": 0, "name": "thing", "supercategory": "none"}
    rest = [{**category, "supercategory": "thing"} for category in content["categories"]]
    drawn = {**content["annotations"][0], "id": 999, "category_id": 0}
    annotations = [*content["annotations"], drawn]
    save(path, {**content, "categories": [root, *rest], "annotations": annotations})
    classes = open_dataset("coco", data, "train", val_fraction=0.4).classes
    assert "thing" in [info.name for info in classes]


def test_categories_called_background_or_void_are_no_further_classes(data: Path) -> None:
    content = document()
    content["categories"] = [
        {"id": 0, "name": "_background_"},
        {"id": 2, "name": "car"},
        {"id": 5, "name": "__ignore__"},
        {"id": 7, "name": "sign"},
    ]
    content["annotations"].append(annotation(6, 13, 0, SQUARE))
    save(data / "annotations" / "instances_default.json", content)
    dataset = open_dataset("coco", data, "train", val_fraction=0.4)
    assert [info.name for info in dataset.classes] == ["background", "car", "sign"]
    labels = labels_of(data, val_fraction=0.4)
    assert set(np.unique(labels["1.jpg"])) == {0, 1, VOID}
    assert set(np.unique(labels["0.jpg"])) == {0, 1, 2}
    assert not labels["3.jpg"].any()


def part(content: Document, *images: int) -> Document:
    """The images given and their annotations."""
    chosen = copy.deepcopy(content)
    chosen["images"] = [image for image in chosen["images"] if image["id"] in images]
    chosen["annotations"] = [ann for ann in chosen["annotations"] if ann["image_id"] in images]
    return chosen


@pytest.mark.parametrize(
    ("train", "val", "train_photos", "val_photos"),
    [
        (
            "annotations/instances_train2017.json",
            "annotations/instances_val2017.json",
            "train2017",
            "val2017",
        ),
        (
            "annotations/instances_Train.json",
            "annotations/instances_Validation.json",
            "images/Train",
            "images/Validation",
        ),
        ("annotations/instances_train.json", "annotations/instances_val.json", "images", "images"),
        ("train/_annotations.coco.json", "valid/_annotations.coco.json", "train", "valid"),
    ],
)
def test_files_named_after_splits_are_the_split(
    tmp_path: Path, train: str, val: str, train_photos: str, val_photos: str
) -> None:
    save(tmp_path / train, part(document(), 10, 11))
    save(tmp_path / val, part(document(), 12))
    save(tmp_path / "annotations" / "captions_train2017.json", {"images": []})
    for folder, name in ((train_photos, "0"), (train_photos, "1"), (val_photos, "2")):
        save_photo(tmp_path / folder / f"{name}.jpg")
    names = [f"{train_photos}/0.jpg", f"{train_photos}/1.jpg"]
    assert open_dataset("coco", tmp_path, "train").names == names
    assert open_dataset("coco", tmp_path, "val").names == [f"{val_photos}/2.jpg"]
    with pytest.raises(UsageError, match="no test split: it has"):
        open_dataset("coco", tmp_path, "test")
    with pytest.raises(UsageError, match="--val-fraction is for a folder that is not split"):
        open_dataset("coco", tmp_path, "train", val_fraction=0.5)


@pytest.mark.parametrize(
    "written",
    ["images/{}", "images\\{}", "..\\..\\label-studio\\media\\upload\\4\\{}", "{}"],
)
def test_label_studio_s_paths_lead_to_its_images(tmp_path: Path, written: str) -> None:
    content = document()
    for n, image in enumerate(content["images"]):
        image["file_name"] = written.format(f"{n}.jpg")
        save_photo(tmp_path / "images" / f"{n}.jpg")
    save(tmp_path / "result.json", content)
    assert sorted(labels_of(tmp_path, val_fraction=0.4)) == ["0.jpg", "1.jpg", "2.jpg"]


def test_photos_of_a_test_file_are_never_drawn(data: Path) -> None:
    save(data / "annotations" / "instances_default.json", part(document(), 10, 11))
    save(data / "annotations" / "instances_Test.json", part(document(), 12))
    assert sorted(labels_of(data, val_fraction=0.4)) == ["0.jpg", "1.jpg"]


def test_a_dataset_travels_to_worker_processes(data: Path) -> None:
    dataset = open_dataset("coco", data, "train", val_fraction=0.4)
    copied = pickle.loads(pickle.dumps(dataset))
    assert np.array_equal(copied.label(0), dataset.label(0))
    assert np.array_equal(copied.photo(0), dataset.photo(0))


def with_segmentation(segmentation: Any) -> Callable[[Document], None]:
    def damage(content: Document) -> None:
        content["annotations"][0]["segmentation"] = segmentation

    return damage


def with_values(key: str, index: int, **values: Any) -> Callable[[Document], None]:
    def damage(content: Document) -> None:
        content[key][index].update(values)

    return damage


def without(key: str) -> Callable[[Document], None]:
    def damage(content: Document) -> None:
        del content[key]

    return damage


def read_everything(root: Path) -> None:
    for split in ("train", "val"):
        dataset = open_dataset("coco", root, split, val_fraction=0.4)
        for index in range(len(dataset)):
            load_sample(dataset, index)


WHOLE = SIZE[0] * SIZE[1]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (with_segmentation([[1, 1, 5, 1, 5]]), "annotation 1: a polygon has 5 coordinates, an odd"),
        (with_segmentation([[1, 1, 5, 5]]), "annotation 1: a polygon has 2 points; three"),
        (with_segmentation([[1, 1, 5, 5, "x", 2]]), "annotation 1: a polygon is not a list of num"),
        (with_segmentation([[1, 1, 5, 5, float("nan"), 2]]), "annotation 1: a polygon is not a li"),
        (with_segmentation([1, 1, 5, 5, 2, 2]), "annotation 1: a polygon is not a list of numbers"),
        (with_segmentation([[1, 1, 5, 5, 1e9, 2]]), "annotation 1: a polygon lies far outside the"),
        (with_segmentation([]), "annotation 1: it has no outline; a box alone does not tell"),
        (with_segmentation(None), "annotation 1: it has no outline"),
        (
            with_segmentation({"size": [30, 20], "counts": [WHOLE]}),
            r"annotation 1: its run lengths are for height and width \[30, 20\], the image has",
        ),
        (
            with_segmentation({"size": list(SIZE), "counts": [WHOLE - 1]}),
            "annotation 1: its run lengths do not add up to 30x20 pixels",
        ),
        (
            with_segmentation({"size": list(SIZE), "counts": [-1, WHOLE + 1]}),
            "annotation 1: its run lengths do not add up",
        ),
        (
            with_segmentation({"size": list(SIZE), "counts": [1.5, WHOLE - 1.5]}),
            "annotation 1: its run lengths are neither a string nor a list of whole numbers",
        ),
        (with_segmentation({"size": list(SIZE), "counts": "~"}), "annotation 1: COCO RLE holds"),
        (with_values("annotations", 0, image_id=99), "annotation 1: no image has the id 99"),
        (with_values("annotations", 0, category_id=99), "annotation 1: no category has the id 99"),
        (
            with_values("images", 0, file_name="gone.jpg"),
            r"image 10: gone\.jpg is in none of .*ask",
        ),
        (with_values("images", 0, file_name=None), "image 10: it has no file_name"),
        (with_values("images", 0, width=None), "image 10: its width and height are None and 20"),
        (with_values("images", 0, width=10**6, height=10**6), "image 10: .* are more than"),
        (with_values("images", 0, file_name="1.jpg"), r"image 11: another image is .*1\.jpg too"),
        (with_values("images", 0, id=11), "an image has no id, or that of another: 11"),
        (with_values("images", 0, width=31), "0.jpg is 30x20, its label map is 31x20"),
        (with_values("categories", 0, name="a,b"), "category 7: 'a,b' cannot be told from a list"),
        (with_values("categories", 0, name="7"), "category 7: '7' cannot be told from a list"),
        (with_values("categories", 0, name="car"), "two classes have the same name"),
        (with_values("categories", 0, id=2), "two categories have the id 2"),
        (with_values("categories", 0, id="2"), "a category has no whole number as id"),
        (without("categories"), "not a COCO file: it has no list of categories"),
        (without("annotations"), "not a COCO file: it has no list of annotations"),
    ],
)
def test_wrong_entries_are_one_line_that_names_them(
    data: Path, damage: Callable[[Document], None], message: str
) -> None:
    content = document()
    damage(content)
    save(data / "annotations" / "instances_default.json", content)
    with pytest.raises(UsageError, match=message) as error:
        read_everything(data)
    assert "\n" not in str(error.value)
    assert str(data) in str(error.value)


def cut(root: Path) -> None:
    path = root / "annotations" / "instances_default.json"
    path.write_bytes(path.read_bytes()[:-9])


def list_of_tasks(root: Path) -> None:
    (root / "annotations" / "instances_default.json").write_text("[]")


def remove(root: Path) -> None:
    (root / "annotations" / "instances_default.json").unlink()


def add_another(root: Path) -> None:
    save(root / "annotations" / "instances_more.json", document())


def add_two_for_train(root: Path) -> None:
    save(root / "annotations" / "instances_train2014.json", document())
    save(root / "annotations" / "instances_train2017.json", document())


def unlabel(root: Path) -> None:
    save(root / "annotations" / "instances_default.json", {**document(), "annotations": []})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, r"instances_default\.json: not JSON"),
        (list_of_tasks, r"instances_default\.json: not a COCO file"),
        (remove, r"neither annotations/\*\.json nor \*\.json is there"),
        (add_another, r"instances_default\.json and .*instances_more\.json: keep one, or call"),
        (add_two_for_train, r"train2014\.json and .*train2017\.json are both for train: keep one"),
        (unlabel, "two labelled photos are the least that can be split"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    data: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(data)
    with pytest.raises(UsageError, match=message):
        open_dataset("coco", data, "train", val_fraction=0.5)


def test_an_empty_split_is_named(data: Path) -> None:
    save(data / "annotations" / "instances_train.json", part(document(), 10, 11))
    save(data / "annotations" / "instances_val.json", part(document(), 13))
    with pytest.raises(UsageError, match=r"instances_val\.json: no photo with annotations"):
        open_dataset("coco", data, "val")
