import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors

from app.train.transforms import AugmentedSamples, RandomScale, epoch_batches, training_transform
from model import VOID, named_classes


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


def augmented(crop: tuple[int, int] = (48, 48), *, seed: int = 0) -> AugmentedSamples:
    transform = training_transform(crop, (0.5, 1.5), color_jitter=0, flip=True)
    return AugmentedSamples(Gradient(), transform, seed)


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
    transform = training_transform((100, 120), (1, 1), color_jitter=0, flip=False)
    photo, label = AugmentedSamples(Gradient(), transform, 0)[0, 0]
    assert label.shape == (100, 120)
    assert (label != VOID).sum() == 60 * 80
    assert (photo[:, label == VOID] == 128).all()


def test_scale_covers_its_range_and_keeps_labels_whole_numbers() -> None:
    torch.manual_seed(0)
    image = tv_tensors.Image(torch.zeros(3, 100, 50, dtype=torch.uint8))
    mask = tv_tensors.Mask(torch.tensor([[0, VOID]], dtype=torch.uint8).repeat(100, 25))
    heights = []
    for _ in range(200):
        scaled, labels = RandomScale(0.5, 2)(image, mask)
        assert scaled.shape[-2:] == labels.shape
        assert set(labels.unique().tolist()) <= {0, VOID}
        heights.append(scaled.shape[-2])
    assert 50 <= min(heights) < 60
    assert 180 < max(heights) <= 200
    assert 90 < np.median(heights) < 110  # uniform in the logarithm: half above, half below 1


def test_an_epoch_holds_every_sample_and_full_batches() -> None:
    batches = epoch_batches(10, 4, epoch=2, seed=0)
    assert [len(batch) for batch in batches] == [4, 4, 4]
    assert {index for batch in batches for _, index in batch} == set(range(10))
    assert {epoch for batch in batches for epoch, _ in batch} == {2}
    assert batches == epoch_batches(10, 4, epoch=2, seed=0)
    assert batches != epoch_batches(10, 4, epoch=3, seed=0)


def test_fewer_samples_than_a_batch_are_repeated() -> None:
    (batch,) = epoch_batches(3, 8, epoch=0, seed=0)
    assert len(batch) == 8
    assert {index for _, index in batch} == {0, 1, 2}
