import dataclasses
import math
import os
import signal
import threading
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from app.errors import UsageError
from app.inference.device import choose_compute
from app.train.data_problems import UnreadablePhotoError
from app.train.loss import dice_loss, summed_loss
from app.train.metrics import ConfusionMatrix
from app.train.optimization import averaged_weights, learning_rate_factor
from app.train.progress import Progress
from app.train.recipes import Recipe
from app.train.run_folder import RunFolder
from app.train.shapes import Drawings
from app.train.stopping import InterruptedRunError
from app.train.trainer import Trainer
from model import FCN, VOID, Architecture, Card, load_checkpoint


class FewDrawings(Drawings):
    """Six drawings: epochs of three steps."""

    def __len__(self) -> int:
        return 6


class BrokenDrawings(FewDrawings):
    def photo(self, index):
        if index == 3:
            raise UnreadablePhotoError("three.png: broken")
        return super().photo(index)


RECIPE = Recipe(
    epochs=2, batch_size=2, crop=(32, 32), scale=(0.9, 1.1), class_weighting=0.0, ema=0.5
)


EVERYTHING = dataclasses.replace(
    RECIPE,
    distortion=0.5,
    balanced_crops=0.5,
    pasting=0.5,
    half_size=0.5,
    crop=(64, 64),
    class_weighting=1.02,
    logit_adjustment=0.5,
    label_smoothing=0.1,
    dice=0.5,
    auxiliary=0.4,
)
"""Every part of a recipe that is off by default."""


def make_trainer(
    path: Path,
    recipe: Recipe = RECIPE,
    *,
    backbone: str = "alexnet",
    dropout: float = 0.5,
    precision: str = "fp32",
    workers: int = 0,
) -> Trainer:
    weights = (0.25, 1.0, 1.0, 4.0) if recipe.class_weighting else (1.0,) * 4
    torch.manual_seed(0)
    norm = backbone == "alexnet"
    architecture = Architecture(backbone=backbone, head_width=8, head_norm=norm)
    return Trainer(
        FCN(architecture, 4, dropout=dropout),
        recipe,
        FewDrawings("train"),
        FewDrawings("val", size=(40, 48)),
        class_weights=torch.tensor(weights),
        compute=choose_compute("cpu", precision),
        folder=RunFolder(path, dtype=torch.float32),
        card=Card("tiny", architecture, Drawings.classes),
        seed=0,
        workers=workers,
        rare_classes=(1, 2),
    )


@pytest.fixture
def progress() -> Progress:
    return Progress(Console(quiet=True))


class StopAfter(Progress):
    """Raises Ctrl-C's signal from within a step, as a user would at that moment."""

    def __init__(self, step: int) -> None:
        super().__init__(Console(quiet=True))
        self.stop_at = step

    def step(self, step: int, steps: int, **figures: float) -> None:
        if step == self.stop_at:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("stop_at", "recipe"), [(2, RECIPE), (3, RECIPE), (4, RECIPE), (2, EVERYTHING), (4, EVERYTHING)]
)
def test_an_interrupted_run_goes_on_exactly(
    tmp_path: Path, progress: Progress, stop_at: int, recipe: Recipe
) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = make_trainer(tmp_path / "whole", recipe)
    whole.run(progress)

    first = make_trainer(tmp_path / "parts", recipe)
    with pytest.raises(InterruptedRunError):
        first.run(StopAfter(stop_at))
    second = make_trainer(tmp_path / "parts", recipe)
    state = second.folder.load_state()
    assert state is not None
    assert state["step"] == stop_at
    second.load_state(state)
    second.run(progress)

    assert second.history == whole.history
    for name, tensor in whole.net.state_dict().items():
        assert torch.equal(tensor, second.net.state_dict()[name]), name
    assert (tmp_path / "parts" / "best.safetensors").read_bytes() == (
        tmp_path / "whole" / "best.safetensors"
    ).read_bytes()
    assert (tmp_path / "parts" / "metrics.jsonl").read_text() == (
        tmp_path / "whole" / "metrics.jsonl"
    ).read_text()


