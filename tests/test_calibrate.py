"""`fcn calibrate`: what it measures, prints, writes and refuses."""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from app import calibrate
from app.train.calibration import MAX_TEMPERATURE
from model import VOID, load_checkpoint, save_checkpoint

SURE = 1 / (1 + np.exp(-1))
"""Probability of spot by the network that says logits 0 and 1 everywhere."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four photos of which three quarters are leaf, where the network is sure of spot; one void."""
    folder = tmp_path / "data" / "val"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    (tmp_path / "data" / "classes.txt").write_text("leaf\nspot\n")
    for index in range(5):
        Image.new("RGB", (8, 4)).save(folder / "images" / f"{index}.png")
        label = np.full((4, 8), VOID if index == 4 else 0, np.uint8)
        label[:1] = VOID if index == 4 else 1
        Image.fromarray(label).save(folder / "masks" / f"{index}.png")
    return tmp_path / "data"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "calibrated.safetensors"


def run(checkpoint: Path, data: Path, *words: object) -> int:
    fixed = ["--checkpoint", checkpoint, "--dataset", "folder", "--data", data, "--device", "cpu"]
    return calibrate.main([str(word) for word in (*fixed, *words)])


def stored(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors as the file holds them."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in list(file.keys())}


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(
        tensor.dtype == theirs[name].dtype and torch.equal(tensor, theirs[name])
        for name, tensor in ours.items()
    )


def test_prints_and_writes_the_figures(
    checkpoint: Path, data: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, report = out.with_name("figures.json"), out.with_name("report")
    assert run(checkpoint, data, "--out", out, "--json", figures, "--report", report) == 0
    values = json.loads(figures.read_text())
    before, after = values["before"], values["after"]
    assert before["pixel_accuracy"] == after["pixel_accuracy"] == 0.25
    assert before["mean_confidence"] == pytest.approx(SURE, abs=1e-6)
    assert before["expected_calibration_error"] == pytest.approx(SURE - 0.25, abs=1e-6)
    likelihood = 0.25 * np.log(SURE) + 0.75 * np.log(1 - SURE)
    assert before["negative_log_likelihood"] == pytest.approx(-likelihood, abs=1e-6)
    assert after["expected_calibration_error"] < before["expected_calibration_error"] - 0.2
    assert values["temperature"] == MAX_TEMPERATURE  # worse than chance
    assert values["temperature_of_halves"] == [MAX_TEMPERATURE, MAX_TEMPERATURE]
    assert values["photos"] == 5
    assert values["checkpoint"]["name"] == "ones"
    for part in ("bins_before", "bins_after"):
        assert [entry["pixels"] for entry in values[part] if entry["pixels"]] == [128]
    _, card = load_checkpoint(out)
    assert card.temperature == MAX_TEMPERATURE
    assert card.training["calibration"]["split"] == "val"
    assert card.training["calibration"]["before"] == before
    printed = capsys.readouterr().out
    for words in ("0.4811", "0.7311", "held out", "temperature 20", str(out)):
        assert words in printed
    assert [path.name for path in report.iterdir()] == ["reliability.png"]
    with Image.open(report / "reliability.png") as picture:
        assert picture.format == "PNG"


def test_figures_are_written_though_nobody_can_be_told(
    checkpoint: Path, data: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def print_nothing(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(calibrate.Console, "print", print_nothing)
    assert run(checkpoint, data, "--out", out, "--json", out.with_name("figures.json")) == 2
    values = json.loads(out.with_name("figures.json").read_text())
    assert values["temperature"] == load_checkpoint(out)[1].temperature == MAX_TEMPERATURE


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_weights_are_kept_to_the_bit(
    checkpoint: Path, data: Path, out: Path, dtype: torch.dtype
) -> None:
    source = out.with_name("source.safetensors")
    net, card = load_checkpoint(checkpoint)
    save_checkpoint(source, net, card, dtype=dtype)
    before = source.read_bytes()
    assert run(source, data, "--out", out) == 0
    assert source.read_bytes() == before
    assert same(stored(out), stored(source))
    assert out.stat().st_size - source.stat().st_size < 2000


def test_out_may_be_the_checkpoint_itself_and_a_second_time_changes_nothing(
    checkpoint: Path, data: Path, out: Path
) -> None:
    shutil.copyfile(checkpoint, out)
    assert run(out, data, "--out", out) == 0
    assert same(stored(out), stored(checkpoint))
    assert load_checkpoint(out)[1].temperature == MAX_TEMPERATURE
    first = out.read_bytes()
    assert run(out, data, "--out", out) == 0
    assert out.read_bytes() == first


def test_a_checkpoint_replaced_meanwhile_is_not_given_the_others_temperature(
    checkpoint: Path,
    data: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = out.with_name("source.safetensors")
    shutil.copyfile(checkpoint, source)
    measure = calibrate.calibrate

    def measure_while_training_goes_on(*words):
        net, card = load_checkpoint(source)
        net.score_fc7.bias += 1
        save_checkpoint(source, net, card)
        return measure(*words)

    monkeypatch.setattr(calibrate, "calibrate", measure_while_training_goes_on)
    assert run(source, data, "--out", out) == 2
    error = capsys.readouterr().err
    assert error == f"error: {source} changed while it was measured: start again\n"
    assert not out.exists()


@pytest.mark.parametrize("option", ["--json", "--report", "--out"])
def test_a_missing_parent_is_found_before_any_work(
    data: Path, out: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    gone = out.with_name("gone")
    words = {"--out": out, option: gone / "result"}
    assert run(out.with_name("no.safetensors"), data, *sum(words.items(), ())) == 2
    assert capsys.readouterr().err == f"error: {gone}: no such folder\n"


def test_a_folder_in_the_checkpoints_place_is_found_before_any_work(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "no.safetensors", data, "--out", tmp_path) == 2
    error = capsys.readouterr().err
    assert error == f"error: {tmp_path} is a folder; give the file's own name\n"


def test_refuses_other_classes(
    checkpoint: Path, data: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "classes.txt").write_text("leaf\nbug\n")
    assert run(checkpoint, data, "--out", out) == 2
    assert "leaf, bug" in capsys.readouterr().err
    assert not out.exists()


def test_refuses_a_split_without_labels(
    checkpoint: Path, data: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(4):
        for folder in ("images", "masks"):
            (data / "val" / folder / f"{index}.png").unlink()
    assert run(checkpoint, data, "--out", out, "--report", out.with_name("report")) == 2
    assert capsys.readouterr().err.endswith("everything is void\n")
    assert not out.exists()
    assert not out.with_name("report").exists()
