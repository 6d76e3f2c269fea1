import io
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from app.inference.masks import grey_png, overlay_png, palette_png, select, zip_of_masks
from model.classes import VOID, ClassInfo, named_classes

CLASSES = named_classes(["sky", "building", "road", "car"])
RNG = np.random.default_rng(11)
LABEL_MAP = RNG.choice(np.array([0, 1, 2, 3, VOID], np.uint8), (17, 23))


def opened(data):
    return Image.open(io.BytesIO(data))


def entries(data):
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        assert file.testzip() is None
        return {entry.filename: file.read(entry) for entry in file.infolist()}


def named(*names):
    return [ClassInfo(name, (1, 2, 3)) for name in names]


# select


def test_selecting_makes_every_other_pixel_void():
    chosen = select(LABEL_MAP, [2, 0])

    assert np.array_equal(chosen, np.where(np.isin(LABEL_MAP, [0, 2]), LABEL_MAP, VOID))
    assert chosen.dtype == np.uint8


def test_selecting_nothing_in_particular_changes_nothing():
    assert select(LABEL_MAP, None) is LABEL_MAP


def test_selecting_no_class_leaves_only_void():
    assert (select(LABEL_MAP, []) == VOID).all()


def test_selecting_leaves_its_argument_alone_and_reads_views():
    before = LABEL_MAP.copy()

    assert np.array_equal(select(LABEL_MAP[::-1].T, {1}), select(LABEL_MAP, {1})[::-1].T)
    assert np.array_equal(LABEL_MAP, before)


@pytest.mark.parametrize("class_id", [-1, VOID, 256])
def test_selecting_what_is_no_class_is_refused(class_id):
    with pytest.raises(ValueError, match=f"class index {class_id}"):
        select(LABEL_MAP, [class_id])


# palette_png, grey_png


def test_palette_png_holds_labels_colours_and_a_transparent_void():
    image = opened(palette_png(LABEL_MAP, CLASSES))

    assert image.mode == "P"
    assert np.array_equal(np.asarray(image), LABEL_MAP)
    shown = np.asarray(image.convert("RGBA"))
    for index, info in enumerate(CLASSES):
        assert (shown[index == LABEL_MAP] == (*info.color, 255)).all()
    assert (shown[LABEL_MAP == VOID, 3] == 0).all()


def test_palette_png_without_void_has_no_transparency():
    image = opened(palette_png(select_defined(LABEL_MAP), CLASSES))

    assert not image.has_transparency_data
    assert len(image.getpalette()) // 3 == len(CLASSES)


def select_defined(label_map):
    return np.where(label_map == VOID, 0, label_map).astype(np.uint8)


def test_grey_png_holds_labels():
    image = opened(grey_png(LABEL_MAP))

    assert image.mode == "L"
    assert np.array_equal(np.asarray(image), LABEL_MAP)


@settings(max_examples=40, deadline=None)
@given(
    label_map=arrays(
        np.uint8,
        array_shapes(min_dims=2, max_dims=2, max_side=30),
        elements=st.sampled_from([0, 1, 2, 3, VOID]),
    )
)
def test_all_forms_agree(label_map):
    grey = np.asarray(opened(grey_png(label_map)))
    palette = np.asarray(opened(palette_png(label_map, CLASSES)))
    masks = entries(zip_of_masks(label_map, CLASSES))

    from_zip = np.full(label_map.shape, VOID, np.uint8)
    for name, data in masks.items():
        from_zip[np.asarray(opened(data)) == 255] = int(name[:2])

    assert np.array_equal(grey, label_map)
    assert np.array_equal(palette, label_map)
    assert np.array_equal(from_zip, label_map)


# zip_of_masks


def test_zip_holds_one_mask_for_each_class_present():
    label_map = np.array([[0, 3, 3], [VOID, 0, 3]], np.uint8)

    masks = entries(zip_of_masks(label_map, CLASSES))

    assert list(masks) == ["00_sky.png", "03_car.png"]
    sky = opened(masks["00_sky.png"])
    assert sky.mode == "L"
    assert np.asarray(sky).tolist() == [[255, 0, 0], [0, 255, 0]]
    assert np.asarray(opened(masks["03_car.png"])).tolist() == [[0, 255, 255], [0, 0, 255]]


