import pytest
import torch
from torch import Tensor, nn

from app.train.unreached_taps import zero_unreached_taps


def gradients(conv: nn.Conv2d, photo: Tensor) -> Tensor:
    conv.weight.grad = None
    conv(photo).square().sum().backward()
    assert conv.weight.grad is not None
    return conv.weight.grad


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (3, 3), (1, 9), (9, 9)])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 7, "padding": 3},
        {"kernel_size": 5, "padding": 2, "stride": 2},
        {"kernel_size": (5, 7), "padding": (4, 6), "dilation": 2},
    ],
)
def test_taps_that_see_only_padding_get_no_gradient_and_others_theirs(
    size: tuple[int, int], options: dict[str, int]
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, **options)
    photo = torch.rand(2, 3, *size) + 1  # nowhere zero: neither is a gradient by chance
    expected = gradients(conv, photo)
    conv.weight.register_hook(lambda gradient: gradient.where(gradient != 0, torch.nan))
    zero_unreached_taps(conv)
    assert torch.equal(gradients(conv, photo), expected)


def test_the_map_that_counts_is_the_last_one() -> None:
    conv = nn.Conv2d(1, 1, 7, padding=3)
    zero_unreached_taps(conv)
    assert (gradients(conv, torch.ones(1, 1, 1, 1)) != 0).sum() == 1
    assert (gradients(conv, torch.ones(1, 1, 9, 9)) != 0).sum() == 49
    assert (gradients(conv, torch.ones(1, 1, 2, 2)) != 0).sum() == 9
