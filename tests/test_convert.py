"""`fcn convert`: what it writes, says and refuses."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from app import __main__ as fcn
from app import convert
from app.inference.engine import Engine
from model import load_checkpoint

Weights = dict[str, torch.Tensor]

HEAD = 8
ALEXNET = {
    "conv1": (96, 3, 11, 11),
    "conv2": (256, 48, 5, 5),
    "conv3": (384, 256, 3, 3),
    "conv4": (384, 192, 3, 3),
    "conv5": (256, 192, 3, 3),
    "fc6": (HEAD, 256, 6, 6),
    "fc7": (HEAD, HEAD, 1, 1),
}


def alexnet(classes: int = 21) -> Weights:
    """FCN-AlexNet in pytorch-fcn's layout; it says class 15 everywhere."""
    weights = {}
    for name, shape in ALEXNET.items():
        weights[f"{name}.weight"] = torch.tensor(0.001).expand(shape)
        weights[f"{name}.bias"] = torch.zeros(shape[0])
    weights["score_fr.weight"] = torch.zeros(classes, HEAD, 1, 1)
    weights["score_fr.bias"] = torch.arange(classes) % 16 * 1.0
    weights["upscore.weight"] = torch.eye(classes).view(classes, classes, 1, 1).repeat(1, 1, 63, 63)
    return weights


def fcn8s() -> Weights:
    weights = {}
    inputs = 3
    for stage, widths in enumerate(
        ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)), start=1
    ):
        for index, width in enumerate(widths, start=1):
            weights[f"conv{stage}_{index}.weight"] = torch.zeros(1).expand(width, inputs, 3, 3)
            inputs = width
    weights["fc6.weight"] = torch.zeros(1).expand(HEAD, 512, 7, 7)
    weights["fc7.weight"] = torch.zeros(HEAD, HEAD, 1, 1)
    for layer, width in (("score_fr", HEAD), ("score_pool4", 512), ("score_pool3", 256)):
        weights[f"{layer}.weight"] = torch.zeros(21, width, 1, 1)
    biases = {name.replace("weight", "bias"): len(weight) for name, weight in weights.items()}
    weights |= {name: torch.zeros(size) for name, size in biases.items()}
    for layer, size in (("upscore2", 4), ("upscore_pool4", 4), ("upscore8", 16)):
        weights[f"{layer}.weight"] = torch.zeros(21, 21, size, size)
    return weights


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "published.pth"
    torch.save(alexnet(), path)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out" / "net.safetensors"


@pytest.fixture(autouse=True)
def _folder(out: Path) -> None:
    out.parent.mkdir()


def run(*words: object) -> int:
    return convert.main([str(word) for word in words])


