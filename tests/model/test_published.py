"""Published weights give the published masks; what does not fit is named.

The reference is typed from the authors' prototxt files and pytorch-fcn's models, layer by layer,
with nothing of this project in it.
"""

import functools
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from app.inference.engine import Engine
from model import Card, named_classes, save_checkpoint
from model.caffemodel import PublishedWeightsError
from model.published import read_published

CLASSES = 21
HEAD = 16
"""Channels of fc6 and fc7: 4096 in the published nets."""

Weights = dict[str, Tensor]

VGG16_SHAPES = {
    "conv1_1": (64, 3, 3, 3),
    "conv1_2": (64, 64, 3, 3),
    "conv2_1": (128, 64, 3, 3),
    "conv2_2": (128, 128, 3, 3),
    "conv3_1": (256, 128, 3, 3),
    "conv3_2": (256, 256, 3, 3),
    "conv3_3": (256, 256, 3, 3),
    "conv4_1": (512, 256, 3, 3),
    "conv4_2": (512, 512, 3, 3),
    "conv4_3": (512, 512, 3, 3),
    "conv5_1": (512, 512, 3, 3),
    "conv5_2": (512, 512, 3, 3),
    "conv5_3": (512, 512, 3, 3),
    "fc6": (HEAD, 512, 7, 7),
    "fc7": (HEAD, HEAD, 1, 1),
    "score_fr": (CLASSES, HEAD, 1, 1),
}
SKIP_SHAPES = {"score_pool4": (CLASSES, 512, 1, 1), "score_pool3": (CLASSES, 256, 1, 1)}
ALEXNET_SHAPES = {
    "conv1": (96, 3, 11, 11),
    "conv2": (256, 48, 5, 5),
    "conv3": (384, 256, 3, 3),
    "conv4": (384, 192, 3, 3),
    "conv5": (256, 192, 3, 3),
    "fc6": (HEAD, 256, 6, 6),
    "fc7": (HEAD, HEAD, 1, 1),
    "score_fr": (CLASSES, HEAD, 1, 1),
}
LAYERS = {
    "fcn32s": (VGG16_SHAPES, {"upscore": 64}),
    "fcn16s": (
        VGG16_SHAPES | {"score_pool4": SKIP_SHAPES["score_pool4"]},
        {"upscore2": 4, "upscore16": 32},
    ),
    "fcn8s": (VGG16_SHAPES | SKIP_SHAPES, {"upscore2": 4, "upscore_pool4": 4, "upscore8": 16}),
    "fcn-alexnet": (ALEXNET_SHAPES, {"upscore": 63}),
}
"""Net -> shapes of its convolutions, kernel sizes of its deconvolutions."""


