from pathlib import Path

import pytest

from app.train.datasets import read_classes
from model import ClassInfo
from model.class_lists import NYUD_CLASSES, SIFT_FLOW_CLASSES, VOC_CLASSES


def test_voc_has_the_devkits_order_and_colours() -> None:
    assert len(VOC_CLASSES) == 21
    assert VOC_CLASSES[0] == ClassInfo("background", (0, 0, 0))
    assert VOC_CLASSES[15] == ClassInfo("person", (192, 128, 128))
    assert VOC_CLASSES[20] == ClassInfo("tvmonitor", (0, 64, 128))
    objects = [info.name for info in VOC_CLASSES[1:]]
    assert objects == sorted(objects)


def test_nyud_has_40_classes_in_the_order_of_its_labels() -> None:
    names = [info.name for info in NYUD_CLASSES]
    assert len(names) == 40
    assert [names[index] for index in (0, 19, 30, 39)] == [
        "wall",
        "floor mat",
        "person",
        "otherprop",
    ]


def test_sift_flow_has_33_classes_in_alphabetical_order() -> None:
    names = [info.name for info in SIFT_FLOW_CLASSES]
    assert len(names) == 33
    assert names == sorted(names)


@pytest.mark.parametrize("classes", [VOC_CLASSES, NYUD_CLASSES, SIFT_FLOW_CLASSES])
def test_every_list_could_be_a_users_own(tmp_path: Path, classes: tuple[ClassInfo, ...]) -> None:
    lines = [" ".join([info.name, *map(str, info.color)]) for info in classes]
    (tmp_path / "classes.txt").write_text("\n".join(lines))
    assert read_classes(tmp_path / "classes.txt") == classes
    assert len({info.color for info in classes}) == len(classes)
