"""`fcn export`: the files give the network's masks in other runtimes, and say what they are."""

import hashlib
import json
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from app import export
from app.paths import DEFAULT_CHECKPOINT
from model import FCN, Architecture, Card, load_checkpoint, named_classes, save_checkpoint
from model.backbones import BACKBONES

CLASSES = named_classes(["leaf", "stem", "spot", "soil", "sky"])
FORMATS = ("onnx", "torch-export")
ROOT = Path(__file__).parents[1]

Run = Callable[[Tensor], Tensor]


class Exported(NamedTuple):
    """A file, and its parts as other programs find them."""

    path: Path
    run: Run
    metadata: dict[str, Any]


def random_images(batch: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(height)
    return torch.randint(0, 256, (batch, 3, height, width), generator=generator, dtype=torch.uint8)


def labels_of(net: FCN, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return net(images).argmax(dim=1)


def save_network(path: Path, architecture: Architecture) -> None:
    """Save a network whose layers all matter and that sees several classes in noise."""
    torch.manual_seed(0)
    net = FCN(architecture, len(CLASSES)).eval()
    for name, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_var, module.weight):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.running_mean, module.bias):
                nn.init.uniform_(tensor, -0.5, 0.5)
        elif name.startswith("score_"):
            nn.init.normal_(module.weight)
        elif name.startswith("upscore") and module.weight is not None:
            module.weight.data += 0.01 * torch.randn_like(module.weight)
    with torch.no_grad():
        logits = net(random_images(2, 64, 96))
        coarsest = net.get_submodule(f"score_{net.trunk.taps[32].name}")
        coarsest.bias -= logits.mean((0, 2, 3))
    save_checkpoint(path, net, Card("garden", architecture, CLASSES))


def command(*words: object) -> int:
    return export.main([str(word) for word in words])


def load_onnx(path: Path) -> Exported:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def answer(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])

    return Exported(path, answer, json.loads(session.get_modelmeta().custom_metadata_map["fcn"]))


def load_torch_export(path: Path) -> Exported:
    extra = {"fcn": ""}
    program = torch.export.load(path, extra_files=extra)
    return Exported(path, program.module(), json.loads(extra["fcn"]))


