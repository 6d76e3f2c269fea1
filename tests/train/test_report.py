"""Pictures: what can be told of them without looking."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from app.train.calibration import Calibration
from app.train.reliability import ProbabilityMetrics
from app.train.report import (
    ERROR_COLOR,
    MAX_NAME,
    best_photos,
    colorize,
    draw_confusion,
    draw_reliability,
    draw_samples,
    draw_worst,
    mark_errors,
    shorten,
    shrink,
    worst_photos,
)
from model import VOID, ClassInfo, named_classes

NAN = float("nan")


class Stripes:
    """Grey photos of the given (height, width); class 0 above, the last class below, void on top.

    Names are longer than a sheet has room for and would be broken mathematics.
    """

    def __init__(self, sizes: list[tuple[int, int]], classes: tuple[ClassInfo, ...]) -> None:
        self.sizes = sizes
        self.classes = classes
        self.names = [f"$photo_{{{index}}}" + "_of_the_garden" * 3 for index in range(len(sizes))]

    def __len__(self) -> int:
        return len(self.sizes)

    def photo(self, index: int) -> np.ndarray:
        return np.full((*self.sizes[index], 3), 100, np.uint8)

    def photo_size(self, index: int) -> tuple[int, int]:
        return self.sizes[index]

    def label(self, index: int) -> np.ndarray:
        label = np.zeros(self.sizes[index], np.uint8)
        label[len(label) // 2 :] = len(self.classes) - 1
        label[: len(label) // 4] = VOID
        return label


def read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.array(picture.convert("RGB"))


def assert_nothing_is_cut_off(picture: np.ndarray) -> None:
    for border in (picture[0], picture[-1], picture[:, 0], picture[:, -1]):
        assert (border == 255).all()


def share_of(picture: np.ndarray, color: tuple[int, int, int]) -> float:
    return float((picture == color).all(axis=2).mean())


def test_worst_photos_are_the_lowest_without_void() -> None:
    assert worst_photos([0.5, NAN, 0.1, 0.5, 0.9, 0.2, 0.3], 5) == [2, 5, 6, 0, 3]
    assert worst_photos([NAN, 0.4], 5) == [1]
    assert worst_photos([NAN], 5) == []


def test_best_photos_are_the_highest_without_void() -> None:
    assert best_photos([0.5, NAN, 0.1, 0.9, 0.2], 3) == [3, 0, 4]
    assert best_photos([NAN], 3) == []


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((300, 400), (150, 200)),
        ((400, 300), (200, 150)),
        ((100, 50), (100, 50)),
        ((4000, 1), (200, 1)),
    ],
)
def test_pictures_are_shrunk_to_fit_and_never_enlarged(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert shrink(np.zeros((*size, 3), np.uint8), 200, 200).shape == (*expected, 3)


def test_errors_are_red_and_void_is_black() -> None:
    photo = np.full((1, 3, 3), 100, np.uint8)
    truth, prediction = np.array([[0, 0, VOID]], np.uint8), np.array([[0, 1, 0]], np.uint8)
    right, wrong, void = mark_errors(photo, truth, prediction)[0]
    assert right[0] == right[1] == right[2] > 100
    assert tuple(wrong) == ERROR_COLOR
    assert tuple(void) == (0, 0, 0)


def test_worst_sheet_segments_only_what_it_shows(tmp_path: Path) -> None:
    dataset = Stripes([(30, 40)] * 8, named_classes(["leaf", "spot"]))
    asked = []

    def predict(index: int) -> np.ndarray:
        asked.append(index)
        return dataset.label(index)

    scores = [0.8, 0.7, NAN, 0.5, 0.4, 0.3, 0.2, 0.1]
    draw_worst(dataset, predict, scores, tmp_path / "worst.png")
    assert asked == [7, 6, 5, 4, 3]


@pytest.mark.parametrize("sizes", [[(30, 40)], [(1, 1)], [(900, 60), (20, 700), (600, 800)]])
def test_sheets_hold_photos_of_any_shape(tmp_path: Path, sizes: list[tuple[int, int]]) -> None:
    dataset = Stripes(sizes, named_classes([f"some ${index}$ class" for index in range(40)]))
    draw_worst(
        dataset,
        lambda index: np.zeros(sizes[index], np.uint8),
        np.linspace(0.1, 0.9, len(sizes)).tolist(),
        tmp_path / "worst.png",
    )
    picture = read(tmp_path / "worst.png")
    assert_nothing_is_cut_off(picture)
    assert share_of(picture, ERROR_COLOR) > 0.02
    draw_samples(dataset, lambda index: np.zeros(sizes[index], np.uint8), tmp_path / "samples.png")
    assert_nothing_is_cut_off(read(tmp_path / "samples.png"))


def test_large_photos_do_not_make_large_sheets(tmp_path: Path) -> None:
    sheets = []
    for size in ((60, 80), (1500, 2000)):
        dataset = Stripes([size], named_classes(["leaf", "spot"]))
        draw_worst(dataset, dataset.label, [0.5], tmp_path / "worst.png")
        sheets.append(read(tmp_path / "worst.png"))
    small, large = sheets
    assert small.shape == large.shape
    for info in dataset.classes:
        assert share_of(large, info.color) == pytest.approx(share_of(small, info.color), rel=0.05)


@pytest.mark.parametrize("classes", [1, 2, 11, 40])
def test_confusion_is_drawn_whole(tmp_path: Path, classes: int) -> None:
    counts = np.eye(classes, dtype=np.int64) * 100
    names = [f"${index} a rather long name, longer than that" for index in range(classes)]
    draw_confusion(counts, names, tmp_path / "confusion.png")
    picture = read(tmp_path / "confusion.png")
    assert_nothing_is_cut_off(picture)
    assert 300 < len(picture) < 2500


def test_confusion_is_by_true_class_in_rows(tmp_path: Path) -> None:
    # Of class 0 all is taken for class 1, of which nothing is in the truth.
    draw_confusion(np.array([[0, 7], [0, 0]]), ["leaf", "spot"], tmp_path / "confusion.png")
    picture = read(tmp_path / "confusion.png").astype(int)
    dark = (picture[..., 2] > 80) & (picture[..., 0] < 30)
    grey = (abs(picture - round(0.85 * 255)) <= 1).all(axis=2)
    dark_y, dark_x = np.argwhere(dark).mean(axis=0)
    grey_y, grey_x = np.argwhere(grey).mean(axis=0)
    assert dark_y < grey_y
    assert dark_x > grey_x
    assert grey.sum() > 1.5 * dark.sum()


def test_reliability_shows_the_gap_and_where_the_pixels_are(tmp_path: Path) -> None:
    """Half of the predictions are right; the network is sure of all, or hardly of any."""
    truth = torch.tensor([0, 1] * 50)
    before, after = ProbabilityMetrics(), ProbabilityMetrics()
    before.update(torch.tensor([[4.0], [0.0]]).expand(2, 100), truth, 1.0)
    after.update(torch.tensor([[4.0], [0.0]]).expand(2, 100), truth, 20.0)
    path = tmp_path / "reliability.png"
    draw_reliability(Calibration(20.0, before, after, (20.0, 20.0), 2), path)
    picture = read(path)
    assert_nothing_is_cut_off(picture)
    middle = 54 * picture.shape[1] // 100  # labels stand left of the first diagram alone
    halves = np.array_split(picture.astype(int), [middle], axis=1)
    red = [float((half[..., 0] > half[..., 2] + 40).mean()) for half in halves]
    blue = [float((half[..., 2] > half[..., 0] + 40).mean()) for half in halves]
    assert red[0] > 5 * red[1]
    assert min(blue) > 0.01


def test_names_are_cut_in_the_middle() -> None:
    assert shorten("0016E5_07959.jpg") == "0016E5_07959.jpg"
    short = shorten("a" * 100 + "b" * 100)
    assert len(short) <= MAX_NAME
    assert short.startswith("aaa")
    assert short.endswith("bbb")


def test_colours_are_the_classes_and_void_is_black() -> None:
    classes = (ClassInfo("a", (1, 2, 3)), ClassInfo("b", (4, 5, 6)))
    picture = colorize(np.array([[0, 1, VOID]], np.uint8), classes)
    assert picture.tolist() == [[[1, 2, 3], [4, 5, 6], [0, 0, 0]]]
