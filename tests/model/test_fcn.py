import dataclasses

import pytest
import torch
from torch import nn
from torchvision.models.googlenet import Inception

from model import FCN, Architecture
from model.backbones import BACKBONES
from model.fcn import ALIGNMENTS, VARIANTS


def tiny(variant: str = "fcn8s", *, classes: int = 3, learned: bool = True) -> FCN:
    torch.manual_seed(0)
    architecture = Architecture(
        variant=variant, head_width=8, head_norm=True, learned_upsampling=learned
    )
    return FCN(architecture, classes).eval()


def architecture(backbone: str, variant: str, alignment: str) -> Architecture:
    has_head = BACKBONES[backbone].has_head
    return Architecture(
        variant=variant,
        backbone=backbone,
        alignment=alignment,
        head_width=4 if has_head else None,
        head_norm=has_head,
    )


@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("backbone", ["vgg16", "alexnet", "caffenet", "googlenet"])
@torch.no_grad()
def test_logits_have_the_images_own_size(backbone: str, alignment: str) -> None:
    """Every size from 1 to 100 and some above, by the maps of real layers.

    Height and width do not influence each other, so each size appears once as either.
    """
    nets = [FCN(architecture(backbone, variant, alignment), 1).eval() for variant in VARIANTS]
    trunk = nets[0].trunk
    thin_out(trunk)
    for net in nets:  # one trunk serves all of them, and its single channel is their score
        net.trunk = Stored(trunk)
        net._score = lambda stride, maps: maps[stride]
    sizes = [*range(1, 101), 127, 128, 129, 211, 250, 333]
    for height, width in zip(sizes, reversed(sizes), strict=True):
        maps = trunk(torch.zeros(1, 3, height, width))
        for net in nets:
            net.trunk.maps = maps
            logits = net(torch.zeros(1, 3, height, width))
            assert logits.shape == (1, 1, height, width), net.architecture


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_logits_are_32_bits_of_the_images_size(backbone: str, alignment: str, variant: str) -> None:
    net = FCN(architecture(backbone, variant, alignment), 3).eval()
    for height, width in ((1, 1), (37, 53)):
        logits = net(torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8))
        assert logits.shape == (2, 3, height, width)
        assert logits.dtype == torch.float32


