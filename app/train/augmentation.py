"""Augmentations that torchvision does not have, for photos with labels."""

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from model import VOID

PADDING_GREY: Final = 128
"""Fill around photos smaller than the crop; the labels there are void."""

GAMMA: Final = (0.5, 2.0)
"""Range of the exponent of brightness: dusk to glare. Uniform in its logarithm."""
SHADE: Final = 0.5
"""How much darker or brighter, at most, a side of the photo gets than its middle."""
BLUR: Final = (0.3, 1.5)
"""Range of the blur's standard deviation in pixels: a lens out of focus, a wet windscreen."""
BLUR_KERNEL: Final = 7
NOISE: Final = 12.0
"""Largest standard deviation of noise, in grey levels: a sensor at night."""
HUE: Final = 0.04
"""Largest turn of the colour circle: a camera's other white balance."""


class RandomScale(v2.Transform):  # type: ignore[misc]  # torchvision ships no types
    """Resize photo and labels by one random factor, uniform in its logarithm.

    torchvision's ScaleJitter scales towards a fixed size; data of mixed sizes needs a factor of
    each photo's own size.

    Args:
        low: Smallest factor.
        high: Largest factor.
    """

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.range = torch.tensor([low, high]).log()

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw a factor and return the new size, at least one pixel."""
        height, width = functional.get_size(flat_inputs[0])
        low, high = self.range
        factor = float((low + (high - low) * torch.rand(())).exp())
        return {"size": [max(1, round(height * factor)), max(1, round(width * factor))]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize a photo bilinearly (antialiased), labels to the nearest."""
        if isinstance(inpt, tv_tensors.Mask):
            return tv_tensors.wrap(
                _resize_labels(inpt.as_subclass(Tensor), params["size"]), like=inpt
            )
        return functional.resize(inpt, params["size"], antialias=True)


def _resize_labels(labels: Tensor, size: list[int]) -> Tensor:
    """Resize labels, HxW, to the label nearest to each new pixel's centre.

    torchvision's own resize of masks takes the one at its corner ("nearest" in torch), by default
    and in older versions always: labels then lie half a pixel beside what they are labels of.
    """
    exact = v2.InterpolationMode.NEAREST_EXACT
    resized: Tensor = functional.resize(labels[None], size, interpolation=exact)
    return resized[0]


class BalancedCrop(v2.Transform):  # type: ignore[misc]  # torchvision ships no types
    """A random crop that, now and then, is laid over a class drawn from those in the photo.

    All classes of the photo are drawn alike, however few pixels they have; a random pixel of the
    class then lies anywhere in the crop.

    Args:
        size: (height, width) of the crop; smaller photos are padded, their labels with void.
        chance: Share of the crops that are laid so; the others are uniform.
    """

    def __init__(self, size: tuple[int, int], chance: float = 0.0) -> None:
        super().__init__()
        self.size = size
        self.chance = chance

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the place of the crop."""
        labels = next((item for item in flat_inputs if isinstance(item, tv_tensors.Mask)), None)
        pixel = None
        if labels is not None and torch.rand(()) < self.chance:
            pixel = _pixel_of_a_class(labels)
        params = {}
        sides = zip(("top", "left"), functional.get_size(flat_inputs[0]), self.size, strict=True)
        for axis, (side, length, crop) in enumerate(sides):
            missing = max(0, crop - length)
            first, last = -missing, length + missing - crop
            if pixel:
                first, last = max(first, pixel[axis] - crop + 1), min(last, pixel[axis])
            params[side] = int(torch.randint(first, last + 1, ()))
            params[f"padding_{side}"] = missing
        return params

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Pad if needed, and crop."""
        top, left = params["padding_top"], params["padding_left"]
        if top or left:
            fill = VOID if isinstance(inpt, tv_tensors.Mask) else PADDING_GREY
            inpt = functional.pad(inpt, [left, top, left, top], fill=fill)
        return functional.crop(inpt, params["top"] + top, params["left"] + left, *self.size)


def _pixel_of_a_class(labels: Tensor) -> tuple[int, int] | None:
    """Draw a class that is there, then one of its pixels: (row, column); None if all is void."""
    present: Tensor = labels.unique()  # type: ignore[no-untyped-call]
    present = present[present != VOID]
    if not len(present):
        return None
    rows, columns = (labels == present[torch.randint(len(present), ())]).nonzero(as_tuple=True)
    chosen = torch.randint(len(rows), ())
    return int(rows[chosen]), int(columns[chosen])


class Distortion(v2.Transform):  # type: ignore[misc]  # torchvision ships no types
    """Light, white balance, focus and noise of another hour and another camera.

    Each of the five is applied by itself with the same chance. Labels stay as they are.

    Args:
        chance: Of each.
    """

    def __init__(self, chance: float) -> None:
        super().__init__()
        self.chance = chance

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Distort a photo, 3xHxW uint8; leave everything else."""
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        gamma, shade, hue, blur, noise = (torch.rand(5) < self.chance).tolist()
        photo = inpt.as_subclass(Tensor)
        if hue:
            photo = functional.adjust_hue(photo, float(_uniform(-HUE, HUE)))
        values = photo.float() / 255
        if gamma:
            values = values ** float(_uniform(*torch.tensor(GAMMA).log().tolist()).exp())
        if shade:
            values = values * _light(*values.shape[-2:])
        if blur:
            sigma = float(_uniform(*BLUR))
            values = functional.gaussian_blur(values, [BLUR_KERNEL, BLUR_KERNEL], [sigma, sigma])
        if noise:
            values = values + torch.randn(values.shape) * float(_uniform(0, NOISE / 255))
        return tv_tensors.wrap((values.clamp(0, 1) * 255).round().to(torch.uint8), like=inpt)


def _uniform(low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(())


def _light(height: int, width: int) -> Tensor:
    """Return factors, HxW, that change linearly in a random direction and are 1 in the middle."""
    angle, strength = _uniform(0, 2 * torch.pi), _uniform(0, SHADE)
    rows = torch.linspace(-1, 1, height)[:, None] * angle.sin()
    columns = torch.linspace(-1, 1, width)[None] * angle.cos()
    return 1 + strength * (rows + columns)


def paste(
    below: tuple[Tensor, Tensor], above: tuple[Tensor, Tensor], classes: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Cut what belongs to some classes out of one photo and lay it over another.

    Each class is taken with a chance of one half, so that they also appear without each other
    (ClassMix, Olsson et al. 2021, does so with half of all classes).

    Args:
        below: Photo, 3xHxW, and labels, HxW.
        above: The same, of the same size, that is cut from.
        classes: Which may be taken.
    """
    taken = torch.tensor([number for number in classes if torch.rand(()) < 0.5], dtype=torch.uint8)
    cut = torch.isin(above[1], taken)
    return torch.where(cut, above[0], below[0]), torch.where(cut, above[1], below[1])
