from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors

from app.train.recipes import Recipe
from app.train.transforms import (
    AugmentedSamples,
    Pasting,
    Schedule,
    epoch_batches,
    rare_classes,
    training_transform,
)
from model import VOID, named_classes

PLAIN = Recipe(crop=(48, 48), scale=(1, 1), color_jitter=0, flip=False)


class Gradient:
    """Photos whose red channel repeats the label, so that any misalignment shows."""

    classes = named_classes(["a"])
    names = ("one", "two")

    def __len__(self) -> int:
        return len(self.names)

    def label(self, index: int) -> NDArray[np.uint8]:
        return np.tile(np.repeat(np.arange(10, dtype=np.uint8), 8), (60, 1))

    def photo_size(self, index: int) -> tuple[int, int]:
        return 60, 80

    def photo(self, index: int) -> NDArray[np.uint8]:
        return np.repeat(self.label(index)[..., None] * 20, 3, axis=2)


class TwoScenes(Gradient):
    """Scene 0 is of class 0 alone; scene 1 shows the classes 1, 2 and 3."""

    def label(self, index: int) -> NDArray[np.uint8]:
        bands = np.repeat(np.array([1, 2, 3], dtype=np.uint8), 16)
        return np.tile(bands if index else np.zeros_like(bands), (48, 1))


def augmented(crop: tuple[int, int] = (48, 48), *, seed: int = 0) -> AugmentedSamples:
    recipe = replace(PLAIN, crop=crop, scale=(0.5, 1.5), flip=True, balanced_crops=0.5)
    return AugmentedSamples(Gradient(), Schedule(recipe, 10), seed)


def test_a_sample_depends_on_seed_epoch_and_index_alone() -> None:
    first = augmented()[3, 1]
    torch.rand(17)
    again = augmented()[3, 1]
    assert torch.equal(first.photo, again.photo)
    assert torch.equal(first.label, again.label)
    others = [augmented()[4, 1], augmented()[3, 0], augmented(seed=1)[3, 1]]
    assert all(not torch.equal(first.photo, other.photo) for other in others)


def test_augmentation_leaves_the_global_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    augmented()[0, 0]
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("epoch", range(6))
def test_photo_and_labels_move_together(epoch: int) -> None:
    photo, label = augmented((40, 40))[epoch, 0]
    assert photo.shape == (3, 40, 40)
    inside = label != VOID
    # Interpolation softens the steps between bands: there, and only there, the photo may be
    # off by up to one band.
    distance = (photo[0][inside].float() / 20 - label[inside].float()).abs()
    assert inside.any()
    assert distance.max() <= 1
    assert distance.median() < 0.05


def test_small_photos_are_padded_with_void_never_with_a_class() -> None:
    transform = Schedule(replace(PLAIN, crop=(100, 120)), 1)
    photo, label = AugmentedSamples(Gradient(), transform, 0)[0, 0]
    assert label.shape == (100, 120)
    assert (label != VOID).sum() == 60 * 80
    assert (photo[:, label == VOID] == 128).all()


def test_the_first_epochs_may_show_photos_and_crops_of_half_the_size() -> None:
    schedule = Schedule(replace(PLAIN, crop=(40, 60), half_size=0.5), 4)
    sizes = [AugmentedSamples(Gradient(), schedule, 0)[epoch, 0].label.shape for epoch in range(4)]
    assert sizes == [(20, 30), (20, 30), (40, 60), (40, 60)]
    # The 80 columns of ten bands, halved: what 30 columns show is as wide as 60 were.
    bands = AugmentedSamples(Gradient(), schedule, 0)[0, 0].label.unique()
    assert len(bands) >= 7


def test_the_epochs_after_those_may_have_a_scale_of_their_own() -> None:
    recipe = replace(PLAIN, crop=(40, 60), half_size=0.5, late_scale=(2, 2))
    samples = AugmentedSamples(Gradient(), Schedule(recipe, 4), 0)
    # Bands are 8 columns wide: 4 at half size, 16 at scale 2.
    bands = [len(samples[epoch, 0].label.unique()) for epoch in range(4)]
    assert min(bands[:2]) >= 7
    assert max(bands[2:]) <= 5
    only = AugmentedSamples(Gradient(), Schedule(replace(recipe, half_size=0.0), 4), 0)
    assert len(only[0, 0].label.unique()) >= 7


def test_epochs_at_half_size_are_a_third_of_the_work() -> None:
    schedule = Schedule(replace(PLAIN, half_size=0.6), 10)
    assert [schedule.work(epochs) for epochs in (0, 3, 6, 7.5, 10)] == [0, 1, 2, 3.5, 6]


def test_whole_photos_can_be_halved_as_well() -> None:
    schedule = Schedule(replace(PLAIN, crop=None, half_size=1.0), 1)
    assert AugmentedSamples(Gradient(), schedule, 0)[0, 0].label.shape == (30, 40)


def test_pasting_lays_rare_classes_of_other_photos_over_this_one() -> None:
    samples = AugmentedSamples(TwoScenes(), Schedule(PLAIN, 9), 0, Pasting(1.0, (2, 3)))
    seen = set()
    for epoch in range(9):
        photo, label = samples[epoch, 0]
        assert torch.equal(photo[0], label * 20)  # labels come with their pixels
        seen.add(tuple(label.unique().tolist()))
    # Scene 0 is class 0 alone; classes 2 and 3 come from scene 1, its class 1 never does.
    assert seen <= {(0,), (0, 2), (0, 3), (0, 2, 3)}
    assert len(seen) >= 3


def test_a_pasted_sample_depends_on_seed_epoch_and_index_alone() -> None:
    first, again = (
        AugmentedSamples(TwoScenes(), Schedule(PLAIN, 9), 0, Pasting(0.5, (2, 3))) for _ in range(2)
    )
    _ = again[1, 1]
    for epoch in range(5):
        assert torch.equal(first[epoch, 0].label, again[epoch, 0].label)


def test_rare_classes_are_those_below_the_median_that_occur() -> None:
    assert rare_classes(np.array([50, 0, 3, 20, 4])) == (2,)
    assert rare_classes(np.array([7])) == ()


def test_training_changes_colours_but_never_labels() -> None:
    transform = training_transform(replace(PLAIN, color_jitter=0.5, distortion=1.0))
    torch.manual_seed(0)
    photo = tv_tensors.Image(torch.full((3, 48, 48), 100, dtype=torch.uint8))
    label = tv_tensors.Mask(torch.arange(48, dtype=torch.uint8).repeat(48, 1))
    changed, same = transform(photo, label)
    assert not torch.equal(changed, photo)
    assert torch.equal(same, label)


def test_an_epoch_holds_every_sample_and_full_batches() -> None:
    batches = epoch_batches(10, 4, epoch=2, seed=0)
    assert [len(batch) for batch in batches] == [4, 4, 4]
    assert {index % 10 for batch in batches for _, index in batch} == set(range(10))
    assert {epoch for batch in batches for epoch, _ in batch} == {2}
    assert batches == epoch_batches(10, 4, epoch=2, seed=0)
    assert batches != epoch_batches(10, 4, epoch=3, seed=0)


def test_fewer_samples_than_a_batch_are_repeated_each_time_seen_otherwise() -> None:
    (batch,) = epoch_batches(3, 8, epoch=0, seed=0)
    assert len(set(batch)) == 8
    assert {index % 3 for _, index in batch} == {0, 1, 2}
    samples = augmented()
    again = [samples[0, repeated * len(samples.dataset)].photo for repeated in range(3)]
    assert not torch.equal(again[0], again[1])
    assert not torch.equal(again[1], again[2])
