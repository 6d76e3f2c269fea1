import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from app.train.loss import (
    balanced_weights,
    dice_loss,
    labelled_weight,
    logit_shift,
    summed_loss,
)
from model import VOID


def sure(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Return logits that leave no doubt."""
    return F.one_hot(labels, classes).movedim(-1, 1) * 100.0


def test_dice_is_0_for_the_truth_and_1_for_its_opposite() -> None:
    labels = torch.tensor([[[0, 1], [1, 0]]])
    assert dice_loss(sure(labels, 2), labels) == pytest.approx(0)
    assert dice_loss(sure(1 - labels, 2), labels) == pytest.approx(1)


def test_dice_counts_classes_alike_however_few_their_pixels() -> None:
    labels = torch.zeros(1, 10, 10, dtype=torch.long)
    labels[0, 0, 0] = 1
    missed = dice_loss(sure(torch.zeros_like(labels), 2), labels)
    # Class 0: 2*99 / (100 + 99); class 1: nothing.
    assert missed == pytest.approx(((1 - 198 / 199) + 1) / 2)


def test_dice_by_hand_for_probabilities() -> None:
    logits = torch.tensor([3.0, 1.0]).log().view(1, 2, 1, 1).repeat(1, 1, 1, 2)
    labels = torch.tensor([[[0, 1]]])
    # Both pixels say (3/4, 1/4).
    first = 2 * 0.75 / (2 * 0.75**2 + 1)
    second = 2 * 0.25 / (2 * 0.25**2 + 1)
    assert dice_loss(logits, labels) == pytest.approx(1 - (first + second) / 2)


def test_void_and_absent_classes_count_nowhere_in_dice() -> None:
    labels = torch.tensor([[[0, VOID]]])
    logits = sure(torch.tensor([[[0, 1]]]), 3).requires_grad_()
    loss = dice_loss(logits, labels)
    assert loss.item() == pytest.approx(0)
    nothing = dice_loss(logits, torch.full_like(labels, VOID))
    assert nothing == 0
    nothing.backward()
    assert torch.isfinite(logits.grad).all()


def test_smoothing_asks_for_less_than_certainty() -> None:
    labels = torch.zeros(1, 1, 1, dtype=torch.long)
    ones = torch.ones(2)
    certain, doubtful = (
        torch.tensor([chance, 1 - chance]).log().view(1, 2, 1, 1) for chance in (1 - 1e-6, 0.9)
    )
    assert summed_loss(certain, labels, ones) < summed_loss(doubtful, labels, ones)
    assert summed_loss(certain, labels, ones, 0.2) > summed_loss(doubtful, labels, ones, 0.2)
    expected = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert summed_loss(doubtful, labels, ones, 0.2) == pytest.approx(expected, rel=1e-5)


def test_loss_over_its_weight_is_the_mean_over_labelled_pixels() -> None:
    logits = torch.randn(2, 3, 4, 5, requires_grad=True)
    labels = torch.randint(0, 3, (2, 4, 5))
    labels[:, :2] = VOID
    loss = summed_loss(logits, labels, torch.ones(3)) / labelled_weight(labels, torch.ones(3))
    known = logits[:, :, 2:].permute(0, 2, 3, 1).reshape(-1, 3)
    expected = -known.log_softmax(1).gather(1, labels[:, 2:].reshape(-1, 1)).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[:, :, :2].abs().max() == 0


def test_weighted_loss_is_torchs_weighted_mean() -> None:
    logits, labels = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    weights = torch.tensor([0.5, 1.0, 3.0])
    loss = summed_loss(logits, labels, weights) / labelled_weight(labels, weights)
    expected = torch.nn.functional.cross_entropy(logits, labels, weights)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_class_weights_are_enets() -> None:
    pixels = np.array([900, 90, 10])
    weights = balanced_weights(pixels, 1.02)
    raw = [1 / math.log(1.02 + share) for share in (0.9, 0.09, 0.01)]
    assert weights.tolist() == pytest.approx([value / (sum(raw) / 3) for value in raw])
    assert balanced_weights(pixels, 0).tolist() == [1, 1, 1]


def test_adjusted_logits_are_the_best_ones_of_equal_weights() -> None:
    """Pixels that look alike, three in four of class 0: the optimum says so, weights shift it."""
    labels = torch.tensor([[[0, 0, 0, 1]]])
    weights = torch.tensor([0.5, 1.5])
    bias = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.LBFGS([bias], max_iter=100)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = summed_loss(bias.view(1, 2, 1, 1).expand(1, 2, 1, 4), labels, weights)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    trained = bias.detach()
    assert trained.softmax(0)[1] == pytest.approx(0.5, abs=1e-3)
    without = trained - logit_shift(weights, 1.0)
    assert without.softmax(0)[1] == pytest.approx(0.25, abs=1e-3)
    half = trained - logit_shift(weights, 0.5)
    assert half.softmax(0)[1] == pytest.approx(1 / (1 + math.sqrt(3)), abs=1e-3)
    assert not logit_shift(weights, 0.0).any()
