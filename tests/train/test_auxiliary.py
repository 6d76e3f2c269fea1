import pytest
import torch
from torch import nn
from torch.nn import functional as F

from app.train.auxiliary import CoarseScores
from model import FCN, Architecture


def network(variant: str = "fcn8s", alignment: str = "aligned") -> FCN:
    torch.manual_seed(0)
    architecture = Architecture(
        variant=variant, backbone="vgg16_bn", head_width=8, head_norm=True, alignment=alignment
    )
    net = FCN(architecture, 3, dropout=0.0)
    for name, layer in net.named_children():
        if name.startswith("score_"):
            assert isinstance(layer, nn.Conv2d)
            nn.init.normal_(layer.weight)
    return net.train()


@pytest.mark.parametrize("alignment", ["aligned", "paper"])
def test_the_coarse_logits_are_those_of_the_32s_and_16s_inside(alignment: str) -> None:
    net = network(alignment=alignment)
    coarse = CoarseScores(net)
    images = torch.rand(2, 3, 70, 93) * 255
    state = net.state_dict()
    net(images)
    found = coarse.take(70, 93)
    assert len(found) == 2
    for variant, logits in zip(("fcn32s", "fcn16s"), found, strict=True):
        smaller = network(variant, alignment)
        smaller.load_state_dict({k: v for k, v in state.items() if k in smaller.state_dict()})
        torch.testing.assert_close(logits, smaller(images), rtol=1e-3, atol=1e-3)


def test_the_maps_are_handed_out_once_and_only_in_training() -> None:
    net = network()
    coarse = CoarseScores(net)
    images = torch.rand(2, 3, 64, 64) * 255
    net(images)
    assert len(coarse.take(64, 64)) == 2
    assert coarse.take(64, 64) == []
    net.eval()(images)
    assert coarse.take(64, 64) == []


def test_their_loss_reaches_the_coarse_scores_without_the_skips() -> None:
    net = network()
    coarse = CoarseScores(net)
    net(torch.rand(2, 3, 64, 64) * 255)
    labels = torch.randint(3, (2, 64, 64))
    F.cross_entropy(coarse.take(64, 64)[0], labels).backward()
    gradients = {name: p.grad is not None for name, p in net.named_parameters()}
    assert gradients["score_fc7.weight"]
    assert not gradients["score_pool4.weight"]


def test_a_32s_has_none() -> None:
    net = network("fcn32s")
    coarse = CoarseScores(net)
    net(torch.rand(2, 3, 64, 64) * 255)
    assert coarse.take(64, 64) == []
