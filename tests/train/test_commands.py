"""`python -m app.train` and what stands around a run, as its user meets them."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.models import vgg16_bn

from app.train import initialise
from app.train.__main__ import main, train
from app.train.initialise import Start, build_network
from model import FCN, Architecture, Card, load_checkpoint, named_classes, save_checkpoint

QUICK = ["--dataset", "shapes", "--device", "cpu", "--precision", "fp32", "--head-width", "8"]
QUICK += ["--crop", "32x32", "--batch-size", "2"]


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["train", *words])
    return main()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "quick"
    assert train([*QUICK, "--max-steps", "2", "--out", str(folder)]) == 0
    return folder


def test_a_run_leaves_everything_it_promises(run: Path) -> None:
    assert {path.name for path in run.iterdir()} == {
        "best.safetensors",
        "last.pt",
        "metrics.jsonl",
        "config.json",
        "curves.png",
        "samples.png",
    }
    (line,) = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    _, card = load_checkpoint(run / "best.safetensors")
    assert card.name == "shapes-fcn8s-vgg16_bn"
    assert card.training["val"] == line["val"]
    for name in ("curves.png", "samples.png"):
        with Image.open(run / name) as picture:
            assert min(picture.size) > 300
            assert len(picture.convert("RGB").getcolors(maxcolors=10**6) or []) > 50


def test_a_finished_run_is_not_overwritten(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "best.safetensors").read_bytes()
    assert command(monkeypatch, *QUICK, "--out", str(run)) == 2
    assert "already holds a run: continue it with --resume" in capsys.readouterr().err
    assert (run / "best.safetensors").read_bytes() == before


def test_resume_with_other_arguments_is_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--dataset", "shapes", "--out", str(run), "--resume", "--seed", "7"]
    assert command(monkeypatch, *words) == 2
    assert "was started with --seed 0" in capsys.readouterr().err


def test_resume_needs_nothing_but_the_folder(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "--out", str(run), "--resume") == 0
    assert "resumed after step 2 of 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--resume", "--out", "nowhere"], "nowhere holds no run"),
        (["--dataset", "camvid"], "needs --data"),
        (["--dataset", "camvid", "--data", "nowhere"], "nowhere: no such folder"),
        (["--dataset", "shapes", "--scale", "2", "1"], "--scale 2.0 1.0"),
        (["--dataset", "shapes", "--device", "tpu"], "unknown device 'tpu'"),
        (["--dataset", "shapes", "--device", "cuda:99"], "cuda:99"),
        (["--dataset", "shapes", "--precision", "fp16"], "fp16"),
        (["--dataset", "shapes", "--init-from", "none.safetensors"], "none.safetensors"),
        (["--dataset", "shapes", "--name", "two words"], "no model name"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words", [["--crop", "12"], ["--epochs", "0"], ["--class-weighting", "0.5"], ["--nonsense"]]
)
def test_a_wrong_argument_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        command(monkeypatch, *words)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert words[0] in error
    assert error.count("\n") == 1


@pytest.fixture
def source(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    architecture = Architecture(head_width=8, head_norm=True)
    net = FCN(architecture, 2)
    torch.nn.init.normal_(net.score_fc7.weight)
    path = tmp_path / "source.safetensors"
    save_checkpoint(path, net, Card("source", architecture, named_classes(["a", "b"])))
    return path


def test_init_from_copies_all_for_the_same_classes(source: Path) -> None:
    net, notes = build_network(Start(init_from=source), named_classes(["a", "b"]), dropout=0)
    expected = load_checkpoint(source)[0].state_dict()
    assert net.architecture.head_width == 8
    assert all(torch.equal(tensor, expected[name]) for name, tensor in net.state_dict().items())
    assert notes == [f"weights: {len(expected)} tensors copied"]


@pytest.mark.parametrize("names", [["a", "c"], ["a", "b", "c"]])
def test_init_from_for_other_classes_leaves_classwise_layers_new(
    source: Path, names: list[str]
) -> None:
    net, notes = build_network(Start(init_from=source), named_classes(names), dropout=0)
    expected = load_checkpoint(source)[0]
    assert torch.equal(net.trunk.fc6.weight, expected.trunk.fc6.weight)
    assert net.score_fc7.weight.abs().max() == 0
    left = notes[1].removeprefix("weights: not copied, so newly initialised: ").split(", ")
    assert set(left) == {
        "score_fc7.weight",
        "score_fc7.bias",
        "score_pool4.weight",
        "score_pool4.bias",
        "score_pool3.weight",
        "score_pool3.bias",
        "upscore_fc7.weight",
        "upscore_pool4.weight",
    }


def test_pretrained_takes_the_classifiers_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    classifier = vgg16_bn(weights=None)
    monkeypatch.setattr(initialise, "imagenet_classifier", lambda name: classifier)
    net, notes = build_network(Start(pretrained=True), named_classes(["a"]), dropout=0)
    assert net.architecture.head_width == 4096
    assert not net.architecture.head_norm
    assert torch.equal(net.trunk.fc6.weight.flatten(1), classifier.classifier[0].weight)
    assert notes == ["weights: ImageNet, vgg16_bn"]
