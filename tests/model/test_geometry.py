import pytest
import torch
from torch import nn
from torch.nn import functional as F

from model.backbones import BACKBONES, build_trunk
from model.geometry import Grid, Upsampling, Window, covers, least_padding, plan_upsampling, windows


def offsets(backbone: str, finest: int, alignment: str) -> list[tuple[int, int, int]]:
    """Kernel, stride and offset of each upsampling."""
    head_width = 4 if BACKBONES[backbone].has_head else None
    trunk = build_trunk(backbone, head_width=head_width, alignment=alignment)
    return [
        (step.upsampling.kernel, step.upsampling.factor, step.offset)
        for step in plan_upsampling(trunk.grids, finest, alignment)
    ]


@pytest.mark.parametrize(
    ("backbone", "finest", "published"),
    [
        ("vgg16", 32, [(64, 32, 19)]),
        ("vgg16", 16, [(4, 2, -5), (32, 16, 27)]),
        ("vgg16", 8, [(4, 2, -5), (4, 2, -9), (16, 8, 31)]),
        ("vgg16_bn", 8, [(4, 2, -5), (4, 2, -9), (16, 8, 31)]),
        ("caffenet", 32, [(63, 32, 18)]),
    ],
)
def test_the_papers_offsets_follow_from_the_layers(backbone, finest, published) -> None:
    """A negative offset crops the skip: the nets' score_pool4c (5) and score_pool3c (9)."""
    assert offsets(backbone, finest, "paper") == published


@pytest.mark.parametrize("finest", [32, 16, 8])
def test_vgg_is_aligned_without_any_offset(finest: int) -> None:
    assert all(offset == 0 for *_, offset in offsets("vgg16", finest, "aligned"))


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("finest", [32, 16, 8])
def test_aligned_offsets_are_never_negative(backbone: str, finest: int) -> None:
    assert all(offset >= 0 for *_, offset in offsets(backbone, finest, "aligned"))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_aligned_padding_is_the_least(backbone: str) -> None:
    head_width = 4 if BACKBONES[backbone].has_head else None
    trunk = build_trunk(backbone, head_width=head_width)
    first = next(module for module in trunk.modules() if isinstance(module, nn.Conv2d))
    assert first.padding[0] == least_padding(trunk.windows)
    first.padding = (first.padding[0] - 1,) * 2
    try:
        plans = [plan_upsampling(trunk.grids, finest, "aligned") for finest in (32, 16, 8)]
    except ValueError:
        return
    assert not all(
        step.offset >= 0 and covers(trunk.windows, steps, pixels)
        for steps in plans
        for step in steps
        for pixels in range(1, 65)
    )


def test_a_trunk_that_cannot_be_aligned_is_refused() -> None:
    # Cells of stride 8 and 16 that lie a third of a cell apart, whatever comes before.
    odd = [Window(3, 2), Window(1, 8), Window(6, 2, padding=0)]
    with pytest.raises(ValueError, match="no padding"):
        least_padding({16: odd[:2], 32: [*odd[:2], Window(4, 2), Window(2, 1)]})


LAYERS = [
    nn.Conv2d(1, 1, 3, padding=1),
    nn.Conv2d(1, 1, 11, stride=4, padding=2),
    nn.MaxPool2d(2, stride=2, ceil_mode=True),
    nn.MaxPool2d(3, stride=2, ceil_mode=True),
    nn.MaxPool2d(3, stride=2),
    nn.MaxPool2d(3, stride=1, padding=1, ceil_mode=True),
    nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True),
    nn.AvgPool2d(7, stride=1),
]


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_sizes_are_those_of_the_layers(layer: nn.Module) -> None:
    (window,) = windows(layer)
    for cells in range(1, 40):
        if window.size(cells) < 1:
            with pytest.raises(RuntimeError):
                layer(torch.zeros(1, 1, cells, cells))
        else:
            assert layer(torch.zeros(1, 1, cells, cells)).shape[-1] == window.size(cells)


def test_grids_say_where_a_cell_looks() -> None:
    """The gradient of one cell marks the pixels it sees; its middle is the cell's centre."""
    layers = nn.Sequential(
        nn.Conv2d(1, 1, 7, stride=2, padding=3),
        nn.ReLU(),
        nn.AvgPool2d(2, stride=2),
        nn.Conv2d(1, 1, 3),
        nn.BatchNorm2d(1),
    ).eval()
    for module in layers.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.ones_(module.weight)
    grid = Grid().through(windows(layers))
    image = torch.ones(1, 1, 1, 200, requires_grad=True)
    column = 13
    # Stretched to two dimensions so that the kernels fit; one row is as good as any.
    layers(image.expand(1, 1, 200, 200))[0, 0, 5, column].backward()
    seen = image.grad[0, 0, 0].nonzero().flatten()
    assert (seen[0] + seen[-1]) / 2 == grid.start + grid.stride * column
    assert seen[-1] - seen[0] + 1 == grid.field


def test_the_receptive_field_of_fc7_is_404_pixels() -> None:
    grid = build_trunk("vgg16", head_width=4).grids[32]
    assert (grid.field, grid.stride, grid.start) == (404, 32, 15.5)


@pytest.mark.parametrize("make", [Upsampling.paper, Upsampling.aligned])
@pytest.mark.parametrize("kernel", [16, 15])
def test_a_ramp_is_upsampled_to_a_ramp(make, kernel: int) -> None:
    """Each cell holds its own position; bilinear upsampling must give each output pixel its."""
    upsampling = make(8, kernel)
    grid = Grid(stride=8, start=2.5)
    finer = upsampling.grid(grid)
    cells = torch.arange(6.0) * grid.stride + grid.start
    weight = torch.outer(torch.ones(1), 1 - (torch.arange(kernel) - (kernel - 1) / 2).abs() / 8)
    before = torch.cat([cells[:1]] * upsampling.extension + [cells])
    before = torch.cat([before] + [cells[-1:]] * upsampling.extension)
    output = F.conv_transpose1d(
        before[None, None], weight[None], stride=8, padding=upsampling.padding
    )[0, 0]
    assert len(output) == upsampling.size(6)
    positions = finer.start + torch.arange(len(output)) * finer.stride
    inside = (positions >= cells[0]) & (positions <= cells[-1])
    assert inside.sum() > 30
    assert torch.allclose(output[inside], positions[inside])


def test_a_layer_of_unknown_geometry_is_refused() -> None:
    with pytest.raises(TypeError, match="TransformerEncoderLayer"):
        windows(nn.TransformerEncoderLayer(4, 1))
    with pytest.raises(TypeError, match="both axes"):
        windows(nn.Conv2d(1, 1, (3, 5)))
