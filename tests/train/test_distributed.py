"""Two processes on the CPU, started by torchrun as a user would, against one."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from drawn_folder import draw_folder
from PIL import Image

from model import load_checkpoint

STEPS = 20


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six drawings, of which the labels are void to very different extents, and two for val."""
    path = draw_folder(tmp_path_factory.mktemp("data"), train=6, val=3, size=(40, 48))
    for index in range(6):
        mask = path / "train" / "masks" / f"{index}.png"
        label = np.array(Image.open(mask))
        label[: 6 * index] = 255
        Image.fromarray(label).save(mask)
    return path


def words(data: Path, out: Path) -> list[str]:
    options = f"--dataset folder --data {data} --out {out} --device cpu --precision fp32"
    # An epoch is a step, so that metrics.jsonl has the loss of each. Dropout draws its own numbers
    # in each process, so it stays off.
    options += f" --epochs {STEPS} --batch-size 6 --crop 40x48 --head-width 8 --dropout 0"
    options += f" --val-every {STEPS} --learning-rate 1e-3 --optimizer sgd --warmup 0 --ema 0.9"
    options += " --logit-adjustment 0.5"
    return options.split()


def run(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(700)
def test_two_processes_train_as_one_with_the_whole_batch(data: Path, tmp_path: Path) -> None:
    run(["app.train", *words(data, tmp_path / "one")])
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    run([*launcher, "app.train", *words(data, tmp_path / "two")])
    lines = {
        name: [json.loads(text) for text in (tmp_path / name / "metrics.jsonl").open()]
        for name in ("one", "two")
    }
    losses = {name: np.array([line["loss"] for line in lines[name]]) for name in lines}
    assert len(losses["one"]) == STEPS
    assert losses["one"][-1] < 0.8 * losses["one"][0]
    assert np.allclose(losses["two"], losses["one"], rtol=1e-4, atol=0)
    # Validation is shared out as well: three photos for two processes. A pixel or two may differ
    # with the weights' last digits; a photo that is missing or counts twice would be thousands.
    for figure in ("pixel_accuracy", "mean_accuracy", "mean_iu", "frequency_weighted_iu"):
        one, two = (lines[name][-1]["val"][figure] for name in ("one", "two"))
        assert two == pytest.approx(one, abs=1e-3), figure
    nets = [load_checkpoint(tmp_path / name / "best.safetensors")[0] for name in lines]
    for name, tensor in nets[0].state_dict().items():
        difference = (tensor - nets[1].state_dict()[name]).abs().max()
        assert difference <= 1e-3 * tensor.abs().max() + 1e-6, name
