import numpy as np
import pytest
import torch
from torch.nn import functional as F

from model.bilinear import Deconvolution, bilinear_kernel


def caffe_kernel(size: int) -> np.ndarray:
    """The authors' upsample_filt, written from its definition: an independent second opinion."""
    factor = (size + 1) // 2
    center = factor - 1 if size % 2 == 1 else factor - 0.5
    rows, columns = np.ogrid[:size, :size]
    return (1 - abs(rows - center) / factor) * (1 - abs(columns - center) / factor)


@pytest.mark.parametrize(("factor", "size"), [(2, 4), (8, 16), (16, 32), (32, 64), (3, 5)])
def test_kernel_is_the_authors(factor: int, size: int) -> None:
    kernel = bilinear_kernel(factor).numpy()
    assert kernel.shape == (size, size)
    np.testing.assert_allclose(kernel, caffe_kernel(size), atol=1e-6)


@pytest.mark.parametrize("factor", [2, 3, 4, 8, 16, 32])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (7, 3), (12, 16)])
def test_learned_deconvolution_starts_as_interpolation(factor: int, shape: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *shape)
    upsampled = Deconvolution(3, factor, learned=True)(x)
    expected = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    assert upsampled.shape == expected.shape
    assert torch.allclose(upsampled, expected, atol=1e-5)


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("factor", [2, 8, 16, 32])
def test_constant_map_stays_constant_in_borders_and_corners(factor: int, learned: bool) -> None:
    x = torch.full((1, 2, 5, 4), 3.5)
    upsampled = Deconvolution(2, factor, learned=learned)(x)
    assert torch.allclose(upsampled, torch.full_like(upsampled, 3.5), atol=1e-5)


def test_fixed_deconvolution_holds_no_weights() -> None:
    assert list(Deconvolution(4, 8, learned=False).parameters()) == []
    assert Deconvolution(4, 8, learned=True).weight.shape == (4, 4, 16, 16)


def test_channels_do_not_mix_at_the_start() -> None:
    x = torch.zeros(1, 3, 4, 4)
    x[:, 1] = 1
    upsampled = Deconvolution(3, 2, learned=True)(x)
    assert upsampled[:, [0, 2]].abs().max() == 0
