import pytest
import torch
from torch import nn
from torchvision.models import VGG, vgg16, vgg16_bn

from model.backbones import VGG16Trunk, load_classifier
from model.convolutionalize import conv_from_linear, convolutionalize


@pytest.fixture(scope="module", params=[vgg16, vgg16_bn], ids=["vgg16", "vgg16_bn"])
def classifier(request: pytest.FixtureRequest) -> VGG:
    torch.manual_seed(0)
    net: VGG = request.param(weights=None)
    # torchvision draws the linear layers so small that every logit is near zero, where a
    # tolerance would prove nothing.
    for layer in net.classifier:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.normal_(layer.bias)
    return net.eval()


@torch.no_grad()
def test_equals_the_classifier_at_224(classifier: VGG) -> None:
    photos = torch.randn(2, 3, 224, 224)
    logits = classifier(photos)
    cells = convolutionalize(classifier)(photos)
    assert cells.shape == (2, 1000, 1, 1)
    assert logits.std() > 0.1
    assert (cells[..., 0, 0] - logits).abs().max() < 1e-4


@torch.no_grad()
def test_each_cell_equals_the_classifier_on_its_window(classifier: VGG) -> None:
    photo = torch.randn(1, 3, 288, 320)
    net = convolutionalize(classifier)
    features = net.features(photo)
    cells = net(photo)
    assert cells.shape[-2:] == (3, 4)
    for row in range(3):
        for column in range(4):
            window = features[..., row : row + 7, column : column + 7]
            logits = classifier.classifier(torch.flatten(window, 1))
            assert (cells[..., row, column] - logits).abs().max() < 1e-4


@torch.no_grad()
def test_trunk_takes_the_classifiers_numbers(classifier: VGG) -> None:
    batch_norm = any(isinstance(layer, nn.BatchNorm2d) for layer in classifier.features)
    trunk = VGG16Trunk(batch_norm=batch_norm, head_width=4096, head_norm=False, dropout=0.5)
    assert load_classifier(trunk, classifier) == []
    trunk.eval()
    photo = torch.randn(1, 3, 224, 224)
    # The cell in the middle of the padded fc6 sees the whole 7x7 map, as the classifier does.
    fc7 = trunk(photo)[32][..., 3, 3]
    expected = classifier.classifier[:-1](torch.flatten(classifier.features(photo), 1))
    assert (fc7 - expected).abs().max() < 1e-4


def test_a_narrow_head_is_reported_as_not_copied(classifier: VGG) -> None:
    batch_norm = any(isinstance(layer, nn.BatchNorm2d) for layer in classifier.features)
    trunk = VGG16Trunk(batch_norm=batch_norm, head_width=8, head_norm=True, dropout=0.5)
    assert load_classifier(trunk, classifier) == ["fc6", "fc7"]


def test_another_backbone_is_refused(classifier: VGG) -> None:
    batch_norm = any(isinstance(layer, nn.BatchNorm2d) for layer in classifier.features)
    trunk = VGG16Trunk(batch_norm=not batch_norm, head_width=8, head_norm=False, dropout=0.5)
    with pytest.raises(ValueError, match="not those of the trunk"):
        load_classifier(trunk, classifier)


def test_a_layer_that_saw_no_square_map_is_refused() -> None:
    with pytest.raises(ValueError, match="50 inputs"):
        conv_from_linear(nn.Linear(50, 2), kernel_size=7)


def test_a_layer_without_bias_stays_without() -> None:
    assert conv_from_linear(nn.Linear(8, 2, bias=False), kernel_size=2).bias is None