class Stored(nn.Module):
    """Gives maps that were computed before."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.maps: dict[int, torch.Tensor] = {}

    def forward(self, _: torch.Tensor) -> dict[int, torch.Tensor]:
        return self.maps


def thin_out(trunk: nn.Module) -> None:
    """Leave one channel to every convolution and its geometry as it is: sizes are what counts."""
    for module in list(trunk.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, nn.Conv2d):
                inputs = 3 if layer.in_channels == 3 else 1
                thin = nn.Conv2d(inputs, 1, layer.kernel_size, layer.stride, layer.padding)
                setattr(module, name, thin)
            elif isinstance(layer, nn.BatchNorm2d | nn.LocalResponseNorm | Inception):
                setattr(module, name, nn.Identity())  # these keep their input's size


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("learned", [True, False])
@torch.no_grad()
def test_a_constant_score_stays_constant_up_to_the_corners(
    backbone: str, variant: str, learned: bool
) -> None:
    layout = architecture(backbone, variant, "aligned")
    net = FCN(dataclasses.replace(layout, learned_upsampling=learned), 3).eval()
    top = "score_fc7" if BACKBONES[backbone].has_head else "score_inception5b"
    nn.init.constant_(net.get_submodule(top).bias, 2.5)
    logits = net(torch.randint(0, 256, (1, 3, 75, 101), dtype=torch.uint8))
    assert torch.allclose(logits, torch.full_like(logits, 2.5), atol=1e-5)


@pytest.mark.parametrize("name", ["score_fc7", "score_pool4", "score_pool3"])
@torch.no_grad()
def test_every_score_layer_reaches_the_logits(name: str) -> None:
    net = tiny()
    image = torch.randint(0, 256, (1, 3, 40, 40), dtype=torch.uint8)
    assert net(image).abs().max() == 0
    nn.init.ones_(getattr(net, name).weight)
    assert net(image).abs().max() > 0


@pytest.mark.parametrize(("backbone", "pixels"), [("alexnet", 37), ("googlenet", 37)])
@torch.no_grad()
def test_a_ramp_of_scores_stays_a_ramp(backbone: str, pixels: int) -> None:
    """Scores that tell each cell's own place come out as each pixel's place.

    Whatever offset were off, in any of the upsamplings, the ramp would be shifted or bent.
    """
    net = FCN(architecture(backbone, "fcn8s", "aligned"), 1).eval()
    maps = {}
    size = pixels + 100
    for stride, map_ in net.trunk(torch.zeros(1, 3, size, size)).items():
        grid = net.trunk.grids[stride]
        cells = torch.arange(map_.shape[-1]) * grid.stride + grid.start
        maps[stride] = cells.expand(1, 1, map_.shape[-2], -1)
    net._score = lambda stride, _: maps[stride] / 3
    logits = net(torch.zeros(1, 3, size, size))
    inner = slice(48, size - 48)  # beyond the outermost cells a score is only repeated
    expected = torch.arange(size, dtype=torch.float32)[inner].expand(1, 1, size, -1)
    assert torch.allclose(logits[..., inner], expected, atol=1e-3)


@torch.no_grad()
def test_at_once_scales_the_skips() -> None:
    plain, scaled = tiny("fcn8s"), tiny("fcn8s-atonce")
    for net in (plain, scaled):
        for name, scale in (("score_fc7", 1), ("score_pool4", 0.01), ("score_pool3", 0.0001)):
            weight = net.get_submodule(name).weight
            torch.manual_seed(1)
            nn.init.normal_(weight)
            if net is plain:
                weight.mul_(scale)
    image = torch.randint(0, 256, (1, 3, 70, 50), dtype=torch.uint8)
    assert torch.allclose(plain(image), scaled(image), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_maps_of_all_strides_are_aligned() -> None:
    """A left-right and top-down mirrored image of whole cells gives the mirrored logits.

    Any crop offset that is off by a pixel, in any of the upsamplings, breaks the symmetry.
    """
    net = tiny()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.copy_((module.weight + module.weight.flip(-1, -2)) / 2)
    for layer in (net.score_fc7, net.score_pool4, net.score_pool3):
        nn.init.normal_(layer.weight, std=0.1)
    image = torch.randint(0, 256, (1, 3, 96, 128)).float()
    logits = net(image)
    mirrored = net(image.flip(-1, -2)).flip(-1, -2)
    assert logits.std() > 0.1
    assert (logits - mirrored).abs().max() < 1e-3 * logits.abs().max()


@torch.no_grad()
def test_a_batch_gives_what_its_images_give_alone() -> None:
    net = tiny()
    nn.init.normal_(net.score_fc7.weight)
    images = torch.randint(0, 256, (3, 3, 50, 70), dtype=torch.uint8)
    together = net(images)
    for index in range(3):
        alone = net(images[index : index + 1])
        assert torch.allclose(together[index], alone[0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_normalisation_lives_in_the_net() -> None:
    net = tiny()
    nn.init.normal_(net.score_pool3.weight)
    image = torch.randint(0, 256, (1, 3, 33, 33), dtype=torch.uint8)
    assert torch.equal(net(image), net(image.float()))
    assert {"mean", "std"} <= net.state_dict().keys()


def test_cast_keeps_normalisation_and_upsampling_in_32_bits() -> None:
    net = tiny().cast_convolutions(torch.bfloat16)
    assert net.trunk.fc6.weight.dtype == net.compute_dtype == torch.bfloat16
    assert net.mean.dtype == net.upscore_fc7.weight.dtype == torch.float32
    with torch.no_grad():
        assert net(torch.zeros(1, 3, 20, 20, dtype=torch.uint8)).dtype == torch.float32


def test_fixed_upsampling_has_no_weights() -> None:
    assert not [name for name, _ in tiny(learned=False).named_parameters() if "upscore" in name]


def test_gradients_reach_every_layer() -> None:
    net = tiny().train()
    for layer in (net.score_fc7, net.score_pool4, net.score_pool3):
        nn.init.normal_(layer.weight)
    net(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)).square().mean().backward()
    silent = [
        name
        for name, parameter in net.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().max() > 0
    ]
    assert silent == []


@pytest.mark.parametrize(
    ("field", "value"),
    [("variant", "fcn4s"), ("alignment", "sideways"), ("head_width", 0), ("head_width", 10**9)],
)
def test_an_impossible_architecture_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field.replace("_", ".")):
        Architecture(**{field: value})


def test_an_unknown_backbone_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"resnet.*vgg16, vgg16_bn, alexnet, caffenet, googlenet"):
        FCN(Architecture(backbone="resnet"), 2)


def test_googlenet_has_no_head_whose_width_could_be_chosen() -> None:
    with pytest.raises(ValueError, match="googlenet has no fc6"):
        Architecture(backbone="googlenet")
    with pytest.raises(ValueError, match="head_width"):
        Architecture(head_width=None)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("backbone", ["vgg16", "googlenet"])
@torch.no_grad()
def test_the_logit_bias_is_added_at_every_pixel(backbone: str, variant: str) -> None:
    torch.manual_seed(0)
    net = FCN(architecture(backbone, variant, "aligned"), 3).eval()
    image = torch.rand(1, 3, 45, 70) * 255
    before = net(image)
    added = torch.tensor([0.5, -1.0, 2.0])
    net.logit_bias.add_(added)
    torch.testing.assert_close(net(image) - before, added.view(1, 3, 1, 1).expand_as(before))