def test_a_step_that_was_cut_in_half_is_not_saved(
    tmp_path: Path, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a signal ends the workers too, torch raises wherever the main thread is."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = make_trainer(tmp_path / "whole")
    whole.run(progress)

    first = make_trainer(tmp_path / "parts")
    update = first.averaged.update_parameters

    def update_and_die(net: FCN) -> None:
        update(net)
        if first.step == 4:  # the fifth step: the first epoch's end was saved
            os.kill(os.getpid(), signal.SIGTERM)
            raise RuntimeError("DataLoader worker is killed by signal: Terminated")

    monkeypatch.setattr(first.averaged, "update_parameters", update_and_die)
    with pytest.raises(InterruptedRunError):
        first.run(progress)
    assert first.saved_step == 3
    second = make_trainer(tmp_path / "parts")
    state = second.folder.load_state()
    assert state is not None
    assert state["step"] == 3
    second.load_state(state)
    second.run(progress)
    for name, tensor in whole.net.state_dict().items():
        assert torch.equal(tensor, second.net.state_dict()[name]), name


def test_best_is_the_average_that_was_validated(tmp_path: Path, progress: Progress) -> None:
    trainer = make_trainer(tmp_path)
    trainer.run(progress)
    net, card = load_checkpoint(tmp_path / "best.safetensors")
    best = max(trainer.history, key=lambda line: line["val"]["mean_iu"])
    assert card.training["val"] == best["val"]
    assert card.training["epoch"] == best["epoch"]
    trainer.use_weights(net)
    confusion = ConfusionMatrix(4)
    for index in range(len(trainer.val)):
        confusion.update(trainer.val.label(index), trainer.predict(index))
    assert confusion.metrics().mean_iu == pytest.approx(best["val"]["mean_iu"], abs=1e-6)


@pytest.mark.parametrize("ema", [0.5, 0.0])
def test_what_is_validated_and_saved_is_adjusted_and_training_goes_on_without(
    tmp_path: Path, progress: Progress, ema: float
) -> None:
    def trained(name: str, share: float) -> Trainer:
        recipe = dataclasses.replace(
            RECIPE, epochs=1, class_weighting=1.02, logit_adjustment=share, ema=ema
        )
        trainer = make_trainer(tmp_path / name, recipe)
        trainer.folder.path.mkdir()
        trainer.run(progress)
        return trainer

    plain, adjusted = trained("plain", 0.0), trained("adjusted", 0.5)
    for name, tensor in plain.weights_to_keep().state_dict().items():
        assert torch.equal(tensor, adjusted.weights_to_keep().state_dict()[name]), name
    kept, card = load_checkpoint(tmp_path / "adjusted" / "best.safetensors")
    shift = torch.tensor([math.log(2), 0.0, 0.0, -math.log(2)])
    assert card.training["logit_shift"] == pytest.approx((-shift).tolist())
    torch.testing.assert_close(kept.logit_bias, plain.weights_to_keep().logit_bias + shift)
    logits = plain.logits(0)
    adjusted.use_weights(kept)
    torch.testing.assert_close(adjusted.logits(0), logits + shift[:, None, None])
    confusion = ConfusionMatrix(4)
    for index in range(len(adjusted.val)):
        confusion.update(adjusted.val.label(index), adjusted.predict(index))
    assert card.training["val"]["mean_iu"] == pytest.approx(confusion.metrics().mean_iu, abs=1e-6)


def test_workers_change_nothing_and_their_errors_are_one_line(
    tmp_path: Path, progress: Progress
) -> None:
    trainer = make_trainer(tmp_path)
    keys = [[(0, 1), (0, 2)], [(0, 0), (0, 3)]]
    here = list(trainer._load(keys))
    trainer.workers = 2
    there = list(trainer._load(keys))
    assert all(
        torch.equal(a, b)
        for x, y in zip(here, there, strict=True)
        for a, b in zip(x, y, strict=True)
    )
    trainer.samples.dataset = BrokenDrawings("train")
    with pytest.raises(UsageError, match=r"^three\.png: broken$"):
        list(trainer._load(keys))


def test_the_average_follows_fast_at_first_and_slowly_later() -> None:
    net = nn.Linear(1, 1, bias=False)

    def update(value: float) -> float:
        net.weight.data.fill_(value)
        averaged.update_parameters(net)
        weight: float = averaged.module.weight.item()
        return weight

    averaged = averaged_weights(net, 0.99)
    assert update(0.0) == 0.0
    assert update(1.0) == pytest.approx(9 / 11)  # 2/11 of what was: the ramp at one update
    for _ in range(20):
        few = update(1.0)
    assert few > 0.999
    for _ in range(1000):
        update(1.0)
    assert update(2.0) == pytest.approx(1.01)


def test_without_averaging_the_network_itself_is_kept(tmp_path: Path, progress: Progress) -> None:
    trainer = make_trainer(tmp_path, Recipe(**(vars(RECIPE) | {"ema": 0, "max_steps": 2})))
    trainer.run(progress)
    net, _ = load_checkpoint(tmp_path / "best.safetensors")
    assert torch.equal(net.trunk.fc7.weight, trainer.net.trunk.fc7.weight)


def test_weight_decay_is_for_kernels_alone(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    decay = {
        id(parameter): group["weight_decay"]
        for group in trainer.optimizer.param_groups
        for parameter in group["params"]
    }
    for name, parameter in trainer.net.named_parameters():
        assert decay[id(parameter)] == (0 if parameter.dim() == 1 else RECIPE.weight_decay), name


def test_max_steps_ends_within_an_epoch_and_still_validates(
    tmp_path: Path, progress: Progress
) -> None:
    trainer = make_trainer(tmp_path, Recipe(**(vars(RECIPE) | {"max_steps": 4})))
    trainer.run(progress)
    assert trainer.step == 4
    assert [line["step"] for line in trainer.history] == [3, 4]
    assert "val" in trainer.history[-1]


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_photos(
    tmp_path: Path, progress: Progress
) -> None:
    trainer = make_trainer(tmp_path)
    with torch.no_grad():
        trainer.net.trunk.fc7.weight[0, 0] = math.nan
        torch.nn.init.ones_(trainer.net.score_fc7.weight)
    with pytest.raises(FloatingPointError, match=r"step 1, with train-00\d, train-00\d"):
        trainer.run(progress)
    assert list(tmp_path.iterdir()) == []


def test_learning_rate_rises_then_falls_to_its_floor() -> None:
    factors = [learning_rate_factor(step, 100, 0.1) for step in range(100)]
    assert factors[0] == 0.1
    assert factors[9] == factors[10] == 1
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0.001 <= factors[-1] < 0.003


def test_sgd_steps_as_caffe_does(tmp_path: Path) -> None:
    """V = mu V - lr (g + wd W), W += V, with twice the rate and no decay for biases."""
    recipe = Recipe(
        optimizer="sgd",
        momentum=0.5,
        learning_rate=0.1,
        bias_rate=2.0,
        weight_decay=0.01,
        schedule="constant",
        warmup=0.0,
        ema=0.0,
        batch_size=2,
        max_steps=2,
    )
    trainer = make_trainer(tmp_path, recipe)
    layer = trainer.net.score_fc7
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.bias.fill_(1.0)
    weight, bias, weight_step, bias_step = 1.0, 1.0, 0.0, 0.0
    for step in range(2):
        trainer.step = step
        trainer.optimizer.zero_grad()
        layer.weight.grad = torch.full_like(layer.weight, 3.0)
        layer.bias.grad = torch.full_like(layer.bias, 3.0)
        trainer.set_learning_rate()
        trainer.optimizer.step()
        weight_step = 0.5 * weight_step - 0.1 * (3.0 + 0.01 * weight)
        bias_step = 0.5 * bias_step - 0.2 * 3.0
        weight, bias = weight + weight_step, bias + bias_step
    assert layer.weight.flatten()[0].item() == pytest.approx(weight, rel=1e-5)
    assert layer.bias[0].item() == pytest.approx(bias, rel=1e-5)


def test_a_step_without_labels_changes_nothing_but_decays(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    before = {name: tensor.detach().clone() for name, tensor in trainer.net.named_parameters()}
    batch = (torch.zeros(2, 3, 32, 32), torch.full((2, 32, 32), VOID))
    loss, *_ = trainer._train_step([batch], threading.Event())
    assert loss == 0
    kept = 1 - trainer.learning_rate * RECIPE.weight_decay
    for name, tensor in trainer.net.named_parameters():
        factor = 1.0 if tensor.dim() == 1 else kept
        assert torch.allclose(tensor, factor * before[name], rtol=1e-6, atol=0), name


def test_accumulated_batches_are_one_large_one(tmp_path: Path) -> None:
    """Without batch norm and dropout: gradients of all pixels, not a mean of the batches' means."""
    gradients = []
    labels = torch.randint(0, 4, (4, 40, 40))
    labels[:3, 3:] = VOID  # so that means of batches would weigh pixels differently
    photos = torch.randint(0, 256, (4, 3, 40, 40)).float()
    for size in (4, 2, 1):
        recipe = dataclasses.replace(
            RECIPE, batch_size=size, accumulate=4 // size, optimizer="sgd", momentum=0.0, ema=0.0
        )
        trainer = make_trainer(tmp_path, recipe, backbone="vgg16", dropout=0.0)
        torch.nn.init.ones_(trainer.net.score_fc7.weight)
        before = trainer.net.score_pool4.weight.detach().clone()
        batches = list(zip(photos.split(size), labels.split(size), strict=True))
        trainer._train_step(batches, threading.Event())
        gradients.append(trainer.net.score_pool4.weight.detach() - before)
    assert gradients[0].abs().max() > 0
    for gradient in gradients[1:]:
        assert torch.allclose(gradient, gradients[0], rtol=1e-3, atol=1e-8)


def test_a_steps_loss_is_the_sum_of_the_recipes_parts(tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, dice=0.5, auxiliary=0.4, accumulate=2)
    photos = torch.randint(0, 256, (4, 3, 64, 64)).float()
    labels = torch.randint(0, 4, (4, 64, 64))
    batches = list(zip(photos.split(2), labels.split(2), strict=True))
    trainer = make_trainer(tmp_path, recipe, backbone="vgg16", dropout=0.0)
    with torch.no_grad():
        trainer.net.score_fc7.bias.copy_(torch.arange(4.0))
        expected = 0.0
        for images, truth in batches:
            logits = trainer.net(images)
            # Nothing but a bias has an effect yet: the coarser scores are the final ones.
            entropy = summed_loss(logits, truth, torch.ones(4)).item() / labels.numel()
            expected += entropy * (1 + 2 * 0.4) + 0.5 * dice_loss(logits, truth).item() / 2
    loss, *_ = trainer._train_step(batches, threading.Event())
    assert loss == pytest.approx(expected, rel=1e-4)


def test_clipping_shortens_a_step(tmp_path: Path) -> None:
    moved = []
    for clip in (0.0, 1e-3):
        recipe = dataclasses.replace(
            RECIPE, optimizer="sgd", momentum=0.0, weight_decay=0.0, clip=clip, ema=0.0, warmup=0.0
        )
        trainer = make_trainer(tmp_path, recipe)
        before = [parameter.detach().clone() for parameter in trainer.net.parameters()]
        trainer._train_step(
            [(torch.rand(2, 3, 32, 32) * 255, torch.ones(2, 32, 32, dtype=torch.long))],
            threading.Event(),
        )
        steps = zip(trainer.net.parameters(), before, strict=True)
        moved.append(math.sqrt(sum((now - then).square().sum().item() for now, then in steps)))
    assert moved[0] > moved[1]
    assert moved[1] == pytest.approx(1e-3 * trainer.optimizer.param_groups[0]["lr"], rel=1e-3)


def test_a_fine_tuned_trunk_learns_more_slowly(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, dataclasses.replace(RECIPE, trunk_rate=0.1))
    trainer.set_learning_rate()
    rate = {
        id(parameter): group["lr"]
        for group in trainer.optimizer.param_groups
        for parameter in group["params"]
    }
    score = rate[id(trainer.net.score_fc7.weight)]
    assert rate[id(trainer.net.trunk.fc6.weight)] == pytest.approx(0.1 * score)


def test_a_run_that_gets_no_better_ends_early_also_when_resumed(
    tmp_path: Path, progress: Progress
) -> None:
    recipe = dataclasses.replace(RECIPE, epochs=50, patience=2, learning_rate=0.0)
    trainer = make_trainer(tmp_path, recipe)
    trainer.run(progress)
    scores = [line["val"]["mean_iu"] for line in trainer.history]
    assert len(scores) == scores.index(max(scores)) + 3 < 50
    again = make_trainer(tmp_path, recipe)
    again.load_state(again.folder.load_state())
    again.run(progress)
    assert again.history == trainer.history


def test_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    state = trainer.state()
    state["random"] *= 2
    with pytest.raises(ValueError, match="2 processes, not 1"):
        trainer.load_state(state)


def test_patience_waits_for_a_validation(tmp_path: Path, progress: Progress) -> None:
    recipe = dataclasses.replace(RECIPE, epochs=50, val_every=3, patience=1, learning_rate=0.0)
    trainer = make_trainer(tmp_path, recipe)
    trainer.run(progress)
    scores = [line["val"]["mean_iu"] for line in trainer.history if "val" in line]
    assert len(scores) == scores.index(max(scores)) + 2
    assert len(trainer.history) == 3 * len(scores)


def test_a_run_in_bf16_with_workers_goes_on_exactly(tmp_path: Path, progress: Progress) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = make_trainer(tmp_path / "whole", precision="bf16", workers=2)
    whole.run(progress)
    first = make_trainer(tmp_path / "parts", precision="bf16", workers=2)
    with pytest.raises(InterruptedRunError):
        first.run(StopAfter(2))
    second = make_trainer(tmp_path / "parts", precision="bf16", workers=2)
    second.load_state(second.folder.load_state())
    second.run(progress)
    assert second.history == whole.history
    for name, tensor in whole.net.state_dict().items():
        assert torch.equal(tensor, second.net.state_dict()[name]), name