LOADERS = {"onnx": load_onnx, "torch-export": load_torch_export}
SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "garden.safetensors"
    save_network(path, Architecture(head_width=8, head_norm=True))
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that is exported in a second or two."""
    path = tmp_path_factory.mktemp("small") / "garden.safetensors"
    save_network(path, Architecture("fcn32s", "alexnet", head_width=8))
    return path


@pytest.fixture(scope="module")
def net(checkpoint: Path) -> FCN:
    return load_checkpoint(checkpoint)[0]


@pytest.fixture(scope="module", params=FORMATS)
def exported(
    request: pytest.FixtureRequest, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    path = tmp_path_factory.mktemp(request.param) / f"garden{SUFFIXES[request.param]}"
    assert command("--checkpoint", checkpoint, "--format", request.param, "--out", path) == 0
    return LOADERS[request.param](path)


@pytest.mark.parametrize("size", [(64, 96), (37, 53), (130, 71)], ids=str)
@pytest.mark.parametrize("batch", [1, 3])
def test_label_maps_are_the_networks(
    exported: Exported, net: FCN, batch: int, size: tuple[int, int]
) -> None:
    images = random_images(batch, *size)
    expected = labels_of(net, images)
    assert len(expected.unique()) >= 3
    logits = exported.run(images)
    assert logits.shape == (batch, len(CLASSES), *size)
    assert logits.dtype == torch.float32
    assert (logits.argmax(dim=1) == expected).float().mean() >= 0.999


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 40), (1, 33, 2)], ids=str)
def test_images_may_be_as_small_as_a_pixel(
    exported: Exported, net: FCN, shape: tuple[int, int, int]
) -> None:
    images = random_images(*shape)
    with torch.inference_mode():
        expected = net(images)
    assert torch.allclose(exported.run(images), expected, rtol=1e-4, atol=1e-4)


def test_the_file_says_what_it_is(exported: Exported, checkpoint: Path) -> None:
    metadata = exported.metadata
    assert metadata["name"] == "garden"
    assert metadata["version"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    classes = [(entry["name"], tuple(entry["color"])) for entry in metadata["classes"]]
    assert classes == [(info.name, info.color) for info in CLASSES]
    assert metadata["input"]["shape"] == ["batch", 3, "height", "width"]
    assert metadata["temperature"] == 1
    assert metadata["output"] == {
        "name": "logits",
        "shape": ["batch", 5, "height", "width"],
        "dtype": "float32",
    }


def test_the_file_is_alone_and_names_no_place(exported: Exported) -> None:
    assert list(exported.path.parent.iterdir()) == [exported.path]
    content = exported.path.read_bytes()
    assert str(ROOT).encode() not in content
    assert str(Path(torch.__file__).parent).encode() not in content


@pytest.mark.parametrize("exported", ["onnx"], indirect=True)
def test_onnx_axes_have_names(exported: Exported) -> None:
    session = onnxruntime.InferenceSession(exported.path, providers=["CPUExecutionProvider"])
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type) == ("images", "tensor(uint8)")
    assert images.shape == ["batch", 3, "height", "width"]
    assert (logits.name, logits.type) == ("logits", "tensor(float)")
    assert logits.shape == ["batch", 5, "height", "width"]


def export_and_compare(
    folder: Path, file_format: str, output: str, backbone: str, variant: str, alignment: str
) -> None:
    head_width = 8 if BACKBONES[backbone].has_head else None
    architecture = Architecture(variant, backbone, head_width, alignment=alignment)
    checkpoint, out = folder / "net.safetensors", folder / f"net{SUFFIXES[file_format]}"
    save_network(checkpoint, architecture)
    words = ["--checkpoint", checkpoint, "--format", file_format, "--output", output]
    assert command(*words, "--out", out) == 0
    images = random_images(2, 45, 70)
    expected = labels_of(load_checkpoint(checkpoint)[0], images)
    assert len(expected.unique()) >= 2
    answer = LOADERS[file_format](out).run(images)
    if output == "labels":
        assert answer.dtype == torch.uint8
    else:
        answer = answer.argmax(dim=1)
    assert answer.shape == (2, 45, 70)
    assert (answer == expected).float().mean() >= 0.999


@pytest.mark.parametrize("file_format", FORMATS)
def test_labels_of_the_papers_alexnet(file_format: str, tmp_path: Path) -> None:
    export_and_compare(tmp_path, file_format, "labels", "caffenet", "fcn32s", "paper")


@pytest.mark.slow
@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize(
    ("variant", "alignment"), [("fcn16s", "aligned"), ("fcn8s-atonce", "paper")]
)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_network(
    file_format: str, variant: str, alignment: str, backbone: str, tmp_path: Path
) -> None:
    export_and_compare(tmp_path, file_format, "logits", backbone, variant, alignment)


@pytest.mark.slow
@pytest.mark.parametrize("file_format", FORMATS)
def test_the_default_checkpoint(file_format: str, tmp_path: Path) -> None:
    out = tmp_path / f"street{SUFFIXES[file_format]}"
    assert (
        command("--checkpoint", ROOT / DEFAULT_CHECKPOINT, "--format", file_format, "--out", out)
        == 0
    )
    net = load_checkpoint(ROOT / DEFAULT_CHECKPOINT)[0]
    colors = torch.rand(2, 3, 3, 4, generator=torch.Generator().manual_seed(1)) * 255
    images = nn.functional.interpolate(colors, (180, 250), mode="bicubic").clamp(0, 255).byte()
    expected = labels_of(net, images)
    assert len(expected.unique()) >= 3
    labels = LOADERS[file_format](out).run(images).argmax(dim=1)
    assert (labels == expected).float().mean() >= 0.999


def test_the_user_sees_one_line(
    small: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "garden.pt2"
    assert command("--checkpoint", small, "--format", "torch-export", "--out", out) == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    assert captured.out.count("\n") == 1
    assert captured.out.startswith(f"{out}: garden, images [batch, 3, height, width] uint8 -> ")
    assert captured.out.endswith("100.000% of the pixels the network's class\n")


def refusal(capsys: pytest.CaptureFixture[str], folder: Path, *words: object) -> str:
    """The line that says why nothing was made."""
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert command(*words) == 2
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_file_that_differs_from_the_network_is_not_kept(
    file_format: str,
    small: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def spoilt(net: FCN) -> FCN:
        other = FCN(net.architecture, net.num_classes).eval()
        other.score_fc7.bias.data[0] = 1.0  # class 0 everywhere
        return other

    monkeypatch.setattr(export, "fold_batch_norms", spoilt)
    out = tmp_path / "garden"
    out.write_text("the file of last week")
    words = ["--checkpoint", small, "--format", file_format, "--out", out]
    line = refusal(capsys, tmp_path, *words)
    assert f"{out} was not written: loaded again, it gives only " in line


def test_weights_beyond_protobufs_limit_are_refused(
    small: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(export, "MAX_ONNX_BYTES", 1_000_000)
    line = refusal(capsys, tmp_path, "--checkpoint", small, "--out", tmp_path / "x.onnx")
    assert line.startswith(f"error: {small} has 0.0 GB of weights, an ONNX file holds")
    assert line.endswith("use --format torch-export\n")


def test_an_exporter_that_fails_is_heard_and_leaves_nothing(
    small: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        print("no such operator")
        raise RuntimeError("failed")

    monkeypatch.setattr(torch.export, "export", fail)
    with pytest.raises(RuntimeError, match="failed"):
        command("--checkpoint", small, "--out", tmp_path / "x.onnx")
    assert capsys.readouterr().err == "no such operator\n"
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file of this process may grow beyond a megabyte."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_is_one_line_and_leaves_nothing(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.pt2"
    words = ["--checkpoint", small, "--format", "torch-export", "--out", out]
    assert refusal(capsys, tmp_path, *words) == f"error: {out}: File too large\n"


def test_wrong_paths_are_one_line(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.onnx"
    missing = tmp_path / "gone.safetensors"
    assert f"{missing}: No such file" in refusal(
        capsys, tmp_path, "--checkpoint", missing, "--out", out
    )
    assert "nowhere: no such folder" in refusal(
        capsys, tmp_path, "--checkpoint", small, "--out", tmp_path / "nowhere" / "x.onnx"
    )
    assert "is a folder" in refusal(capsys, tmp_path, "--checkpoint", small, "--out", tmp_path)
    assert "would be overwritten" in refusal(
        capsys, small.parent, "--checkpoint", small, "--out", small
    )