def seeded(name: str, *shape: int) -> Tensor:
    """Normal random numbers that depend on the name only."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randn(*shape, generator=generator)


@functools.cache
def random_weights(net: str) -> Weights:
    convolutions, deconvolutions = LAYERS[net]
    weights = {}
    for name, shape in convolutions.items():
        fan_in = shape[1] * shape[2] * shape[3]
        weights[f"{name}.weight"] = seeded(name, *shape) * (2 / fan_in) ** 0.5
        weights[f"{name}.bias"] = seeded(f"{name} bias", shape[0])
    for name, size in deconvolutions.items():
        weights[f"{name}.weight"] = seeded(name, CLASSES, CLASSES, size, size) / size
    return weights


@functools.cache
def photo(height: int, width: int) -> np.ndarray:
    """Blocks of colour with noise, HxWx3 RGB."""
    generator = np.random.default_rng(height * 1000 + width)
    blocks = generator.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3))
    image = blocks.repeat(16, axis=0).repeat(16, axis=1)[:height, :width]
    return np.clip(image + generator.normal(0, 20, image.shape), 0, 255).astype(np.uint8)


def network_input(image: np.ndarray) -> Tensor:
    """1x3xHxW, BGR minus mean, as both publishers feed their nets."""
    bgr = image[:, :, ::-1].astype(np.float64) - np.array(
        (104.00698793, 116.66876762, 122.67891434)
    )
    return torch.from_numpy(bgr.transpose(2, 0, 1)[None]).float()


def vgg16(w: Weights, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """pool3, pool4 and the score of fc7."""

    def conv(name: str, x: Tensor, padding: int) -> Tensor:
        return F.relu(F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=padding))

    x = conv("conv1_1", x, 100)
    x = conv("conv1_2", x, 1)
    x = F.max_pool2d(x, 2, 2, ceil_mode=True)
    x = conv("conv2_1", x, 1)
    x = conv("conv2_2", x, 1)
    x = F.max_pool2d(x, 2, 2, ceil_mode=True)
    x = conv("conv3_1", x, 1)
    x = conv("conv3_2", x, 1)
    x = conv("conv3_3", x, 1)
    pool3 = F.max_pool2d(x, 2, 2, ceil_mode=True)
    x = conv("conv4_1", pool3, 1)
    x = conv("conv4_2", x, 1)
    x = conv("conv4_3", x, 1)
    pool4 = F.max_pool2d(x, 2, 2, ceil_mode=True)
    x = conv("conv5_1", pool4, 1)
    x = conv("conv5_2", x, 1)
    x = conv("conv5_3", x, 1)
    x = F.max_pool2d(x, 2, 2, ceil_mode=True)
    x = conv("fc6", x, 0)
    x = conv("fc7", x, 0)
    return pool3, pool4, F.conv2d(x, w["score_fr.weight"], w["score_fr.bias"])


def fcn32s(w: Weights, x: Tensor) -> Tensor:
    _, _, score = vgg16(w, x)
    score = F.conv_transpose2d(score, w["upscore.weight"], stride=32)
    return score[:, :, 19 : 19 + x.shape[2], 19 : 19 + x.shape[3]]


def fcn16s(w: Weights, x: Tensor) -> Tensor:
    _, pool4, score = vgg16(w, x)
    score = F.conv_transpose2d(score, w["upscore2.weight"], stride=2)
    skip = F.conv2d(pool4, w["score_pool4.weight"], w["score_pool4.bias"])
    score = score + skip[:, :, 5 : 5 + score.shape[2], 5 : 5 + score.shape[3]]
    score = F.conv_transpose2d(score, w["upscore16.weight"], stride=16)
    return score[:, :, 27 : 27 + x.shape[2], 27 : 27 + x.shape[3]]


def fcn8s(w: Weights, x: Tensor, scale4: float = 1, scale3: float = 1) -> Tensor:
    pool3, pool4, score = vgg16(w, x)
    score = F.conv_transpose2d(score, w["upscore2.weight"], stride=2)
    skip = F.conv2d(pool4 * scale4, w["score_pool4.weight"], w["score_pool4.bias"])
    score = score + skip[:, :, 5 : 5 + score.shape[2], 5 : 5 + score.shape[3]]
    score = F.conv_transpose2d(score, w["upscore_pool4.weight"], stride=2)
    skip = F.conv2d(pool3 * scale3, w["score_pool3.weight"], w["score_pool3.bias"])
    score = score + skip[:, :, 9 : 9 + score.shape[2], 9 : 9 + score.shape[3]]
    score = F.conv_transpose2d(score, w["upscore8.weight"], stride=8)
    return score[:, :, 31 : 31 + x.shape[2], 31 : 31 + x.shape[3]]


def fcn8s_atonce(w: Weights, x: Tensor) -> Tensor:
    return fcn8s(w, x, 0.01, 0.0001)


def normalised(x: Tensor) -> Tensor:
    """Caffe's local response normalisation across channels: size 5, alpha 1e-4, beta 0.75."""
    squares = F.pad(x.square(), (0, 0, 0, 0, 2, 2))
    window = sum(squares[:, start : start + x.shape[1]] for start in range(5))
    return x / (1 + 1e-4 / 5 * window) ** 0.75


