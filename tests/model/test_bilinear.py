import numpy as np
import pytest
import torch
from torch.nn import functional as F

from model.bilinear import Deconvolution, bilinear_kernel, bilinear_weight
from model.geometry import Upsampling


def aligned(factor: int) -> Upsampling:
    return Upsampling.aligned(factor, 2 * factor)


def caffe_kernel(size: int) -> np.ndarray:
    """The authors' upsample_filt, written from its definition: an independent second opinion."""
    factor = (size + 1) // 2
    center = factor - 1 if size % 2 == 1 else factor - 0.5
    rows, columns = np.ogrid[:size, :size]
    return (1 - abs(rows - center) / factor) * (1 - abs(columns - center) / factor)


@pytest.mark.parametrize("size", [3, 4, 15, 16, 31, 32, 63, 64])
def test_kernel_is_the_authors(size: int) -> None:
    kernel = bilinear_kernel(size).numpy()
    assert kernel.shape == (size, size)
    np.testing.assert_allclose(kernel, caffe_kernel(size), atol=1e-6)


@pytest.mark.parametrize("factor", [2, 4, 8, 16, 32])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (7, 3), (12, 16)])
def test_learned_deconvolution_starts_as_interpolation(factor: int, shape: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *shape)
    upsampled = Deconvolution(3, aligned(factor), learned=True)(x)
    expected = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    assert upsampled.shape == expected.shape
    assert torch.allclose(upsampled, expected, atol=1e-5)


@pytest.mark.parametrize("factor", [2, 8, 32])
@pytest.mark.parametrize("shape", [(2, 2), (3, 7)])
def test_odd_kernel_interpolates_between_cell_centres(factor: int, shape: tuple[int, int]) -> None:
    x = torch.randn(1, 2, *shape)
    upsampled = Deconvolution(2, Upsampling.aligned(factor, 2 * factor - 1), learned=True)(x)
    inner = upsampled[..., factor:-factor, factor:-factor]
    size = [(cells - 1) * factor + 1 for cells in shape]
    expected = F.interpolate(x, size, mode="bilinear", align_corners=True)
    assert inner.shape == expected.shape
    assert torch.allclose(inner, expected, atol=1e-5)


@pytest.mark.parametrize("make", [Upsampling.aligned, Upsampling.paper])
@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("factor", [2, 8, 32])
@pytest.mark.parametrize("shape", [(1, 1), (5, 2)])
def test_fixed_equals_the_transposed_convolution(make, odd, factor, shape) -> None:
    upsampling = make(factor, 2 * factor - odd)
    x = torch.randn(2, 3, *shape)
    fixed = Deconvolution(3, upsampling, learned=False)(x)
    learned = Deconvolution(3, upsampling, learned=True)(x)
    assert fixed.shape[-2:] == tuple(upsampling.size(cells) for cells in shape)
    assert fixed.shape == learned.shape
    assert torch.allclose(fixed, learned, atol=1e-5)


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("factor", [2, 8, 16, 32])
def test_constant_map_stays_constant_in_borders_and_corners(
    factor: int, odd: bool, learned: bool
) -> None:
    x = torch.full((1, 2, 5, 4), 3.5)
    upsampling = Upsampling.aligned(factor, 2 * factor - odd)
    upsampled = Deconvolution(2, upsampling, learned=learned)(x)
    assert torch.allclose(upsampled, torch.full_like(upsampled, 3.5), atol=1e-5)


def test_the_papers_fades_at_the_borders() -> None:
    upsampled = Deconvolution(1, Upsampling.paper(8, 16), learned=True)(torch.ones(1, 1, 4, 4))
    assert upsampled[0, 0, 20, 20].item() == pytest.approx(1)
    assert upsampled[0, 0, 4, 4].item() == pytest.approx((4.5 / 8) ** 2)


def test_a_learned_dense_kernel_is_the_plain_transposed_convolution() -> None:
    layer = Deconvolution(3, Upsampling.paper(2, 4), learned=True)
    torch.nn.init.normal_(layer.weight)
    x = torch.randn(1, 3, 5, 6)
    assert torch.equal(layer(x), F.conv_transpose2d(x, layer.weight, stride=2))


def test_fixed_deconvolution_holds_no_weights() -> None:
    assert list(Deconvolution(4, aligned(8), learned=False).parameters()) == []
    assert Deconvolution(4, aligned(8), learned=True).weight.shape == (4, 4, 16, 16)


def test_channels_do_not_mix_at_the_start() -> None:
    weight = bilinear_weight(3, 4)
    assert weight[[0, 1, 2], [1, 2, 0]].abs().max() == 0
    x = torch.zeros(1, 3, 4, 4)
    x[:, 1] = 1
    upsampled = Deconvolution(3, aligned(2), learned=True)(x)
    assert upsampled[:, [0, 2]].abs().max() == 0
