from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from model.backbones import BACKBONES, build_trunk, load_classifier
from model.convolutionalize import Classifier, conv_from_linear, convolutionalize


@dataclass(frozen=True)
class Family:
    """What decides the proof of equality for a classifier."""

    backbone: str
    size: int  # of the images it was made for
    cells: int  # of the map that its first fully connected layer sees


FAMILIES = [
    Family("vgg16", 224, 7),
    Family("vgg16_bn", 224, 7),
    Family("alexnet", 224, 6),
    Family("caffenet", 227, 6),
    Family("googlenet", 224, 7),
]


def build(backbone: str) -> Classifier:
    torch.manual_seed(0)
    net = BACKBONES[backbone].classifier()
    # The linear layers start so small that every logit is near zero, where a tolerance would
    # prove nothing. Norms get statistics of their own, or leaving them out would not show.
    for layer in net.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.normal_(layer.bias, std=0.1)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    with torch.no_grad():  # logits of about one, for which the tolerance is meant
        [layer for layer in net.modules() if isinstance(layer, nn.Linear)][-1].weight.mul_(0.1)
    return net.eval()


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.backbone)
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


@pytest.fixture(scope="module")
def classifier(family: Family) -> Classifier:
    return build(family.backbone)


def fully_connected(classifier: Classifier, window: Tensor) -> Tensor:
    """Apply the classifier's own last layers to a window of the feature map."""
    if hasattr(classifier, "fc"):
        return classifier.fc(window.mean((-2, -1)))
    return classifier.classifier(torch.flatten(window, 1))


def features(net: nn.Sequential, photo: Tensor) -> Tensor:
    """Run the layers before the first that was fully connected."""
    for name, layer in net.named_children():
        if name in ("fc6", "avgpool"):
            return photo
        photo = layer(photo)
    raise AssertionError("no head")


@torch.no_grad()
def test_equals_the_classifier_at_its_own_size(family: Family, classifier: Classifier) -> None:
    photos = torch.randn(2, 3, family.size, family.size)
    logits = classifier(photos)
    cells = convolutionalize(classifier)(photos)
    assert cells.shape == (2, 1000, 1, 1)
    assert logits.std() > 0.1
    assert (cells[..., 0, 0] - logits).abs().max() < 1e-4


@torch.no_grad()
def test_each_cell_equals_the_classifier_on_its_window(
    family: Family, classifier: Classifier
) -> None:
    photo = torch.randn(1, 3, family.size + 64, family.size + 96)
    net = convolutionalize(classifier)
    shared = features(net, photo)
    cells = net(photo)
    assert cells.shape[-2:] == (3, 4)
    size = family.cells
    for row in range(3):
        for column in range(4):
            window = shared[..., row : row + size, column : column + size]
            logits = fully_connected(classifier, window)
            difference = (cells[..., row, column] - logits).abs().max()
            assert difference < 1e-4


@torch.no_grad()
def test_the_classifier_is_left_as_it_was(family: Family) -> None:
    with torch.device("meta"):
        net = BACKBONES[family.backbone].classifier()
        before = repr(net)
        convolutionalize(net)
    assert repr(net) == before


@torch.no_grad()
def test_trunk_takes_the_classifiers_numbers(family: Family, classifier: Classifier) -> None:
    """In the paper's geometry a cell in the middle sees what the classifier sees, shifted."""
    head_width = 4096 if BACKBONES[family.backbone].has_head else None
    trunk = build_trunk(family.backbone, head_width=head_width, alignment="paper").eval()
    assert load_classifier(trunk, classifier) == []
    net = convolutionalize(classifier)
    ours, theirs = trunk.state_dict(), net.state_dict()
    assert ours.keys() <= theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    photo = torch.randn(1, 3, family.size, family.size)
    padded = nn.functional.pad(photo, (100, 100, 100, 100))
    # The classifier's own first padding, where it has one, is zeros as well.
    first = next(module for module in net.modules() if isinstance(module, nn.Conv2d))
    own, first.padding = first.padding, (0, 0)
    for name, layer in net.named_children():
        if name in ("fc8", "avgpool"):
            break
        padded = layer(padded)
    first.padding = own
    assert torch.allclose(trunk(photo)[32], padded, atol=1e-3, rtol=1e-4)


def test_a_narrow_head_is_reported_as_not_copied() -> None:
    trunk = build_trunk("alexnet", head_width=8, head_norm=True)
    assert load_classifier(trunk, build("alexnet")) == ["fc6", "norm6", "fc7", "norm7"]


def test_another_backbone_is_refused() -> None:
    trunk = build_trunk("caffenet", head_width=8)
    with pytest.raises(ValueError, match="not those of the trunk"):
        load_classifier(trunk, build("alexnet"))


def test_the_papers_kernel_sizes() -> None:
    with torch.device("meta"):
        net = convolutionalize(BACKBONES["vgg16"].classifier())
        assert [net.get_submodule(name).kernel_size for name in ("fc6", "fc7", "fc8")] == [
            (7, 7),
            (1, 1),
            (1, 1),
        ]
        assert net.get_submodule("fc6").weight.shape == (4096, 512, 7, 7)


def test_caffenet_is_the_published_one() -> None:
    """Shapes of bvlc_reference_caffenet's blobs; grouped kernels see half of the channels."""
    with torch.device("meta"):
        net = convolutionalize(BACKBONES["caffenet"].classifier())
    shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    assert shapes["stage1.conv1.weight"] == (96, 3, 11, 11)
    assert shapes["stage2.conv2.weight"] == (256, 48, 5, 5)
    assert shapes["stage3.conv3.weight"] == (384, 256, 3, 3)
    assert shapes["stage3.conv4.weight"] == (384, 192, 3, 3)
    assert shapes["stage3.conv5.weight"] == (256, 192, 3, 3)
    assert shapes["fc6.weight"] == (4096, 256, 6, 6)
    names = [name for name, _ in net.named_modules()]
    assert names.index("stage1.pool1") < names.index("stage2.norm1")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_caffenets_normalisation_works_in_16_bits(dtype: torch.dtype) -> None:
    norm = convolutionalize(BACKBONES["caffenet"].classifier()).get_submodule("stage2.norm1")
    maps = (torch.randn(1, 96, 5, 6) * 300).to(dtype)  # squares beyond fp16's 65504
    expected = norm(maps.float())
    assert norm(maps).dtype == dtype
    assert torch.equal(norm(maps), expected.to(dtype))


def test_a_layer_that_saw_no_square_map_is_refused() -> None:
    with pytest.raises(ValueError, match="50 inputs"):
        conv_from_linear(nn.Linear(50, 2), kernel_size=7)


def test_a_layer_without_bias_stays_without() -> None:
    assert conv_from_linear(nn.Linear(8, 2, bias=False), kernel_size=2).bias is None