def fcn_alexnet(w: Weights, x: Tensor) -> Tensor:
    def conv(name: str, x: Tensor, padding: int, stride: int = 1, groups: int = 1) -> Tensor:
        weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
        return F.relu(F.conv2d(x, weight, bias, stride, padding, groups=groups))

    size = x.shape[2:]
    x = conv("conv1", x, 100, stride=4)
    x = normalised(F.max_pool2d(x, 3, 2, ceil_mode=True))
    x = conv("conv2", x, 2, groups=2)
    x = normalised(F.max_pool2d(x, 3, 2, ceil_mode=True))
    x = conv("conv3", x, 1)
    x = conv("conv4", x, 1, groups=2)
    x = conv("conv5", x, 1, groups=2)
    x = F.max_pool2d(x, 3, 2, ceil_mode=True)
    x = conv("fc6", x, 0)
    x = conv("fc7", x, 0)
    score = F.conv2d(x, w["score_fr.weight"], w["score_fr.bias"])
    score = F.conv_transpose2d(score, w["upscore.weight"], stride=32)
    return score[:, :, 18 : 18 + size[0], 18 : 18 + size[1]]


REFERENCES: dict[str, Callable[[Weights, Tensor], Tensor]] = {
    "fcn32s": fcn32s,
    "fcn16s": fcn16s,
    "fcn8s": fcn8s,
    "fcn8s-atonce": fcn8s_atonce,
    "fcn-alexnet": fcn_alexnet,
}


@torch.inference_mode()
def reference_labels(net: str, weights: Weights, image: np.ndarray) -> np.ndarray:
    return REFERENCES[net](weights, network_input(image))[0].argmax(0).numpy()


def served_labels(source: Path, image: np.ndarray, net: str | None = None) -> np.ndarray:
    """What a checkpoint of the converted weights says, read again and run as the server does."""
    published = read_published(source, net=net)
    names = [f"class {index}" for index in range(published.net.num_classes)]
    card = Card("net", published.net.architecture, named_classes(names))
    checkpoint = source.with_suffix(".safetensors")
    save_checkpoint(checkpoint, published.net, card)
    engine = Engine.load(checkpoint, device="cpu", precision="fp32")
    return engine.segment([image])[0].label_map


def bilinear(size: int) -> Tensor:
    """The authors' `upsample_filt` on the diagonal."""
    factor = (size + 1) // 2
    center = factor - 1 if size % 2 == 1 else factor - 0.5
    rows, columns = np.ogrid[:size, :size]
    kernel = (1 - abs(rows - center) / factor) * (1 - abs(columns - center) / factor)
    weight = np.zeros((CLASSES, CLASSES, size, size), np.float32)
    weight[range(CLASSES), range(CLASSES)] = kernel
    return torch.from_numpy(weight)


def with_bilinear_upsampling(net: str) -> Weights:
    kernels = {f"{name}.weight": bilinear(size) for name, size in LAYERS[net][1].items()}
    return random_weights(net) | kernels


def at_once_weights() -> Weights:
    """Skip scores large enough to be seen behind the constants."""
    weights = dict(random_weights("fcn8s"))
    weights["score_pool4.weight"] = weights["score_pool4.weight"] * 100
    weights["score_pool3.weight"] = weights["score_pool3.weight"] * 10_000
    return weights


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.pth"


@pytest.mark.parametrize(
    ("net", "sizes"),
    [
        ("fcn32s", [(1, 1), (37, 53)]),
        ("fcn16s", [(64, 33), (2, 91)]),
        ("fcn8s", [(100, 75), (1, 1)]),
        ("fcn-alexnet", [(1, 1), (37, 53), (64, 33), (100, 75), (200, 131)]),
    ],
)
def test_the_masks_are_the_published_ones(
    path: Path, net: str, sizes: list[tuple[int, int]]
) -> None:
    weights = random_weights(net)
    torch.save(weights, path)
    for size in sizes:
        expected = reference_labels(net, weights, photo(*size))
        assert size == (1, 1) or len(np.unique(expected)) == CLASSES
        assert (served_labels(path, photo(*size)) == expected).mean() >= 0.999


