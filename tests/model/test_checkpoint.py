import dataclasses
import hashlib
import itertools
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from model import (
    FCN,
    Architecture,
    Card,
    CheckpointError,
    load_checkpoint,
    load_versioned,
    named_classes,
    save_checkpoint,
    save_with_card,
)

ARCHITECTURE = Architecture(head_width=8, head_norm=True)
CARD = Card("tiny", ARCHITECTURE, named_classes(["cat", "dog"]), {"val": {"mean_iu": 0.5}})


@pytest.fixture(scope="module")
def net() -> FCN:
    torch.manual_seed(1)
    return FCN(ARCHITECTURE, 2).eval()


@pytest.fixture
def path(net: FCN, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(path, net, CARD)
    return path


def rewrite(path: Path, *, drop: str = "", **changes: object) -> None:
    """Write the file again with other metadata or without a tensor."""
    with safe_open(path, framework="pt") as file:
        metadata, names = file.metadata(), list(file.keys())
        tensors = {name: file.get_tensor(name) for name in names if name != drop}
    metadata["fcn"] = json.dumps({**json.loads(metadata["fcn"]), **changes})
    save_file(tensors, path, metadata)


def test_round_trip(net: FCN, path: Path) -> None:
    loaded, card = load_checkpoint(path)
    assert card == CARD
    assert not loaded.training
    expected = net.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())


