"""`python -m app.train` and what stands around a run, as its user meets them."""

import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_folder import draw_folder
from PIL import Image
from torch import Tensor, nn
from torchvision.models import googlenet, vgg16_bn

from app.errors import UsageError
from app.inference import room
from app.train import shapes
from app.train.__main__ import _check_batches, main, train
from app.train.arguments import parse
from app.train.distributed import Processes
from app.train.initialise import Start, build_network
from app.train.recipes import RECIPES
from app.train.trainer import Trainer
from model import FCN, Architecture, Card, load_checkpoint, named_classes, save_checkpoint
from model.backbones import BACKBONES

QUICK = ["--dataset", "shapes", "--device", "cpu", "--precision", "fp32", "--backbone", "alexnet"]
QUICK += ["--head-width", "8", "--head-norm", "--crop", "32x32", "--batch-size", "2"]


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
        "report.html",
    }
    (line,) = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    _, card = load_checkpoint(run / "best.safetensors")
    assert card.name == "shapes-fcn8s-alexnet"
    assert card.training["val"] == line["val"]
    calibration = card.training["calibration"]
    assert (calibration["split"], calibration["photos"]) == ("val", shapes.COUNTS["val"])
    before, after = calibration["before"], calibration["after"]
    assert before["pixel_accuracy"] == pytest.approx(line["val"]["pixel_accuracy"], abs=1e-6)
    better = after["negative_log_likelihood"] < before["negative_log_likelihood"]
    assert (card.temperature != 1) is better
    assert "How well it knows" in (run / "report.html").read_text()
    for name in ("curves.png", "samples.png"):
        with Image.open(run / name) as picture:
            assert min(picture.size) > 300
            assert len(picture.convert("RGB").getcolors(maxcolors=10**6) or []) > 50


def test_a_finished_run_is_not_overwritten(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "best.safetensors").read_bytes()
    assert command(monkeypatch, *QUICK, "--out", str(run)) == 2
    said = capsys.readouterr()
    assert "already holds a run: continue it with --resume" in said.err
    assert "photos" not in said.out  # none were read for it
    assert (run / "best.safetensors").read_bytes() == before


def test_a_finished_run_resumes_to_itself(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = ("best.safetensors", "metrics.jsonl", "last.pt")
    before = {name: (run / name).read_bytes() for name in kept}
    assert command(monkeypatch, "--out", str(run), "--resume") == 0
    assert "resumed after step 2 of 2" in capsys.readouterr().out
    assert {name: (run / name).read_bytes() for name in kept} == before


def test_resume_takes_the_whole_command_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*QUICK, "--max-steps", "2", "--scale", "0.9", "1.1", "--out", str(run), "--resume"]
    assert command(monkeypatch, *words) == 0


def test_resume_on_other_data_is_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    monkeypatch.setitem(shapes.COUNTS, "train", 200)
    assert command(monkeypatch, "--out", str(copy), "--resume") == 2
    assert "not those that the run began with" in capsys.readouterr().err