def test_the_masks_of_the_net_trained_at_once(path: Path) -> None:
    weights = at_once_weights()
    torch.save(weights, path)
    image = photo(37, 53)
    expected = reference_labels("fcn8s-atonce", weights, image)
    assert len(np.unique(expected)) == CLASSES
    assert (served_labels(path, image, "fcn8s-atonce") == expected).mean() >= 0.999
    assert (reference_labels("fcn8s", weights, image) == expected).mean() < 0.9


@pytest.mark.parametrize(
    ("net", "size", "classes"), [("fcn8s", (64, 50), 3), ("fcn-alexnet", (300, 200), 2)]
)
def test_bilinear_upsampling_is_recognised_and_gives_the_same_masks(
    path: Path, net: str, size: tuple[int, int], classes: int
) -> None:
    weights = with_bilinear_upsampling(net)
    torch.save(weights, path)
    published = read_published(path).net
    assert not any(name.startswith("upscore") for name in published.state_dict())
    expected = reference_labels(net, weights, photo(*size))
    assert len(np.unique(expected)) >= classes
    assert (served_labels(path, photo(*size)) == expected).mean() >= 0.999


def flat_weights(net: str, *, classes: int = CLASSES, head: int = HEAD) -> Weights:
    """Every tensor of a net in its full shape and a file of a few kB."""
    sizes = {CLASSES: classes, HEAD: head}
    convolutions, deconvolutions = LAYERS[net]
    weights = {}
    for name, shape in convolutions.items():
        shape = [sizes.get(size, size) for size in shape]
        weights[f"{name}.weight"] = torch.tensor(0.5).expand(shape)
        weights[f"{name}.bias"] = torch.tensor(0.25).expand(shape[0])
    for name, size in deconvolutions.items():
        weights[f"{name}.weight"] = torch.tensor(0.125).expand(classes, classes, size, size)
    return weights


def caffemodel(weights: Weights) -> bytes:
    """Current layers, packed numbers; `test_caffemodel.py` writes all other ways."""

    def varint(value: int) -> bytes:
        rest = varint(value >> 7) if value > 0x7F else b""
        return bytes([value & 0x7F | (0x80 if rest else 0)]) + rest

    def content(number: int, data: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(data)) + data

    layers: dict[str, bytes] = {}
    for name, tensor in weights.items():
        layer = name.rpartition(".")[0]
        shape = content(7, content(1, b"".join(varint(size) for size in tensor.shape)))
        data = content(5, tensor.numpy().astype("<f4").tobytes())
        layers[layer] = layers.get(layer, content(1, layer.encode())) + content(7, shape + data)
    return b"".join(content(100, layer) for layer in layers.values())


def refusal(path: Path, net: str | None = None) -> str:
    """The one line that says why a file cannot be used, without its path."""
    with pytest.raises(PublishedWeightsError) as raised:
        read_published(path, net=net)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("net", LAYERS)
@pytest.mark.parametrize("wrapped", [False, True])
def test_the_tensors_tell_the_net(path: Path, net: str, *, wrapped: bool) -> None:
    weights = flat_weights(net, classes=5, head=24)
    torch.save({"model_state_dict": weights, "epoch": 3} if wrapped else weights, path)
    published = read_published(path)
    assert published.name == net
    assert published.guessed == (net == "fcn8s")
    architecture = published.net.architecture
    assert architecture.variant == ("fcn32s" if net == "fcn-alexnet" else net)
    assert architecture.backbone == ("caffenet" if net == "fcn-alexnet" else "vgg16")
    assert architecture.head_width == 24
    assert published.net.num_classes == 5
    assert not published.net.training


def test_nothing_is_changed_but_the_order_of_the_colours(path: Path) -> None:
    weights = random_weights("fcn-alexnet")
    torch.save(weights, path)
    state = read_published(path).net.state_dict()
    assert torch.equal(state["trunk.stage1.conv1.weight"], weights["conv1.weight"][:, [2, 1, 0]])
    assert torch.equal(state["trunk.stage1.conv1.bias"], weights["conv1.bias"])
    assert torch.equal(state["trunk.fc6.weight"], weights["fc6.weight"])
    assert torch.equal(state["score_fc7.bias"], weights["score_fr.bias"])
    assert torch.equal(state["upscore_final.weight"], weights["upscore.weight"])
    assert state["mean"].flatten().tolist() == pytest.approx([122.67891434, 116.66876762, 104.007])
    assert state["std"].flatten().tolist() == [1, 1, 1]


