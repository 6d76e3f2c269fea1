"""The whole path: train by the command, serve the result, post photos, measure the masks."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from live_server import ROOT, running_server
from PIL import Image

from app.train.datasets import open_dataset
from app.train.metrics import ConfusionMatrix, Metrics
from app.train.shapes import Drawings


def run(module: str, *arguments: object) -> str:
    """Run a command as its user does and return what it printed."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def metrics_of_served_drawings(checkpoint: Path, log: Path) -> Metrics:
    """Post drawings that neither training nor the choice of weights has seen."""
    drawings = Drawings("test")
    confusion = ConfusionMatrix(len(drawings.classes))
    with running_server(log, "--checkpoint", str(checkpoint)) as server:
        for index in range(len(drawings)):
            buffer = io.BytesIO()
            Image.fromarray(drawings.photo(index)).save(buffer, "PNG")
            confusion.update(drawings.label(index), server.label_map(buffer.getvalue()))
    return confusion.metrics()


def test_a_network_trained_on_drawings_masks_unseen_ones(tmp_path: Path) -> None:
    # The lightest trunk: VGG16's takes eight times as long for the same steps, and learns less.
    words = ("--dataset", "shapes", "--backbone", "googlenet", "--max-steps", 400)
    run("app.train", *words, "--out", tmp_path / "run")
    metrics = metrics_of_served_drawings(tmp_path / "run" / "best.safetensors", tmp_path / "log")
    assert metrics.mean_iu >= 0.75


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_default_network_masks_them_well(tmp_path: Path) -> None:
    run("app.train", "--dataset", "shapes", "--out", tmp_path / "run")
    metrics = metrics_of_served_drawings(tmp_path / "run" / "best.safetensors", tmp_path / "log")
    assert metrics.mean_iu >= 0.85


def camvid() -> Path:
    """Return the folder that holds CamVid, which cannot be shipped; skip without it."""
    folder = os.environ.get("FCN_TEST_CAMVID", "")
    if not folder:
        pytest.skip("CamVid is not here: make test-slow CAMVID=DIR")
    return Path(folder)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_default_checkpoint_reaches_its_figure_by_command_and_over_http(
    tmp_path: Path, checkpoint: Path
) -> None:
    figures = tmp_path / "figures.json"
    words = ("--dataset", "camvid", "--data", camvid(), "--split", "val", "--json", figures)
    run("app.evaluate", "--checkpoint", checkpoint, *words)
    evaluated = json.loads(figures.read_text())
    assert evaluated["photos"] == 101
    assert evaluated["mean_iu"] >= 0.5

    dataset = open_dataset("camvid", camvid(), "val")
    confusion = ConfusionMatrix(len(dataset.classes))
    with running_server(tmp_path / "log", "--checkpoint", str(checkpoint)) as server:
        for path in sorted((camvid() / "val").iterdir()):
            index = dataset.names.index(path.name)
            confusion.update(dataset.label(index), server.label_map(path.read_bytes()))
    assert confusion.metrics().mean_iu == pytest.approx(evaluated["mean_iu"], abs=2e-4)


def test_predict_writes_what_the_server_answers(tmp_path: Path, server, photo) -> None:
    photo.save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_text("just some text")
    command = [sys.executable, "-m", "app.predict", tmp_path / "a.png", tmp_path / "b.jpg"]
    command += ["--format", "grey", "--out", tmp_path / "masks"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "b.jpg" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["a.png"]
    mask = np.array(Image.open(tmp_path / "masks" / "a.png"))
    assert np.mean(mask == server.label_map((tmp_path / "a.png").read_bytes())) >= 0.999


def test_predict_rle_lists_the_classes_present(tmp_path: Path, photo) -> None:
    photo.save(tmp_path / "a.png")
    run("app.predict", tmp_path / "a.png", "--format", "rle", "--scores", "--out", tmp_path)
    document = json.loads((tmp_path / "a.json").read_text())
    assert document["image"] == {"name": "a.png", "width": 512, "height": 600}
    assert sum(entry["area"] for entry in document["masks"]) == 512 * 600
    assert all(0 < entry["score"] <= 1 for entry in document["masks"])