def test_bf16_halves_kernels_and_keeps_vectors(net: FCN, path: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.safetensors"
    save_checkpoint(small, net, CARD, dtype=torch.bfloat16)
    assert small.stat().st_size < 0.51 * path.stat().st_size
    loaded, _ = load_checkpoint(small)
    norm = "trunk.stage1.norm1_1.weight"
    kernel = "trunk.stage1.conv1_1.weight"
    assert loaded.state_dict()[kernel].dtype == torch.float32
    assert torch.equal(loaded.state_dict()[norm], net.state_dict()[norm])
    assert torch.equal(loaded.state_dict()[kernel], net.state_dict()[kernel].bfloat16().float())


def test_metadata_tells_other_programs_how_to_feed_the_net(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        values = json.loads(file.metadata()["fcn"])
    assert values["input"]["channel_order"] == "RGB"
    assert values["input"]["mean"] == pytest.approx([123.675, 116.28, 103.53])
    assert values["classes"][1] == {"name": "dog", "color": [0, 128, 0]}


@pytest.mark.parametrize("number", ["temperature", "scale"])
def test_temperature_and_scale_are_kept(net: FCN, path: Path, number: str) -> None:
    other = dataclasses.replace(CARD, **{number: 1.25})
    save_checkpoint(path, net, other)
    assert load_checkpoint(path)[1] == other
    rewrite(path, **{number: 2})
    assert getattr(load_checkpoint(path)[1], number) == 2.0


def test_files_of_before_there_were_temperatures_and_scales_have_those_of_1(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        values = json.loads(file.metadata()["fcn"])
        tensors = {name: file.get_tensor(name) for name in list(file.keys())}
    assert values["format_version"] == 1
    del values["temperature"], values["scale"]
    save_file(tensors, path, {"fcn": json.dumps(values)})
    assert load_checkpoint(path)[1] == CARD


def stored(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors as the file holds them."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in list(file.keys())}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_another_card_keeps_every_tensor_to_the_bit(
    net: FCN, path: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    save_checkpoint(path, net, CARD, dtype=dtype)
    before = stored(path)
    card = dataclasses.replace(CARD, temperature=1.25, training={"epoch": 3})
    for out in (tmp_path / "other.safetensors", path):
        save_with_card(path, out, card)
        after = stored(out)
        assert load_checkpoint(out)[1] == card
        assert after.keys() == before.keys()
        for name, tensor in before.items():
            assert after[name].dtype == tensor.dtype, name
            assert torch.equal(after[name], tensor), name
    save_checkpoint(tmp_path / "again.safetensors", net, card, dtype=dtype)
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_another_card_for_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"x\.safetensors: .* not a checkpoint"):
        save_with_card(path, path, CARD)
    assert path.read_bytes() == before
    with pytest.raises(FileNotFoundError):
        save_with_card(tmp_path / "none.safetensors", path, CARD)


def test_equal_networks_make_equal_files(net: FCN, path: Path) -> None:
    before = path.read_bytes()
    save_checkpoint(path, net, CARD)
    assert path.read_bytes() == before


def test_every_truncation_is_refused(path: Path, tmp_path: Path) -> None:
    data = path.read_bytes()
    short = tmp_path / "short.safetensors"
    for length in (0, 1, 7, 8, 100, 5000, len(data) // 2, len(data) - 1):
        short.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"short\.safetensors: not a safetensors file"):
            load_checkpoint(short)


def test_version_and_network_are_of_the_same_bytes(net: FCN, path: Path) -> None:
    loaded, card, version = load_versioned(path)
    assert card == CARD
    assert version == hashlib.sha256(path.read_bytes()).hexdigest()
    expected = net.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())


def test_what_is_written_over_the_file_later_changes_no_network(net: FCN, path: Path) -> None:
    loaded, _ = load_checkpoint(path)
    with open(path, "r+b") as file:  # as `cp` writes: into the file that is there
        file.write(b"\xff" * path.stat().st_size)
    expected = net.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())


def test_a_file_written_to_while_it_is_read_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fstat = os.fstat
    looks = itertools.count()

    def overwritten_after_the_first_look(handle: int) -> os.stat_result:
        if next(looks) == 1:
            os.utime(path, ns=(0, 0))
        return fstat(handle)

    monkeypatch.setattr("os.fstat", overwritten_after_the_first_look)
    with pytest.raises(CheckpointError, match=r"tiny\.safetensors: was written to while"):
        load_checkpoint(path)


def test_numbers_of_a_format_that_torch_lacks_are_refused(path: Path) -> None:
    header = json.dumps({"x": {"dtype": "F8_E8M0", "shape": [1], "data_offsets": [0, 1]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\x00")
    with pytest.raises(CheckpointError, match=r"tiny\.safetensors: "):
        load_checkpoint(path)


def test_a_newer_format_is_refused(path: Path) -> None:
    rewrite(path, format_version=2)
    with pytest.raises(CheckpointError, match="format version is 2, this program reads up to 1"):
        load_checkpoint(path)


def test_a_missing_tensor_is_named(path: Path) -> None:
    rewrite(path, drop="trunk.fc6.weight")
    with pytest.raises(CheckpointError, match=r"trunk\.fc6\.weight is missing"):
        load_checkpoint(path)


def test_a_tensor_of_another_shape_is_named(path: Path) -> None:
    rewrite(path, architecture=dataclasses.asdict(ARCHITECTURE) | {"head_width": 9})
    with pytest.raises(CheckpointError, match=r"trunk\.fc6\.weight is \[8, 512, 7, 7\], not \[9"):
        load_checkpoint(path)


def test_absurd_sizes_are_refused_without_allocating(path: Path) -> None:
    rewrite(path, architecture=dataclasses.asdict(ARCHITECTURE) | {"head_width": 65536})
    with pytest.raises(CheckpointError, match="do not fit"):
        load_checkpoint(path)  # fc7 alone would take 17 GB


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": "one"}, "'one' is no number"),
        ({"classes": []}, "0 classes"),
        ({"classes": [{"name": "cat", "color": [0, 0]}] * 2}, "no colour"),
        ({"classes": [{"name": "cat", "color": [0, 0, 0]}] * 2}, "same name"),
        ({"classes": [{"name": "", "color": [0, 0, 0]}]}, "no class name"),
        ({"classes": 7}, "wrong"),
        ({"architecture": {"variant": "fcn3s"}}, "unknown variant"),
        ({"architecture": {"depth": 3}}, "depth"),
        ({"architecture": {"backbone": "resnet"}}, "unknown backbone"),
        ({"name": "two words"}, "no model name"),
        ({"training": []}, "not an object"),
        ({"temperature": 0}, "0 is no temperature"),
        ({"temperature": -1.5}, "-1.5 is no temperature"),
        ({"temperature": float("nan")}, "nan is no temperature"),
        ({"temperature": float("inf")}, "inf is no temperature"),
        ({"temperature": 10**400}, "10000.* is no temperature"),
        ({"temperature": "1.5"}, "'1.5' is no temperature"),
        ({"temperature": True}, "True is no temperature"),
        ({"temperature": None}, "None is no temperature"),
        ({"scale": 0}, "0 is no scale"),
    ],
)
def test_wrong_metadata_is_refused(path: Path, changes: dict[str, object], message: str) -> None:
    rewrite(path, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


def test_a_foreign_safetensors_file_is_refused(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="not a checkpoint of this project"):
        load_checkpoint(tmp_path / "x.safetensors")


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "none.safetensors")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    net: FCN, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, net, CARD)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