def test_a_damaged_state_is_one_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "last.pt").write_bytes((run / "last.pt").read_bytes()[:1000])
    assert command(monkeypatch, "--out", str(copy), "--resume") == 2
    error = capsys.readouterr().err
    assert "last.pt: damaged" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_photo_that_cannot_be_read_stops_before_the_run_begins(
    tmp_path: Path,
    split: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = tmp_path / "data"
    for part in ("train", "val"):
        for folder in ("images", "masks"):
            (data / part / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(data / part / "images" / "a.png")
        Image.new("L", (8, 8)).save(data / part / "masks" / "a.png")
    (data / "classes.txt").write_text("a\nb\n")
    (data / split / "images" / "a.png").write_text("not a picture")
    words = ["--dataset", "folder", "--data", str(data), "--out", str(tmp_path / "run")]
    assert command(monkeypatch, *words) == 2
    assert f"{split}/images/a.png" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_full_disk_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full_disk(*_: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc] unexpected pos 64 vs 0")

    monkeypatch.setattr("torch.save", full_disk)
    out = tmp_path / "run"
    assert command(monkeypatch, *QUICK, "--max-steps", "1", "--out", str(out)) == 2
    error = capsys.readouterr().err
    assert "last.pt: cannot be written" in error
    assert error.count("\n") == 1
    assert [path.name for path in out.iterdir()] == ["config.json"]


def test_ctrl_c_exits_130_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = Trainer._train_step

    def step_with_ctrl_c(self: Trainer, photos: Tensor, labels: Tensor) -> float:
        os.kill(os.getpid(), signal.SIGINT)
        return step(self, photos, labels)

    monkeypatch.setattr(Trainer, "_train_step", step_with_ctrl_c)
    out = tmp_path / "run"
    assert command(monkeypatch, *QUICK, "--max-steps", "2", "--out", str(out)) == 130
    printed = capsys.readouterr().out
    assert "stopped after step 1 of 2" in printed
    assert "--resume" in printed
    monkeypatch.setattr(Trainer, "_train_step", step)
    assert command(monkeypatch, "--out", str(out), "--resume") == 0
    assert "resumed after step 1 of 2" in capsys.readouterr().out


def test_resume_with_other_arguments_is_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--dataset", "shapes", "--out", str(run), "--resume", "--seed", "7"]
    assert command(monkeypatch, *words) == 2
    assert "was started with --seed 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--resume", "--out", "nowhere"], "nowhere holds no run"),
        (["--dataset", "camvid"], "needs --data"),
        (["--dataset", "camvid", "--data", "nowhere"], "nowhere: no such folder"),
        (["--dataset", "shapes", "--scale", "2", "1"], "--scale 2.0 1.0"),
        (["--dataset", "shapes", "--late-scale", "2", "1"], "--late-scale 2.0 1.0"),
        (["--dataset", "shapes", "--device", "tpu"], "unknown device 'tpu'"),
        (["--dataset", "shapes", "--device", "cuda:99"], "cuda:99"),
        (["--dataset", "shapes", "--precision", "fp16"], "fp16"),
        (["--dataset", "shapes", "--group-by", "a"], "give both"),
        (["--dataset", "shapes", "--init-from", "none.safetensors"], "none.safetensors"),
        (["--dataset", "shapes", "--head-width", "100000"], "head_width must be 1 to 65536"),
        (["--dataset", "shapes", "--val-fraction", "0.2"], "--val-fraction is for a folder"),
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
    "words",
    [
        ["--crop", "12"],
        ["--crop", "00x10"],
        ["--epochs", "-1"],
        ["--epochs", "many"],
        ["--class-weighting", "0.5"],
        ["--name", "two words"],
        ["--workers", "-1"],
        ["--seed", "-1"],
        ["--val-fraction", "20"],
        ["--group-by", "(", "--val-fraction", "0.2"],
        ["--nonsense"],
    ],
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
    (note,) = notes
    assert note.startswith("weights: copied: mean, std, trunk.stage1.conv1_1, ")
    assert "score_fc7" in note


def test_init_from_begins_with_the_logits_that_training_had(source: Path) -> None:
    saved, card = load_checkpoint(source)
    card = dataclasses.replace(card, training={"logit_shift": [0.5, -0.25]})
    save_checkpoint(source, saved, card)
    net, _ = build_network(Start(init_from=source), card.classes, dropout=0)
    torch.testing.assert_close(net.logit_bias, saved.logit_bias + torch.tensor([0.5, -0.25]))


