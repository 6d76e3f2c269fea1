"""`report.html`, read as a browser reads it."""

import base64
import dataclasses
import io
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from app.train.calibration import calibrate
from app.train.evaluation import evaluate
from app.train.html_report import MAX_TABLE_CLASSES, PHOTO_SIDE, Provenance, write_html_report
from app.train.recipes import Recipe
from model import VOID, Architecture, Card, named_classes

EVIL_CLASS = "<script>alert('&amp;')</script>"
EVIL_FILE = '<b>&".png'
RELIABILITY = "accuracy by confidence"
EVIL_WORDS = "--data '/my images/<i>\"'"


class Photos:
    """Photos of which photo i has i wrong rows of ten, under three rows of void."""

    def __init__(
        self, *, classes: int = 3, count: int = 9, size: tuple[int, int] = (13, 20)
    ) -> None:
        names = ["leaf", EVIL_CLASS, *(f"class {index}" for index in range(2, classes))]
        self.classes = named_classes(names[:classes])
        self.names = [EVIL_FILE, *(f"photo {index}.png" for index in range(1, count))]
        self.size = size

    def __len__(self) -> int:
        return len(self.names)

    def photo(self, index: int) -> np.ndarray:
        return np.full((*self.size, 3), 90, np.uint8)

    def photo_size(self, index: int) -> tuple[int, int]:
        return self.size

    def label(self, index: int) -> np.ndarray:
        label = np.zeros(self.size, np.uint8)
        label[:, self.size[1] // 2 :] = min(1, len(self.classes) - 1)
        label[:3] = VOID
        return label

    def predict(self, index: int) -> np.ndarray:
        prediction = self.label(index)
        prediction[:3] = 0
        prediction[3 : 3 + index] = 1 - np.minimum(prediction[3 : 3 + index], 1)
        return np.minimum(prediction, len(self.classes) - 1)

    def logits(self, index: int) -> Tensor:
        """The predictions' with a probability that is far too high."""
        one_hot = np.eye(len(self.classes), dtype=np.float32)[self.predict(index)]
        return torch.from_numpy(8 * one_hot).permute(2, 0, 1)


def epoch(number: int, mean_iu: float | None = None) -> dict[str, Any]:
    line: dict[str, Any] = {"epoch": number, "step": 5 * number, "learning_rate": 1e-3, "loss": 0.7}
    return line | ({"val": {"mean_iu": mean_iu, "pixel_accuracy": 0.75}} if mean_iu else {})


def write(path: Path, dataset: Photos) -> str:
    training = {
        "dataset": "folder",
        "splits": {"train": "train", "val": "val"},
        "photos": {"train": 31, "val": len(dataset)},
        "val_fraction": None,
        "recipe": dataclasses.asdict(Recipe(learning_rate=0.00123)),
        "seed": 4711,
        "precision": "bf16",
        "started_from": "random weights",
        "epoch": 2,
    }
    write_html_report(
        path,
        card=Card("leaves", Architecture(), dataset.classes, training),
        history=[epoch(1), epoch(2, 0.5), epoch(3), epoch(4, 0.4)],
        dataset=dataset,
        predict=dataset.predict,
        evaluation=evaluate(dataset.predict, dataset, Console(quiet=True)),
        calibration=calibrate(dataset.logits, dataset, Console(quiet=True)),
        provenance=Provenance(
            [f"python -m app.train {EVIL_WORDS}"], {"commit": "0123abc", "training": "20 steps"}
        ),
    )
    return path.read_text("utf-8")


class Page(HTMLParser):
    """Collects tags, texts and pictures."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.captions: list[str] = []
        self.pictures: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = {name: value or "" for name, value in attrs}
        self.attributes += [(tag, name, value) for name, value in values.items()]
        if tag == "img":
            self.captions.append(values["alt"])
            self.pictures.append(values["src"])

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


def decode(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("report") / "report.html", Photos())


def test_it_fetches_and_runs_nothing(html: str) -> None:
    page = Page(html)
    assert {"script", "link", "iframe", "object", "form", "a"}.isdisjoint(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        assert name not in ("href", "srcset", "action"), (tag, name)
        if name == "src":
            assert value.startswith("data:image/"), (tag, value[:40])
    assert "url(" not in html
    assert "@import" not in html
    policy = next(value for _, name, value in page.attributes if value.startswith("default-src"))
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_names_of_users_are_text(html: str) -> None:
    page = Page(html)
    for name in (EVIL_CLASS, EVIL_FILE, EVIL_WORDS):
        assert name in page.text
        assert name not in html
    assert f"photo of {EVIL_FILE}" in page.captions
    assert "i" not in page.tags


def test_figures_are_those_of_the_evaluation(html: str) -> None:
    dataset = Photos()
    metrics = evaluate(dataset.predict, dataset, Console(quiet=True)).confusion.metrics()
    text = Page(html).text
    for value in (metrics.mean_iu, metrics.pixel_accuracy, *metrics.iu[:2]):
        assert f"{value:.3f}" in text
    assert "2 of 4" in text  # the best epoch
    assert "Measured on all 9 photos" in text
    assert "nan" not in text


def test_calibration_is_told_and_drawn(html: str) -> None:
    dataset = Photos()
    found = calibrate(dataset.logits, dataset, Console(quiet=True))
    assert found.temperature > 2
    page = Page(html)
    assert f"Temperature {found.temperature}, fitted to val" in page.text
    errors = [m.reliability.expected_calibration_error for m in (found.before, found.after)]
    for value in (*errors, found.before.nll, found.after.nll):
        assert f"{value:.4f}" in page.text
    assert page.captions.count(RELIABILITY) == 1


def test_a_temperature_that_does_not_help_is_not_promised(tmp_path: Path) -> None:
    text = Page(write(tmp_path / "report.html", Photos(count=1))).text
    assert "No temperature was found" in text
    assert "in best.safetensors" not in text.split("How well it knows")[1]


def test_recipe_command_seed_and_versions_are_told(html: str) -> None:
    text = Page(html).text
    for words in ("leaves", "4711", "0.00123", "0123abc", "20 steps", "31 photos", "adamw"):
        assert words in text


def test_worst_and_best_photos_are_shown_once(html: str) -> None:
    shown = [caption for caption in Page(html).captions if caption.startswith("photo of")]
    worst, best = [8, 7, 6, 5], ["photo 1.png", "photo 2.png", "photo 3.png"]
    assert shown == [
        *(f"photo of photo {index}.png" for index in worst),
        f"photo of {EVIL_FILE}",
        *(f"photo of {name}" for name in best),
    ]


def test_pictures_show_truth_prediction_and_errors(html: str) -> None:
    page = Page(html)
    pictures = dict(zip(page.captions, map(decode, page.pictures), strict=True))
    leaf, evil, _ = Photos().classes
    truth = np.array(pictures["truth of photo 8.png"])
    assert tuple(truth[0, 0]) == (0, 0, 0)
    assert tuple(truth[5, 0]) == leaf.color
    assert tuple(truth[5, 19]) == evil.color
    prediction = np.array(pictures["prediction of photo 8.png"])
    assert tuple(prediction[5, 0]) == evil.color
    red, green, _ = np.array(pictures["wrong pixels in red of photo 8.png"])[5, 0].astype(int)
    assert red > green + 100


def test_two_photos_are_one_worst_and_one_best(tmp_path: Path) -> None:
    text = Page(write(tmp_path / "report.html", Photos(count=2))).text
    assert "Worst photos" in text
    assert "Best photos" in text
    text = Page(write(tmp_path / "report.html", Photos(count=1))).text
    assert "Worst photos" in text
    assert "Best photos" not in text


def test_large_photos_make_no_large_file(tmp_path: Path) -> None:
    page = Page(write(tmp_path / "report.html", Photos(count=2, size=(700, 1200))))
    sizes = [
        max(decode(picture).size)
        for caption, picture in zip(page.captions, page.pictures, strict=True)
        if caption != RELIABILITY
    ]
    assert max(sizes) == PHOTO_SIDE


def test_many_classes_have_a_picture_for_their_confusion(tmp_path: Path) -> None:
    few = Page(write(tmp_path / "report.html", Photos(classes=MAX_TABLE_CLASSES, count=2)))
    assert "confusion matrix" not in few.captions
    many = Page(write(tmp_path / "report.html", Photos(classes=MAX_TABLE_CLASSES + 1, count=2)))
    assert "confusion matrix" in many.captions


def test_confusions_are_named_by_share(html: str) -> None:
    text = " ".join(Page(html).text.split())
    assert f"of leaf is taken for {EVIL_CLASS}" in text
    assert "40.0%" in text  # 0 + 1 + ... + 8 of 90 rows


def test_one_class_and_nothing_but_it(tmp_path: Path) -> None:
    text = Page(write(tmp_path / "report.html", Photos(classes=1, count=2))).text
    assert "1.000" in text
    assert "Most often confused" not in text


def test_a_file_name_that_is_no_text_is_shown_escaped(tmp_path: Path) -> None:
    dataset = Photos(count=1)
    dataset.names = [b"caf\xe9.png".decode("utf-8", "surrogateescape")]
    assert r"caf\udce9.png" in write(tmp_path / "report.html", dataset)


@pytest.mark.browser
def test_a_browser_shows_it_in_light_and_dark_without_complaint(
    tmp_path: Path, browser_path: str
) -> None:
    path = tmp_path / "report.html"
    write(path, Photos(classes=MAX_TABLE_CLASSES + 1))
    chromium = shutil.which("chromium", path=browser_path)
    assert chromium
    brightness = []
    for scheme in (1, 0):  # light, dark
        picture = tmp_path / f"{scheme}.png"
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--blink-settings=preferredColorScheme={scheme}",
            f"--screenshot={picture}",
            "--window-size=800,2000",
        ]
        done = subprocess.run(
            [chromium, *options, path.as_uri()],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert "CONSOLE" not in done.stderr
        with Image.open(picture) as image:
            assert len(image.convert("RGB").getcolors(maxcolors=10**6) or []) > 50
            brightness.append(np.array(image.convert("L")).mean())
    assert brightness[0] > 180 > 80 > brightness[1]
