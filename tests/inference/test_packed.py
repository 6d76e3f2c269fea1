import copy

import pytest
import torch
from torch import nn

from app.inference import packed
from app.inference.network import prepare
from app.inference.packed import PackedConvolution, pack_convolutions
from model import FCN, Architecture

SIZES = [(1, 96, 96), (1, 33, 70), (3, 64, 80)]


def random_net(backbone: str, dtype: torch.dtype, **options: object) -> FCN:
    """Return a network for inference whose scores differ from place to place."""
    torch.manual_seed(0)
    width = None if backbone == "googlenet" else 16
    net = FCN(Architecture(backbone=backbone, head_width=width, **options), 3)
    for name, parameter in net.named_parameters():
        if name.startswith("score") and name.endswith("weight"):
            nn.init.normal_(parameter, std=0.1)
    return prepare(net, dtype)


def packed_copy(net: FCN) -> FCN:
    net = copy.deepcopy(net)
    pack_convolutions(net)
    return net


def kinds(net: FCN) -> set[type[nn.Module]]:
    return {type(module) for module in net.modules()}


def can_pack(dtype: torch.dtype) -> bool:
    return PackedConvolution in kinds(packed_copy(random_net("alexnet", dtype)))


@pytest.mark.parametrize(
    ("backbone", "alignment"),
    [
        ("vgg16", "paper"),
        ("vgg16_bn", "aligned"),
        ("alexnet", "aligned"),
        ("caffenet", "aligned"),
        ("googlenet", "aligned"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@torch.inference_mode()
def test_the_numbers_stay(backbone: str, alignment: str, dtype: torch.dtype) -> None:
    if not can_pack(dtype):
        pytest.skip(f"torch packs no {dtype} weights on this processor")
    net = random_net(backbone, dtype, alignment=alignment)
    fast = packed_copy(net)
    assert nn.Conv2d not in kinds(fast)
    assert nn.ReLU not in kinds(fast)
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    for size in SIZES:
        photos = torch.randint(0, 256, (size[0], 3, *size[1:]), dtype=torch.uint8)
        photos = photos.to(memory_format=torch.channels_last)
        expected = net(photos)
        assert expected.std() > 0
        error = (fast(photos) - expected).abs().max()
        assert error <= tolerance * expected.abs().max()


@torch.inference_mode()
def test_a_relu_is_fused_only_where_it_comes_next() -> None:
    if not can_pack(torch.float32):
        pytest.skip("torch packs no weights on this processor")
    torch.manual_seed(0)

    class Crossed(nn.Module):
        """Lists a ReLU behind the convolution, and applies it before."""

        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(4, 4, 1)
            self.relu = nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.convolution(self.relu(x))
            return result

    net = random_net("alexnet", torch.float32)
    stage = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Identity(), nn.ReLU(), Crossed())
    net.add_module("more", stage)
    x = torch.randn(1, 3, 6, 7)
    expected = stage(x)
    assert (expected < 0).any()
    pack_convolutions(net)
    assert isinstance(stage[2], nn.Identity)
    assert isinstance(stage[3].relu, nn.ReLU)
    assert torch.allclose(stage(x), expected, atol=1e-5)


def no_operator(*_: object) -> None:
    raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_convolution_pointwise'")


def no_kernel(*_: object) -> None:
    raise RuntimeError("mkldnn_convolution: bf16 path needs the cpu support avx512bw")


@pytest.mark.parametrize("missing", [no_operator, no_kernel])
def test_without_the_operators_layers_stay_as_they_are(
    monkeypatch: pytest.MonkeyPatch, missing: object
) -> None:
    monkeypatch.setattr(packed.PackedConvolution, "forward", missing)
    net = random_net("alexnet", torch.float32)
    before = str(net)
    pack_convolutions(net)
    assert str(net) == before


def test_packing_draws_no_random_numbers() -> None:
    net = random_net("alexnet", torch.float32)
    before = torch.get_rng_state()
    pack_convolutions(net)
    assert torch.equal(torch.get_rng_state(), before)