def test_init_from_for_other_classes_leaves_classwise_layers_new(source: Path) -> None:
    net, notes = build_network(Start(init_from=source), named_classes(["c", "d"]), dropout=0)
    expected = load_checkpoint(source)[0]
    assert torch.equal(net.trunk.fc6.weight, expected.trunk.fc6.weight)
    assert net.score_fc7.weight.abs().max() == 0
    assert "trunk.fc7" in notes[0]
    left = notes[1].removeprefix("weights: not copied, newly initialised: ").split(", ")
    assert left == [
        "score_fc7",
        "score_pool4",
        "score_pool3",
        "upscore_fc7",
        "upscore_pool4",
    ]


def test_init_from_copies_classes_by_their_names(source: Path) -> None:
    torch.manual_seed(4)
    net, card = load_checkpoint(source)
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn_like(tensor))
    save_checkpoint(source, net, card)
    grown, notes = build_network(Start(init_from=source), named_classes(["c", "b", "a"]), dropout=0)
    fresh = FCN(grown.architecture, 3)
    for name in ("score_fc7", "score_pool4", "score_pool3"):
        for kind in ("weight", "bias"):
            ours = getattr(grown.get_submodule(name), kind)
            assert torch.equal(ours[[2, 1]], getattr(net.get_submodule(name), kind))
            assert ours[0].abs().max() == 0
    for name in ("upscore_fc7", "upscore_pool4"):
        ours, theirs = grown.get_submodule(name).weight, net.get_submodule(name).weight
        for (to, of), (to_other, of_other) in itertools.product([(2, 0), (1, 1)], repeat=2):
            assert torch.equal(ours[to, to_other], theirs[of, of_other])
        assert torch.equal(ours[0], fresh.get_submodule(name).weight[0])
        assert torch.equal(ours[:, 0], fresh.get_submodule(name).weight[:, 0])
    assert notes[1] == (
        "weights: copied for b, a, newly initialised for c: "
        "score_fc7, score_pool4, score_pool3, upscore_fc7, upscore_pool4"
    )
    moved, notes = build_network(Start(init_from=source), named_classes(["b", "a"]), dropout=0)
    assert torch.equal(moved.score_pool3.bias, net.score_pool3.bias.flip(0))
    assert len(notes) == 1


def weights_of(monkeypatch: pytest.MonkeyPatch, backbone: str, classifier: nn.Module) -> None:
    """Let a classifier stand in for torchvision's download."""
    spec = dataclasses.replace(BACKBONES[backbone], weights=lambda: classifier)
    monkeypatch.setitem(BACKBONES, backbone, spec)


def test_pretrained_takes_the_classifiers_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    classifier = vgg16_bn(weights=None)
    weights_of(monkeypatch, "vgg16_bn", classifier)
    net, notes = build_network(Start(pretrained=True), named_classes(["a"]), dropout=0)
    assert net.architecture.head_width == 4096
    assert not net.architecture.head_norm
    assert torch.equal(net.trunk.fc6.weight.flatten(1), classifier.classifier[0].weight)
    assert notes == ["weights: ImageNet, vgg16_bn; newly initialised: score layers"]


def test_pretrained_with_a_narrow_head_gives_it_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    weights_of(monkeypatch, "vgg16_bn", vgg16_bn(weights=None))
    start = Start(pretrained=True, head_width=8)
    net, notes = build_network(start, named_classes(["a"]), dropout=0)
    assert net.architecture.head_norm
    assert "newly initialised: fc6, norm6, fc7, norm7, score layers" in notes[0]