def test_zip_of_chosen_classes():
    label_map = np.array([[0, 1, 2]], np.uint8)

    assert list(entries(zip_of_masks(label_map, CLASSES, selected=[2, 3, 0]))) == [
        "00_sky.png",
        "02_road.png",
    ]


def test_zip_without_any_class_is_an_empty_zip():
    assert entries(zip_of_masks(np.full((2, 2), VOID, np.uint8), CLASSES)) == {}


def test_zip_is_the_same_each_time_and_stores_what_is_deflated_already(monkeypatch):
    first = zip_of_masks(LABEL_MAP, CLASSES)
    # zipfile asks the clock and the platform unless it is told.
    monkeypatch.setattr("time.localtime", lambda *_: (2031, 5, 5, 5, 5, 5, 0, 0, 0))
    monkeypatch.setattr("sys.platform", "win32")

    assert zip_of_masks(LABEL_MAP, CLASSES) == first
    with zipfile.ZipFile(io.BytesIO(first)) as file:
        for entry in file.infolist():
            assert entry.compress_type == zipfile.ZIP_STORED
            assert entry.date_time == (1980, 1, 1, 0, 0, 0)
            assert entry.external_attr >> 16 == 0o100644


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("road", "00_road.png"),
        ("../../etc/passwd", "00_etc_passwd.png"),
        ("C:\\temp", "00_C_temp.png"),
        ("traffic light", "00_traffic_light.png"),
        ("a/b", "00_a_b.png"),
        ("道路", "00_道路.png"),
        ("..", "00.png"),
        ("", "00.png"),
        ("nul\0byte", "00_nul_byte.png"),
        ("x" * 300, "00_" + "x" * 40 + ".png"),
    ],
)
def test_zip_names_are_safe(name, expected):
    assert list(entries(zip_of_masks(np.zeros((1, 1), np.uint8), named(name)))) == [expected]


def test_zip_names_are_unique():
    classes = named("Car", "car", "car!", "car", *["thing"] * 100)
    label_map = np.arange(len(classes), dtype=np.uint8).reshape(8, 13)

    names = list(entries(zip_of_masks(label_map, classes)))

    assert len({name.lower() for name in names}) == len(classes)


# overlay_png


def test_overlay_mixes_colours_in_and_leaves_void_alone():
    photo = RNG.integers(0, 256, (*LABEL_MAP.shape, 3)).astype(np.uint8)

    image = opened(overlay_png(photo, LABEL_MAP, CLASSES, alpha=0.25))

    assert image.mode == "RGB"
    mixed = np.asarray(image).astype(int)
    for index, info in enumerate(CLASSES):
        expected = 0.75 * photo[index == LABEL_MAP] + 0.25 * np.array(info.color)
        assert np.abs(mixed[index == LABEL_MAP] - expected).max() <= 1
    assert np.array_equal(mixed[LABEL_MAP == VOID], photo[LABEL_MAP == VOID])


def test_overlay_from_nothing_to_all():
    photo = RNG.integers(0, 256, (*LABEL_MAP.shape, 3)).astype(np.uint8)
    colours = np.array([info.color for info in CLASSES])
    defined = LABEL_MAP != VOID

    nothing = np.asarray(opened(overlay_png(photo, LABEL_MAP, CLASSES, alpha=0)))
    everything = np.asarray(opened(overlay_png(photo, LABEL_MAP, CLASSES, alpha=1)))

    assert np.array_equal(nothing, photo)
    assert np.array_equal(everything[defined], colours[LABEL_MAP[defined]])


def test_overlay_reads_views():
    photo = RNG.integers(0, 256, (*LABEL_MAP.shape, 3)).astype(np.uint8)

    turned = overlay_png(photo.transpose(1, 0, 2)[::-1], LABEL_MAP.T[::-1], CLASSES)

    straight = np.asarray(opened(overlay_png(photo, LABEL_MAP, CLASSES)))
    assert np.array_equal(np.asarray(opened(turned)), straight.transpose(1, 0, 2)[::-1])


def test_overlay_refuses_what_does_not_fit():
    photo = np.zeros((4, 5, 3), np.uint8)

    with pytest.raises(ValueError, match="differ in size"):
        overlay_png(photo, np.zeros((5, 4), np.uint8), CLASSES)
    for alpha in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="alpha"):
            overlay_png(photo, np.zeros((4, 5), np.uint8), CLASSES, alpha=alpha)