def test_a_caffemodel_gives_the_same_tensors(path: Path) -> None:
    weights = random_weights("fcn-alexnet")
    torch.save(weights, path)
    other = path.with_suffix(".caffemodel")
    other.write_bytes(caffemodel(weights))
    expected = read_published(path).net.state_dict()
    state = read_published(other).net.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())


def test_old_caffemodels_pad_shapes_with_ones(path: Path) -> None:
    weights = random_weights("fcn-alexnet")
    old = {
        name: tensor.view(1, 1, *tensor.shape[:1], -1) if name.startswith("fc") else tensor
        for name, tensor in weights.items()
    }
    old |= {name: tensor.view(1, 1, 1, -1) for name, tensor in old.items() if ".bias" in name}
    path.write_bytes(caffemodel(old))
    state = read_published(path).net.state_dict()
    assert torch.equal(state["trunk.fc6.weight"], weights["fc6.weight"])
    assert torch.equal(state["trunk.fc7.bias"], weights["fc7.bias"])


def test_files_of_old_pytorch_are_read(path: Path) -> None:
    torch.save(flat_weights("fcn32s"), path, _use_new_zipfile_serialization=False)
    assert read_published(path).name == "fcn32s"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_number_formats_become_fp32(path: Path, dtype: torch.dtype) -> None:
    weights = {name: tensor.to(dtype) for name, tensor in random_weights("fcn-alexnet").items()}
    torch.save(weights, path)
    state = read_published(path).net.state_dict()
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert torch.equal(state["score_fc7.weight"], weights["score_fr.weight"].float())


@pytest.mark.parametrize(("arch", "net"), [("FCN8s", "fcn8s"), ("FCN8sAtOnce", "fcn8s-atonce")])
def test_the_trainers_own_file_tells_staged_from_at_once(path: Path, arch: str, net: str) -> None:
    weights = flat_weights("fcn8s")
    file = {"epoch": 11, "arch": arch, "model_state_dict": weights}
    file |= {"optim_state_dict": {"state": {}, "param_groups": [{"lr": 1e-14}]}}
    torch.save(file | {"best_mean_iu": np.float64(0.65)}, path)
    published = read_published(path)
    assert (published.name, published.guessed) == (net, False)
    other = "fcn8s" if net == "fcn8s-atonce" else "fcn8s-atonce"
    assert refusal(path, other) == f"it holds {net}, not {other}"


def with_scales(pool4: float, pool3: float) -> Weights:
    scales = {"scale_pool4.weight": torch.full((512,), pool4)}
    return flat_weights("fcn8s") | scales | {"scale_pool3.weight": torch.full((256,), pool3)}


def test_a_caffemodels_scale_layers_tell_at_once_weights(path: Path) -> None:
    path.write_bytes(caffemodel(with_scales(0.01, 0.0001)))
    published = read_published(path)
    assert (published.name, published.guessed) == ("fcn8s-atonce", False)
    assert published.net.architecture.variant == "fcn8s-atonce"
    assert torch.equal(published.net.score_pool4.weight, torch.full((CLASSES, 512, 1, 1), 0.5))


def test_a_caffemodel_without_scale_layers_is_staged_unless_asked_for(path: Path) -> None:
    path.write_bytes(caffemodel(flat_weights("fcn8s")))
    published = read_published(path)
    assert (published.name, published.guessed) == ("fcn8s", False)
    assert read_published(path, net="fcn8s-atonce").name == "fcn8s-atonce"


def test_other_scales_are_refused(path: Path) -> None:
    path.write_bytes(caffemodel(with_scales(0.01, 0.002)))
    assert refusal(path) == "scale_pool3 holds 0.002 to 0.002, not 0.0001"
    weights = with_scales(0.01, 0.0001)
    del weights["scale_pool3.weight"]
    path.write_bytes(caffemodel(weights))
    assert refusal(path) == "scale_pool3 is missing, but scale_pool4 is there"


