"""`fcn evaluate`: what it measures, prints, writes and refuses."""

import dataclasses
import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app import evaluate
from app.inference.engine import Engine
from model import VOID, load_checkpoint, save_with_card


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three photos of leaf and spot: a quarter spot, half spot, all void."""
    folder = tmp_path / "data" / "val"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    (tmp_path / "data" / "classes.txt").write_text("leaf\nspot\n")
    for name, spot_rows in (("a", 1), ("b", 2), ("void", None)):
        Image.new("RGB", (8, 4)).save(folder / "images" / f"{name}.png")
        label = np.full((4, 8), VOID if spot_rows is None else 0, np.uint8)
        label[:spot_rows] = VOID if spot_rows is None else 1
        Image.fromarray(label).save(folder / "masks" / f"{name}.png")
    return tmp_path / "data"


def run(checkpoint: Path, data: Path, *words: object) -> int:
    fixed = ["--checkpoint", checkpoint, "--dataset", "folder", "--data", data, "--device", "cpu"]
    return evaluate.main([str(word) for word in (*fixed, *words)])


def test_prints_and_writes_the_figures(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(checkpoint, data, "--json", tmp_path / "figures.json") == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["pixel_accuracy"] == 0.375
    assert figures["mean_accuracy"] == 0.5
    assert figures["iu"] == {"leaf": 0.0, "spot": 0.375}
    assert figures["mean_iu"] == 0.1875
    assert figures["boundary_f"] == 0
    assert figures["boundary_f_by_class"] == {"leaf": 0, "spot": 0}
    assert figures["checkpoint"]["name"] == "ones"
    assert figures["photos"] == 3
    assert figures["scales"] == [1]
    assert figures["tta"] == "none"
    printed = capsys.readouterr().out
    assert "0.1875" in printed
    assert "spot" in printed
    assert "boundary F" in printed
    assert "nan" not in printed


def test_views_stand_in_title_and_json(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--scales", "0.5,1,1.5", "--tta", "flip", "--json", tmp_path / "figures.json")
    assert run(checkpoint, data, *words) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["scales"] == [0.5, 1, 1.5]
    assert figures["tta"] == "flip"
    title = " ".join(capsys.readouterr().out.split())
    assert "scales 0.5, 1, 1.5, tta flip" in title


@pytest.mark.parametrize(
    ("words", "views"),
    [
        ((), ((1,), False)),
        (("--scales", "0.5,1,1.5"), ((0.5, 1, 1.5), False)),
        (("--tta", "flip"), ((1,), True)),
    ],
)
def test_the_network_sees_the_views_that_were_asked_for(
    checkpoint: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: Sequence[str],
    views: tuple[Sequence[float], bool],
) -> None:
    def segment_views(
        engine: Engine, photo: np.ndarray, *, scales: Sequence[float] = (1.0,), flip: bool = False
    ) -> np.ndarray:
        seen.append((tuple(scales), flip))
        return np.ones(photo.shape[:2], np.uint8)

    seen: list[tuple[Sequence[float], bool]] = []
    monkeypatch.setattr(Engine, "segment_views", segment_views)
    assert run(checkpoint, data, *words, "--json", tmp_path / "figures.json") == 0
    assert seen == [views] * 3
    # What the views gave is what was measured.
    assert json.loads((tmp_path / "figures.json").read_text())["pixel_accuracy"] == 0.375


def test_photos_are_seen_at_the_checkpoints_scale(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = tmp_path / "half.safetensors"
    save_with_card(checkpoint, half, dataclasses.replace(load_checkpoint(checkpoint)[1], scale=0.5))
    assert run(half, data, "--json", tmp_path / "figures.json") == 0
    assert json.loads((tmp_path / "figures.json").read_text())["scales"] == [0.5]
    assert "scales 0.5, tta none" in " ".join(capsys.readouterr().out.split())


def test_figures_are_written_though_nobody_can_be_told(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def print_nothing(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(evaluate.Console, "print", print_nothing)
    report = tmp_path / "report"
    assert run(checkpoint, data, "--json", tmp_path / "figures.json", "--report", report) == 2
    assert {path.name for path in report.iterdir()} == {"confusion.png", "worst.png"}
    assert json.loads((tmp_path / "figures.json").read_text())["pixel_accuracy"] == 0.375


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--scales", "1,0.5,1.0"], "'1,0.5,1.0' names a scale twice"),
        (["--scales", "1,3"], "'3' is no number from 0.25 to 2"),
        (["--scales", "1,"], "'' is no number"),
        (["--tta", "rotate"], "invalid choice: 'rotate'"),
    ],
)
def test_refuses_views_it_cannot_make(
    capsys: pytest.CaptureFixture[str], words: list[str], complaint: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        evaluate.main(["--dataset", "shapes", *words])
    assert stop.value.code == 2
    assert complaint in capsys.readouterr().err


def test_report_holds_the_pictures(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    assert run(checkpoint, data, "--report", tmp_path / "report") == 0
    pictures = sorted((tmp_path / "report").iterdir())
    assert [path.name for path in pictures] == ["confusion.png", "worst.png"]
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.format == "PNG"


@pytest.mark.parametrize("option", ["--json", "--report"])
def test_a_missing_parent_is_found_before_any_work(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    gone = tmp_path / "gone"
    assert run(tmp_path / "no.safetensors", data, option, gone / "result") == 2
    assert capsys.readouterr().err == f"error: {gone}: no such folder\n"


@pytest.mark.parametrize("option", ["--json", "--report"])
@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_that_is_read_only_is_found_before_any_work(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    option: str,
    exists: bool,
) -> None:
    place = tmp_path / "results" / "result"
    place.parent.mkdir()
    if exists:
        place.mkdir() if option == "--report" else place.write_text("{}")
    locked = place if exists and option == "--report" else place.parent
    # Not by its mode: root may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked or not mode & os.W_OK)
    assert run(tmp_path / "no.safetensors", data, option, place) == 2
    assert capsys.readouterr().err == f"error: {locked}: no permission to write in this folder\n"


def test_a_file_in_the_reports_place_is_found_before_any_work(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report").write_text("")
    assert run(tmp_path / "no.safetensors", data, "--report", tmp_path / "report") == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'report'}: not a folder\n"


def test_refuses_other_classes(
    checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "classes.txt").write_text("leaf\nbug\n")
    assert run(checkpoint, data) == 2
    assert "leaf, bug" in capsys.readouterr().err


def test_refuses_a_split_without_labels(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        for folder in ("images", "masks"):
            (data / "val" / folder / f"{name}.png").unlink()
    assert run(checkpoint, data, "--report", tmp_path / "report") == 2
    assert capsys.readouterr().err.endswith("everything is void\n")
    assert not (tmp_path / "report").exists()