def refusal(capsys: pytest.CaptureFixture[str], out: Path, *words: object) -> str:
    """The line that says why nothing was made."""
    before = {path: path.stat().st_mtime_ns for path in out.parent.iterdir()}
    assert run(*words) == 2
    assert {path: path.stat().st_mtime_ns for path in out.parent.iterdir()} == before
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_a_checkpoint_that_serves_like_any_other(
    source: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(source, "--out", out) == 0
    line = capsys.readouterr().out
    count = sum(tensor.numel() for tensor in alexnet().values())
    facts = f"voc-fcn-alexnet, 21 classes, 17 tensors, {count:,} parameters, 16.6 MB"
    assert line == f"{out}: {facts}\n"
    net, card = load_checkpoint(out)
    assert card.name == "voc-fcn-alexnet"
    assert (card.classes[15].name, card.classes[15].color) == ("person", (192, 128, 128))
    assert card.training == {
        "converted_from": "published.pth",
        "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "net": "fcn-alexnet",
    }
    assert net.mean.flatten().tolist() == pytest.approx([122.67891434, 116.66876762, 104.00698793])
    engine = Engine.load(out, device="cpu", precision="fp32")
    labels = engine.segment([np.zeros((21, 34, 3), np.uint8)])[0].label_map
    assert np.array_equal(labels, np.full((21, 34), 15))


@pytest.mark.parametrize(
    ("classes", "first", "mean"),
    [
        (40, "wall", [92.318, 97.203, 116.190]),
        (33, "awning", [108.353, 115.294, 114.578]),
    ],
)
def test_the_papers_other_datasets_are_known_by_their_number_of_classes(
    source: Path, out: Path, classes: int, first: str, mean: list[float]
) -> None:
    torch.save(alexnet(classes), source)
    assert run(source, "--out", out) == 0
    net, card = load_checkpoint(out)
    assert card.classes[0].name == first
    assert net.mean.flatten().tolist() == pytest.approx(mean)


def test_classes_of_ones_own(source: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(alexnet(2), source)
    message = refusal(capsys, out, source, "--out", out)
    assert "has 2 classes (voc has 21, nyud has 40, sift-flow has 33)" in message
    assert "--classes FILE" in message
    names = source.with_name("classes.txt")
    names.write_text("leaf 0 255 0\nspot 9 9 9\n")
    assert run(source, "--out", out, "--classes", names) == 0
    net, card = load_checkpoint(out)
    assert card.name == "fcn-alexnet"
    assert [(info.name, info.color) for info in card.classes] == [
        ("leaf", (0, 255, 0)),
        ("spot", (9, 9, 9)),
    ]
    assert net.mean.flatten().tolist() == pytest.approx([122.67891434, 116.66876762, 104.00698793])


def test_the_name_can_be_chosen(source: Path, out: Path) -> None:
    assert run(source, "--out", out, "--name", "mine-2.0") == 0
    assert load_checkpoint(out)[1].name == "mine-2.0"


def test_bf16_halves_the_kernels(source: Path, out: Path) -> None:
    torch.save(alexnet(1), source)
    source.with_name("classes.txt").write_text("thing\n")
    words = [source, "--out", out, "--classes", source.with_name("classes.txt")]
    assert run(*words) == 0
    size = out.stat().st_size
    assert run(*words, "--save-precision", "bf16") == 0
    assert out.stat().st_size < 0.51 * size


def test_at_once_weights_must_be_named_and_a_guess_is_told(
    source: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(fcn8s(), source)
    assert run(source, "--out", out) == 0
    line = capsys.readouterr().out
    assert "voc-fcn8s-vgg16" in line
    assert "at-once weights need --net fcn8s-atonce" in line
    assert run(source, "--out", out, "--net", "fcn8s-atonce") == 0
    line = capsys.readouterr().out
    assert "voc-fcn8s-atonce-vgg16" in line
    assert "--net" not in line
    assert load_checkpoint(out)[1].architecture.variant == "fcn8s-atonce"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--net", "fcn16s"], "published.pth: it holds fcn-alexnet, not fcn16s"),
        (["--classes", "nyud"], "published.pth has 21 classes, --classes nyud has 40"),
        (["--classes", "none.txt"], "none.txt: no such file"),
    ],
)
def test_what_does_not_fit_leaves_everything_as_it_was(
    source: Path, out: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out.write_text("an older checkpoint")
    assert message in refusal(capsys, out, source, "--out", out, *words)
    assert out.read_text() == "an older checkpoint"


def test_a_damaged_file_is_one_line(
    source: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source.write_bytes(source.read_bytes()[:-100])
    assert refusal(capsys, out, source, "--out", out).startswith(f"error: {source}: damaged")


def test_a_missing_file_is_one_line(
    source: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source.unlink()
    expected = f"error: {source}: No such file or directory\n"
    assert refusal(capsys, out, source, "--out", out) == expected


def test_the_source_is_never_overwritten(
    source: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = source.read_bytes()
    assert "would be overwritten" in refusal(capsys, out, source, "--out", source)
    out.symlink_to(source)
    assert "would be overwritten" in refusal(capsys, out, source, "--out", out)
    assert source.read_bytes() == before


def test_out_must_be_a_file_in_a_folder_that_is_there(
    source: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is a folder" in refusal(capsys, out, source, "--out", out.parent)
    missing = out.parent / "none"
    assert f"{missing}: no such folder" in refusal(capsys, out, source, "--out", missing / "x")


@pytest.mark.parametrize("words", [[], ["--out", "x", "--name", "two words"], ["--net", "fcn4s"]])
def test_wrong_arguments_are_one_line(
    source: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run(source, *words)
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_fcn_convert_is_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["fcn", "convert", "--help"])
    with pytest.raises(SystemExit) as stop:
        fcn.main()
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert "example:" in printed
    assert "fcn8s-atonce" in printed
