import pytest
import torch
from torch import nn

from model import FCN, Architecture
from model.fcn import VARIANTS


def tiny(variant: str = "fcn8s", *, classes: int = 3, learned: bool = True) -> FCN:
    torch.manual_seed(0)
    architecture = Architecture(
        variant=variant, head_width=8, head_norm=True, learned_upsampling=learned
    )
    return FCN(architecture, classes).eval()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 33), (2, 3), (37, 21), (64, 95), (97, 32)])
@torch.no_grad()
def test_logits_have_the_images_own_size(variant: str, shape: tuple[int, int]) -> None:
    image = torch.randint(0, 256, (1, 3, *shape), dtype=torch.uint8)
    logits = tiny(variant)(image)
    assert logits.shape == (1, 3, *shape)
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("learned", [True, False])
@torch.no_grad()
def test_a_constant_score_stays_constant_up_to_the_corners(variant: str, learned: bool) -> None:
    net = tiny(variant, learned=learned)
    nn.init.constant_(net.score_fc7.bias, 2.5)
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
    with pytest.raises(ValueError, match=r"resnet.*vgg16, vgg16_bn"):
        FCN(Architecture(backbone="resnet"), 2)