def test_sift_flows_geometric_head_is_left_out(path: Path) -> None:
    heads = ("score", "upscore")
    weights = {}
    for name, tensor in flat_weights("fcn16s", classes=33).items():
        layer, _, kind = name.rpartition(".")
        weights[f"{layer}_sem.{kind}" if layer.startswith(heads) else name] = tensor
    weights["score_fr_geo.weight"] = torch.zeros(3, HEAD, 1, 1)
    path.write_bytes(caffemodel(weights))
    published = read_published(path)
    assert published.name == "fcn16s"
    assert published.net.num_classes == 33
    assert published.left_out == ("score_fr_geo",)


@pytest.mark.parametrize(
    ("fixed", "learned", "learned_final"),
    [
        (("upscore2", "upscore_pool4"), False, True),
        (("upscore8",), True, False),
        (("upscore2",), True, True),
    ],
)
def test_only_what_is_not_bilinear_is_stored(
    path: Path, fixed: tuple[str, ...], learned: bool, learned_final: bool
) -> None:
    kernels = with_bilinear_upsampling("fcn8s")
    names = [f"{layer}.weight" for layer in fixed]
    torch.save(flat_weights("fcn8s") | {name: kernels[name] for name in names}, path)
    architecture = read_published(path).net.architecture
    assert architecture.learned_upsampling is learned
    assert architecture.learned_final_upsampling is learned_final


@pytest.mark.parametrize(
    ("holds", "asked"),
    [
        ("fcn32s", "fcn8s"),
        ("fcn16s", "fcn8s-atonce"),
        ("fcn8s", "fcn16s"),
        ("fcn8s", "fcn-alexnet"),
        ("fcn-alexnet", "fcn32s"),
    ],
)
def test_a_net_that_the_file_does_not_hold_is_refused(path: Path, holds: str, asked: str) -> None:
    torch.save(flat_weights(holds), path)
    assert refusal(path, asked) == f"it holds {holds}, not {asked}"


def test_asking_for_the_staged_net_contradicts_scale_layers(path: Path) -> None:
    path.write_bytes(caffemodel(with_scales(0.01, 0.0001)))
    assert refusal(path, "fcn8s") == "it holds fcn8s-atonce, not fcn8s"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conv3_2.weight": None}, "does not fit fcn8s: conv3_2.weight is missing"),
        ({"upscore8.weight": None}, "does not fit fcn8s: upscore8.weight is missing"),
        ({"score_fr.weight": None}, "score_fr.weight is missing"),
        ({"fc6.weight": None}, "fc6.weight is missing"),
        ({"conv9.bias": torch.zeros(3)}, "does not fit fcn8s: conv9.bias is unknown"),
        (
            {"upscore2.weight": torch.zeros(21, 21, 3, 3)},
            "does not fit fcn8s: upscore2.weight is [21, 21, 3, 3], not [21, 21, 4, 4]",
        ),
        (
            {"conv1_1.weight": torch.zeros(64, 6, 3, 3)},
            "does not fit fcn8s: conv1_1.weight is [64, 6, 3, 3], not [64, 3, 3, 3]",
        ),
        (
            {"score_pool3.bias": torch.zeros(20), "conv1_1.bias": None},
            "does not fit fcn8s: conv1_1.bias is missing; score_pool3.bias is [20], not [21]",
        ),
        ({"fc6.weight": torch.zeros(0)}, "head_width must be 1 to 65536, not 0"),
        ({"score_fr.weight": torch.zeros(300, HEAD, 1, 1)}, "it has 300 classes; 1 to 255 are"),
        (
            {"fc7.bias": torch.full((HEAD,), torch.nan)},
            "fc7.bias holds numbers that are not finite",
        ),
        ({"fc7.bias": torch.ones(HEAD).double() * 1e300}, "fc7.bias holds numbers that are not"),
        ({"fc7.bias": torch.zeros(HEAD).long()}, "fc7.bias holds no floating-point numbers"),
        ({"fc7.bias": torch.zeros(HEAD).to_sparse()}, "fc7.bias holds no floating-point numbers"),
        (
            {"fc7.bias": torch.zeros(HEAD, device="meta")},
            "fc7.bias holds no floating-point numbers",
        ),
        ({"fc7.bias": [0.0]}, "it holds no state dict: 'fc7.bias'"),
        ({7: torch.zeros(1)}, "it holds no state dict: 7"),
    ],
)
def test_what_does_not_fit_is_named(
    path: Path, changes: dict[str, Tensor | None], message: str
) -> None:
    weights = flat_weights("fcn8s") | changes
    torch.save({name: value for name, value in weights.items() if value is not None}, path)
    assert refusal(path).startswith(message)