@torch.no_grad()
def test_pretrained_googlenet_brings_its_own_normalisation(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's transforms the input inside of the classifier; here the buffers do."""
    torch.manual_seed(0)
    classifier = googlenet(weights=None, init_weights=False, transform_input=True).eval()
    weights_of(monkeypatch, "googlenet", classifier)
    start = Start(pretrained=True, backbone="googlenet", variant="fcn32s")
    net, notes = build_network(start, named_classes(["a"]), dropout=0)
    assert notes == ["weights: ImageNet, googlenet; newly initialised: score layers"]
    photo = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    expected = classifier._transform_input((photo / 255 - mean) / std)
    assert torch.allclose((photo - net.mean) / net.std, expected, atol=1e-5)


def test_pretrained_without_weights_is_refused() -> None:
    with pytest.raises(UsageError, match="no weights for caffenet, only for vgg16, vgg16_bn"):
        build_network(Start(pretrained=True, backbone="caffenet"), named_classes(["a"]), dropout=0)


@pytest.mark.parametrize("alignment", ["aligned", "paper"])
@torch.no_grad()
def test_stages_go_on_where_the_coarser_net_was(tmp_path: Path, alignment: str) -> None:
    """32s -> 16s -> 8s: shared layers copied, new scores zero, so that masks hardly change."""
    classes = named_classes(["a", "b", "c"])
    start = Start(
        variant="fcn32s",
        head_width=8,
        alignment=alignment,
        learned_upsampling=False,
        head_norm=True,
    )
    torch.manual_seed(0)
    net, _ = build_network(start, classes, dropout=0)
    torch.nn.init.normal_(net.score_fc7.weight)
    photo = torch.randint(0, 256, (1, 3, 150, 170), dtype=torch.uint8)
    before = net.eval()(photo)
    for variant, new in (("fcn16s", "score_pool4"), ("fcn8s", "score_pool3")):
        path = tmp_path / f"{variant}.safetensors"
        save_checkpoint(path, net, Card("stage", net.architecture, classes))
        net, notes = build_network(Start(variant=variant, init_from=path), classes, dropout=0)
        assert notes[-1] == f"weights: not copied, newly initialised: {new}"
        assert net.get_submodule(new).weight.abs().max() == 0
        after = net.eval()(photo)
        # Bilinear twice is not quite bilinear once; the rest is equal.
        assert (after - before).abs().mean() < 0.1 * before.std()


def test_a_drive_is_left_out_and_validated_on(tmp_path: Path) -> None:
    data = draw_folder(tmp_path, train=4, val=1, size=(32, 32))
    for kind in ("images", "masks"):
        (data / "train" / kind / "3.png").rename(data / "train" / kind / "drive_3.png")
    shutil.rmtree(data / "val" / "masks")  # the dataset's own val is of no use then
    out = tmp_path / "run"
    words = ["--dataset", "folder", "--data", str(data), *QUICK[2:]]
    assert train([*words, "--leave-out", "drive_", "--max-steps", "1", "--out", str(out)]) == 0
    _, card = load_checkpoint(out / "best.safetensors")
    assert card.training["photos"] == {"train": 3, "val": 1}
    assert card.training["left_out"] == "drive_"
    assert card.training["splits"] == {"train": "train", "val": "train"}
    assert "drive_..." in (out / "report.html").read_text()
    other = ["--out", str(tmp_path / "other")]
    with pytest.raises(UsageError, match="none of the 4 training photos"):
        train([*words, "--leave-out", "x", *other])
    with pytest.raises(UsageError, match="--leave-out says what to validate on"):
        train([*words, "--leave-out", "drive_", "--val-fraction", "0.5", *other])
    assert not (tmp_path / "other").exists()


def test_a_drive_is_left_out_of_photos_that_are_not_split(tmp_path: Path) -> None:
    data = draw_folder(tmp_path, train=4, val=1, size=(32, 32)) / "train"
    shutil.copy(data.parent / "classes.txt", data)
    out = tmp_path / "run"
    words = ["--dataset", "folder", "--data", str(data), *QUICK[2:], "--max-steps", "1"]
    assert train([*words, "--leave-out", "3", "--out", str(out)]) == 0
    _, card = load_checkpoint(out / "best.safetensors")
    assert card.training["photos"] == {"train": 3, "val": 1}


def test_photos_are_trained_on_at_a_scale_that_the_checkpoint_tells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = draw_folder(tmp_path, train=2, val=2, size=(96, 128))
    words = ["--dataset", "folder", "--data", str(data), *QUICK[2:], "--max-steps", "1"]
    seen: list[tuple[int, ...]] = []
    with pytest.MonkeyPatch.context() as patch:
        logits = Trainer.logits

        def noting(trainer: Trainer, index: int) -> Tensor:
            seen.append(trainer.val.photo_size(index))
            return logits(trainer, index)

        patch.setattr(Trainer, "logits", noting)
        assert train([*words, "--photo-scale", "0.5", "--out", str(tmp_path / "half")]) == 0
    assert set(seen) == {(48, 64)}
    best = tmp_path / "half" / "best.safetensors"
    assert load_checkpoint(best)[1].scale == 0.5
    assert "photos at scale 0.5" in capsys.readouterr().out
    assert "photos seen at scale" in (tmp_path / "half" / "report.html").read_text()
    # Who goes on from it goes on at its scale, unless told otherwise.
    for name, more, scale in (("on", [], 0.5), ("whole", ["--photo-scale", "1"], 1)):
        out = tmp_path / name
        assert train([*words, "--init-from", str(best), *more, "--out", str(out)]) == 0
        assert load_checkpoint(out / "best.safetensors")[1].scale == scale
    assert train([*words, "--resume", "--out", str(tmp_path / "half")]) == 0


def test_groups_stay_together_and_the_checkpoint_tells_which(tmp_path: Path) -> None:
    data = draw_folder(tmp_path, train=4, val=1, size=(32, 32)) / "train"
    shutil.copy(data.parent / "classes.txt", data)
    for kind in ("images", "masks"):
        for index in range(4):
            (data / kind / f"{index}.png").rename(data / kind / f"film{index % 2}_{index}.png")
    out = tmp_path / "run"
    words = ["--dataset", "folder", "--data", str(data), *QUICK[2:], "--max-steps", "1"]
    words += ["--val-fraction", "0.25", "--group-by", "film[0-9]", "--out", str(out)]
    assert train(words) == 0
    _, card = load_checkpoint(out / "best.safetensors")
    assert card.training["photos"] == {"train": 2, "val": 2}  # a quarter would be one
    assert card.training["group_by"] == "film[0-9]"
    assert "film[0-9] in common" in (out / "report.html").read_text()


def test_names_that_are_no_text_go_through_a_whole_run(tmp_path: Path) -> None:
    data = draw_folder(tmp_path, train=2, val=2, size=(32, 32))
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            folder = os.fsencode(data / split / kind)
            os.rename(folder + b"/0.png", folder + b"/stra\xdfe.png")
    words = ["--dataset", "folder", "--data", str(data), *QUICK[2:], "--max-steps", "1"]
    assert train([*words, "--out", str(tmp_path / "run")]) == 0
    assert r"stra\udcdfe.png" in (tmp_path / "run" / "report.html").read_text()


def test_photos_too_large_to_be_validated_on_are_named_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = draw_folder(tmp_path, train=2, val=2, size=(32, 32))
    large = np.zeros((500, 700), np.uint8)
    Image.fromarray(large).save(data / "val" / "masks" / "1.png")
    Image.fromarray(large).convert("RGB").save(data / "val" / "images" / "1.png")
    monkeypatch.setattr(room, "available_bytes", lambda: 50_000_000)
    words = ["--dataset", "folder", "--data", str(data), *QUICK[2:], "--max-steps", "1"]
    words += ["--out", str(tmp_path / "run")]
    with pytest.raises(UsageError, match=r"^1\.png: 700x500 is too large"):
        train(words)
    monkeypatch.undo()
    assert train(words) == 0  # the same command, once that is mended


def test_a_single_cell_for_batch_norm_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*QUICK, "--batch-size", "1", "--out", str(tmp_path / "run")]
    assert command(monkeypatch, *words) == 2
    assert "--batch-size 1 with --crop 32x32" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_masks_of_white_for_a_class_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = draw_folder(tmp_path, train=2, val=2, size=(32, 32))
    (data / "classes.txt").write_text("background\ncell\n")
    for path in data.glob("*/masks/*.png"):
        Image.open(path).point(lambda label: 255 if label else 0).save(path)
    words = ["--dataset", "folder", "--data", str(data), *QUICK[2:], "--out", str(tmp_path / "run")]
    assert command(monkeypatch, *words) == 2
    assert "255 means void, not white" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_class_that_nothing_is_labelled_with_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = draw_folder(tmp_path, train=2, val=2, size=(32, 32))
    with (data / "classes.txt").open("a") as file:
        file.write("star\n")
    words = ["--dataset", "folder", "--data", str(data), *QUICK[2:], "--max-steps", "1"]
    assert train([*words, "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr()
    assert "train has no pixel of square, triangle, star: they cannot be learned" in said.out


def test_what_fails_in_its_first_step_can_be_started_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*QUICK, "--max-steps", "1", "--out", str(tmp_path / "run")]
    step = Trainer._train_step

    def step_out_of_memory(*arguments: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(Trainer, "_train_step", step_out_of_memory)
    assert command(monkeypatch, *words) == 2
    assert "lower --batch-size" in capsys.readouterr().err
    monkeypatch.setattr(Trainer, "_train_step", step)
    assert command(monkeypatch, *words) == 0


def test_what_fails_later_tells_of_a_new_run_that_can_have_other_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = draw_folder(tmp_path, train=2, val=2, size=(32, 32))
    words = ["--dataset", "folder", "--data", str(data), *QUICK[2:], "--epochs", "2"]
    words += ["--out", str(tmp_path / "run")]
    step = Trainer._train_step

    def step_out_of_memory(trainer: Trainer, *arguments: object) -> object:
        if (tmp_path / "run" / "best.safetensors").exists():
            raise torch.OutOfMemoryError("out of memory")
        return step(trainer, *arguments)

    monkeypatch.setattr(Trainer, "_train_step", step_out_of_memory)
    assert command(monkeypatch, *words) == 2
    assert f"--init-from {tmp_path}/run/best.safetensors" in capsys.readouterr().err


def test_a_photo_that_breaks_in_the_first_epoch_leaves_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = draw_folder(tmp_path, train=2, val=1, size=(32, 32))
    words = ["--dataset", "folder", "--data", str(data), *QUICK[2:], "--cache", "0"]
    words += ["--max-steps", "1", "--out", str(tmp_path / "run")]
    photo = data / "train" / "images" / "0.png"
    whole = photo.read_bytes()
    photo.write_bytes(whole[: len(whole) // 2])  # the header is there, the pixels are not
    assert command(monkeypatch, *words) == 2
    assert capsys.readouterr().err.startswith(f"error: {photo}: ")
    photo.write_bytes(whole)
    assert command(monkeypatch, *words) == 0


def test_more_processes_than_photos_a_batch_are_refused() -> None:
    net = FCN(Architecture(backbone="alexnet", head_width=8), 2)
    recipe = dataclasses.replace(RECIPES["folder"], batch_size=1)
    with pytest.raises(UsageError, match="--batch-size 1 is shared by 2 processes"):
        _check_batches(net, recipe, Processes(rank=0, count=2))


def test_a_scale_of_ones_own_is_that_of_all_epochs(tmp_path: Path) -> None:
    words = ["--dataset", "camvid", "--data", "somewhere"]
    assert parse(words).late_scale == RECIPES["camvid"].late_scale
    assert parse([*words, "--scale", "0.5", "2"]).late_scale is None
    both = parse([*words, "--scale", "0.5", "2", "--late-scale", "1", "2"])
    assert both.late_scale == (1, 2)


def test_a_run_of_another_version_is_no_damage(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    del config["options"]["late_scale"]
    (copy / "config.json").write_text(json.dumps(config))
    assert command(monkeypatch, "--out", str(copy), "--resume") == 2
    assert "another version began this run: it knew no late_scale" in capsys.readouterr().err


def test_imagenet_weights_that_came_damaged_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def damaged() -> nn.Module:
        raise RuntimeError('invalid hash value (expected "6c64", got "e3b0")')

    backbone = dataclasses.replace(BACKBONES["vgg16_bn"], weights=damaged)
    monkeypatch.setitem(BACKBONES, "vgg16_bn", backbone)
    with pytest.raises(UsageError, match=r"--pretrained: .*invalid hash value"):
        build_network(Start(pretrained=True), named_classes(["a", "b"]), dropout=0)


@pytest.mark.parametrize("order", [1, -1])
def test_the_recipe_is_the_datasets_wherever_data_stands(order: int) -> None:
    words = [["--dataset", "camvid"], ["--data", "somewhere"]][::order]
    assert parse([*words[0], *words[1]]).crop == RECIPES["camvid"].crop


def test_the_papers_recipe_depends_on_the_stage() -> None:
    for variant, rate, steps in (
        ("fcn32s", 1e-10, 100_000),
        ("fcn16s", 1e-12, 100_000),
        ("fcn8s", 1e-14, 100_000),
        ("fcn8s-atonce", 1e-10, 300_000),
    ):
        options = parse(["--dataset", "shapes", "--recipe", "paper", "--variant", variant])
        assert (options.learning_rate, options.max_steps) == (rate, steps)
        assert (options.batch_size, options.crop, options.loss) == (1, None, "sum")
        assert (options.optimizer, options.momentum, options.bias_rate) == ("sgd", 0.99, 2.0)
    options = parse(["--recipe", "paper", "--variant", "fcn32s", "--learning-rate", "1e-9"])
    assert options.learning_rate == 1e-9
    with pytest.raises(UsageError, match="needs --variant"):
        parse(["--recipe", "paper"])


def test_the_papers_recipe_trains_on_whole_photos_and_resumes(tmp_path: Path) -> None:
    words = ["--dataset", "shapes", "--recipe", "paper", "--variant", "fcn32s", "--device", "cpu"]
    words += ["--backbone", "alexnet", "--alignment", "paper", "--head-width", "8"]
    words += ["--max-steps", "2", "--out", str(tmp_path / "run")]
    assert train(words) == 0
    options = parse(["--resume", "--out", str(tmp_path / "run")])
    assert (options.recipe, options.crop, options.max_steps) == ("paper", None, 2)
    assert train(["--resume", "--out", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epochs", "0"], "--epochs 0 needs --max-steps"),
        (["--crop", "whole"], "--crop whole needs --batch-size 1"),
        (
            ["--dataset", "camvid", "--crop", "whole", "--batch-size", "1"],
            "--crop whole needs --pasting 0",
        ),
    ],
)
def test_recipes_that_cannot_run_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(words)


def test_a_photo_that_breaks_in_a_worker_is_one_line_and_the_process_ends(tmp_path: Path) -> None:
    data = tmp_path / "data"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for part in ("train", "val"):
        for folder in ("images", "masks"):
            (data / part / folder).mkdir(parents=True)
        Image.fromarray(pixels).save(data / part / "images" / "a.png")
        Image.fromarray(pixels[..., 0] // 128).save(data / part / "masks" / "a.png")
    (data / "classes.txt").write_text("a\nb\n")
    broken = data / "train" / "images" / "a.png"
    broken.write_bytes(broken.read_bytes()[:6000])  # the header is whole, the pixels are not
    words = ["--dataset", "folder", "--data", str(data), "--out", str(tmp_path / "run")]
    words += ["--workers", "2", "--head-width", "8", "--crop", "32x32", "--batch-size", "2"]
    words += ["--cache", "0"]  # or the main process reads it, before the workers do
    command = [sys.executable, "-m", "app.train", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: {broken}: ")
    assert done.stderr.count("\n") == 1
