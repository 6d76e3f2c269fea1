import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors

from app.train.augmentation import BalancedCrop, Distortion, RandomScale, paste
from model import VOID


def pair(label: Tensor) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    """Return labels and a photo whose every channel repeats them."""
    return tv_tensors.Image(label.expand(3, -1, -1)), tv_tensors.Mask(label)


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


@pytest.mark.parametrize("factor", [0.275, 0.4, 0.8, 1.15])
def test_scaled_labels_lie_where_the_photo_shows_them(factor: float) -> None:
    ramp = torch.arange(200, dtype=torch.uint8).expand(200, -1)
    for label in (ramp, ramp.T):
        scaled, labels = RandomScale(factor, factor)(*pair(label))
        beside = (scaled[0].float() - labels.float()) * factor
        assert beside.mean().abs() < 0.05  # of a new pixel; half of one if corners are taken


def test_a_balanced_crop_finds_what_uniform_ones_miss() -> None:
    torch.manual_seed(0)
    label = torch.zeros(90, 120, dtype=torch.uint8)
    label[88, 3] = 1  # in reach of few uniform crops
    photo, mask = pair(label)
    found = {}
    for chance in (0.0, 1.0):
        crops = [BalancedCrop((20, 30), chance)(photo, mask) for _ in range(200)]
        assert all(cut.shape == (20, 30) for _, cut in crops)
        assert all(torch.equal(image[0], cut) for image, cut in crops)
        found[chance] = sum(bool((cut == 1).any()) for _, cut in crops)
    assert found[0.0] < 10
    assert 80 < found[1.0] < 120  # each of the two classes is drawn as often


def test_the_drawn_pixel_lies_anywhere_in_the_crop() -> None:
    torch.manual_seed(0)
    label = torch.full((90, 120), VOID, dtype=torch.uint8)
    label[45, 60] = 1
    places = []
    for _ in range(300):
        _, cut = BalancedCrop((20, 30), 1.0)(*pair(label))
        ((row, column),) = (cut == 1).nonzero().tolist()
        places.append((row, column))
    rows, columns = np.array(places).T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (0, 19, 0, 29)


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_photos_smaller_than_the_crop_are_seen_whole(chance: float) -> None:
    torch.manual_seed(0)
    photo, mask = pair(torch.randint(5, (12, 40), dtype=torch.uint8))
    for _ in range(20):
        image, cut = BalancedCrop((30, 30), chance)(photo, mask)
        assert cut.shape == (30, 30)
        assert (cut != VOID).sum() == 12 * 30
        assert (image[:, cut == VOID] == 128).all()


def test_where_all_is_void_a_balanced_crop_is_a_uniform_one() -> None:
    _, cut = BalancedCrop((8, 8), 1.0)(*pair(torch.full((20, 20), VOID, dtype=torch.uint8)))
    assert (cut == VOID).all()


def test_distortion_changes_light_and_noise_but_not_the_scene() -> None:
    torch.manual_seed(0)
    rows = torch.arange(64).repeat_interleave(64).view(64, 64)
    photo, mask = pair((rows * 3 + 30).to(torch.uint8))
    means = []
    for _ in range(50):
        changed, labels = Distortion(1.0)(photo, mask)
        assert torch.equal(labels, mask)
        assert changed.dtype == torch.uint8
        assert changed.shape == photo.shape
        # Dark rows stay dark beside bright ones, whatever the light.
        profile = changed.float().mean((0, 2)).numpy()
        assert np.corrcoef(profile, photo[0, :, 0].float().numpy())[0, 1] > 0.7
        means.append(changed.float().mean().item())
    assert max(means) - min(means) > 40


def test_without_chance_nothing_is_distorted() -> None:
    photo, mask = pair(torch.randint(255, (9, 9), dtype=torch.uint8))
    changed, _ = Distortion(0.0)(photo, mask)
    assert torch.equal(changed, photo)


def test_what_is_pasted_keeps_its_labels() -> None:
    torch.manual_seed(0)
    below, above = pair(torch.zeros(6, 6, dtype=torch.uint8)), pair(torch.ones(6, 6).byte())
    results = [paste(below, above, [1]) for _ in range(20)]
    assert {int(label[0, 0]) for _, label in results} == {0, 1}  # each class half of the time
    assert all(torch.equal(photo[0], label) for photo, label in results)
    _, none = paste(below, above, [2])
    assert (none == 0).all()
