"""`.caffemodel` files, written here field by field after caffe.proto, are read as meant."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from model.caffemodel import PublishedWeightsError, read_caffemodel

WEIGHT = np.random.default_rng(1).normal(size=(3, 2, 3, 2)).astype(np.float32)
BIAS = np.random.default_rng(2).normal(size=3).astype(np.float32)


def varint(value: int) -> bytes:
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F)
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


def key(number: int, wire_type: int) -> bytes:
    return varint(number << 3 | wire_type)


def integer(number: int, value: int) -> bytes:
    return key(number, 0) + varint(value)


def content(number: int, data: bytes) -> bytes:
    return key(number, 2) + varint(len(data)) + data


def blob(
    array: np.ndarray, *, packed: bool = True, legacy: bool = False, double: bool = False
) -> bytes:
    number, wire_type, dtype = (8, 1, "<f8") if double else (5, 5, "<f4")
    data = array.astype(dtype)
    if legacy:
        dims = (1,) * (4 - array.ndim) + array.shape
        shape = b"".join(integer(field, dim) for field, dim in enumerate(dims, start=1))
    elif packed:
        shape = content(7, content(1, b"".join(varint(dim) for dim in array.shape)))
    else:
        shape = content(7, b"".join(integer(1, dim) for dim in array.shape))
    if packed:
        numbers = content(number, data.tobytes())
    else:
        numbers = b"".join(key(number, wire_type) + value.tobytes() for value in data.ravel())
    gradients = content(6, np.ones_like(array, "<f4").tobytes())  # as snapshots may have
    return shape + gradients + numbers


def layer(name: str, *blobs: bytes, v1: bool = False) -> bytes:
    """A layer as Caffe writes it, with fields that do not matter here before and after."""
    if v1:
        body = content(2, b"bottom") + content(3, b"top") + content(4, name.encode())
        body += integer(5, 4) + b"".join(content(6, data) for data in blobs)
        body += key(7, 5) + b"\0\0\x80\x3f" + content(10, integer(1, 21))
        return content(2, body)
    body = content(1, name.encode()) + content(2, b"Convolution") + content(3, b"bottom")
    body += b"".join(content(7, data) for data in blobs) + key(200, 1) + bytes(8)
    body += integer(10, 1) + content(106, integer(1, 21))
    return content(100, body)


def net(*layers: bytes) -> bytes:
    return content(1, b"a net") + integer(5, 0) + b"".join(layers)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.caffemodel"


@pytest.mark.parametrize("v1", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("double", [False, True])
def test_every_way_of_writing_gives_the_same_numbers(
    path: Path, *, v1: bool, packed: bool, legacy: bool, double: bool
) -> None:
    how = {"packed": packed, "legacy": legacy, "double": double}
    path.write_bytes(
        net(
            layer("data", v1=v1),
            layer("conv1", blob(WEIGHT, **how), blob(BIAS, **how), v1=v1),
            layer("relu1", v1=v1),
            layer("upscore", blob(WEIGHT[0], **how), v1=v1),
        )
    )
    layers = read_caffemodel(path)
    assert list(layers) == ["conv1", "upscore"]
    weight, bias = layers["conv1"]
    assert weight.dtype == (torch.float64 if double else torch.float32)
    assert torch.equal(weight.float(), torch.from_numpy(WEIGHT))
    assert torch.equal(bias.float().flatten(), torch.from_numpy(BIAS))
    assert bias.shape == ((1, 1, 1, 3) if legacy else (3,))
    assert torch.equal(layers["upscore"][0].float().squeeze(), torch.from_numpy(WEIGHT[0]))


def test_old_and_new_layers_may_stand_in_one_file(path: Path) -> None:
    path.write_bytes(net(layer("a", blob(BIAS), v1=True), layer("b", blob(BIAS))))
    assert list(read_caffemodel(path)) == ["a", "b"]


def test_the_tensors_do_not_change_with_the_file(path: Path) -> None:
    path.write_bytes(net(layer("a", blob(BIAS))))
    (bias,) = read_caffemodel(path)["a"]
    with open(path, "r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert torch.equal(bias, torch.from_numpy(BIAS))


def test_a_truncated_file_is_refused_or_lacks_its_last_layers(path: Path) -> None:
    layers = [layer(name, blob(WEIGHT), blob(BIAS)) for name in ("a", "b", "c")]
    whole = net(*layers)
    ends = [len(net(*layers[:count])) for count in range(4)]
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        if length in ends[1:]:  # a shorter network, as far as the format tells
            assert list(read_caffemodel(path)) == ["a", "b", "c"][: ends.index(length)]
        else:
            with pytest.raises(PublishedWeightsError, match=r"net\.caffemodel: "):
                read_caffemodel(path)


def test_a_damaged_file_never_raises_anything_else(path: Path) -> None:
    whole = net(layer("conv1", blob(WEIGHT), blob(BIAS)), layer("fc", blob(BIAS), v1=True))
    generator = random.Random(3)
    refusals = []
    for _ in range(500):
        data = bytearray(whole)
        for _ in range(generator.randint(1, 4)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        path.write_bytes(data)
        try:
            read_caffemodel(path)
        except PublishedWeightsError as error:
            refusals.append(str(error))
    assert not any("\n" in refusal for refusal in refusals)
    assert len(refusals) > 50


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b'name: "net"\nlayer {\n  name: "conv1"\n}\n', "not a .caffemodel, or damaged"),
        (b"\x80" * 40, "an integer has no end"),
        (b"\x00\x01", "a field has the number 0"),
        (key(1, 3), "unknown wire type 3"),
        (content(1, b"a net without layers"), "without any weights"),
        (net(layer("data"), layer("relu1")), "without any weights"),
        (key(100, 2) + varint(2**62), "bytes too early"),
        (integer(100, 7), "an integer where bytes belong"),
        (net(content(100, integer(1, 7))), "an integer where bytes belong"),
        (net(layer("a", blob(BIAS)), layer("a", blob(BIAS))), "two layers are called a"),
        (net(layer("", blob(BIAS))), "name is no text"),
        (net(layer("a\nb", blob(BIAS))), "name is no text"),
        (net(content(100, content(7, blob(BIAS)))), "a layer with weights has no name"),
        (net(layer("a", blob(BIAS)[:-1])), "layer a: it ends 1 bytes too early"),
        (net(layer("a", content(5, bytes(7)))), "layer a: a blob of shape [] holds 7 bytes"),
        (net(layer("a", blob(BIAS) + content(5, bytes(4)))), "shape [3] holds 16 bytes"),
        (net(layer("a", content(7, integer(1, 3)))), "layer a: a blob of shape [3] holds no"),
        (net(layer("a", content(7, integer(1, 2**61)) + content(5, bytes(4)))), "holds 4 bytes"),
        (net(layer("a", content(7, integer(1, 1) * 99) + content(5, bytes(4)))), "99 dimensions"),
        (
            net(layer("a", content(1, b"3") + content(5, bytes(4)))),
            "bytes where an integer belongs",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(path: Path, data: bytes, message: str) -> None:
    path.write_bytes(data)
    with pytest.raises(PublishedWeightsError) as raised:
        read_caffemodel(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_file_says_so(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_caffemodel(path)