def test_many_problems_are_counted(path: Path) -> None:
    weights = flat_weights("fcn8s")
    torch.save({name: value for name, value in weights.items() if "conv" not in name}, path)
    assert refusal(path).endswith("; conv2_1.weight is missing; and 21 more")


def test_a_classifier_is_refused(path: Path) -> None:
    names = [f"features.{index}" for index in (0, 2, 5, 7)] + [f"classifier.{i}" for i in (0, 3, 6)]
    torch.save({f"{name}.weight": torch.zeros(3) for name in names}, path)
    expected = "none of fcn32s, fcn16s, fcn8s, fcn8s-atonce, fcn-alexnet: its layers are features.0"
    assert refusal(path).startswith(expected)


@pytest.mark.parametrize("new_format", [True, False])
def test_a_truncated_pth_is_refused(path: Path, *, new_format: bool) -> None:
    torch.save(flat_weights("fcn32s"), path, _use_new_zipfile_serialization=new_format)
    data = path.read_bytes()
    for length in (2, 3, 10, 100, len(data) // 3, len(data) // 2, len(data) - 100, len(data) - 1):
        path.write_bytes(data[:length])
        assert refusal(path).startswith("damaged")


def test_a_truncated_caffemodel_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.caffemodel"
    data = caffemodel(random_weights("fcn-alexnet"))
    for length in (1, 2, 5, 30, 100, 5000, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        assert refusal(path).startswith("not a .caffemodel, or damaged")
    without_last = caffemodel(dict(list(random_weights("fcn-alexnet").items())[:-1]))
    assert data.startswith(without_last)  # cut between two layers
    path.write_bytes(without_last)
    assert refusal(path) == "does not fit fcn-alexnet: upscore.weight is missing"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><title>Quota exceeded</title>", "not a .caffemodel, or damaged"),
        (b"PK\x03\x04 some other archive", "damaged"),
        (pickle.dumps({"epoch": 3}, protocol=2), "damaged"),
    ],
)
def test_other_files_are_refused(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    assert refusal(path).startswith(message)


@pytest.mark.parametrize("content", [{}, [], 3, {"model_state_dict": [1]}, {"state": {"a": 1}}])
def test_a_pth_without_a_state_dict_is_refused(path: Path, content: object) -> None:
    torch.save(content, path)
    assert refusal(path).startswith("it holds no state dict")


class RunsCode:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("new_format", [True, False])
def test_code_in_a_pth_is_not_run(path: Path, *, new_format: bool) -> None:
    trace = path.with_name("ran")
    weights = flat_weights("fcn32s") | {"conv1_1.bias": RunsCode(trace)}
    torch.save(weights, path, _use_new_zipfile_serialization=new_format)
    assert refusal(path).startswith("damaged, or it holds more than tensors")
    assert not trace.exists()
    torch.load(path, weights_only=False)  # an unsafe reader would have run it
    assert trace.exists()


def test_a_bare_pickle_is_not_run(path: Path) -> None:
    trace = path.with_name("ran")
    path.write_bytes(pickle.dumps(RunsCode(trace)))
    assert refusal(path).startswith("damaged, or it holds more than tensors")
    assert not trace.exists()


def test_a_missing_file_says_so(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_published(path)
