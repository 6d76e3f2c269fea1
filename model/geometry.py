"""Where the cells of a feature map lie in the image: the offset algebra of the paper's nets.

Along one axis a map is a row of cells; cell i is centred at pixel `start + stride * i`, where
pixel p is centred at p. A convolution or pooling layer turns one such grid into a coarser one, a
deconvolution into a finer one. Two maps can be added cell by cell if their grids differ by whole
cells: that difference is the crop offset which the authors' nets carry as a number (19 for
FCN-32s; 5 and 27 for 16s; 5, 9 and 31 for 8s; 18 for FCN-AlexNet). Here it follows from the layers.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from torch import nn
from torchvision.models.googlenet import BasicConv2d, Inception

PAPER_PADDING: Final = 100
"""Zeros around the image in the authors' nets; the crops then always find enough cells."""

MAX_PADDING: Final = 256
"""Where the search for the least padding gives up: beyond any trunk's need."""


@dataclass(frozen=True)
class Window:
    """What a cell of a layer's output sees of its input, along one axis.

    Attributes:
        kernel: Input cells under the kernel.
        stride: Input cells from one output cell to the next.
        padding: Cells added on each side.
        ceil: Whether a last, incomplete step gives a cell too, as in Caffe's pooling.
    """

    kernel: int
    stride: int = 1
    padding: int = 0
    ceil: bool = False

    def size(self, cells: int) -> int:
        """Return the number of output cells for an input of `cells`; below 1 it cannot run."""
        steps = (cells + 2 * self.padding - self.kernel) / self.stride
        size = (math.ceil(steps) if self.ceil else math.floor(steps)) + 1
        # PyTorch's rule: no pooling window starts in the padding behind the input.
        if self.ceil and (size - 1) * self.stride >= cells + self.padding:
            size -= 1
        return size


@dataclass(frozen=True)
class Grid:
    """The cells of a map, along one axis of the image. As it stands by default: the pixels.

    Attributes:
        stride: Pixels from one cell's centre to the next.
        start: Pixel at the centre of cell 0; may lie outside of the image.
        field: Receptive field: width in pixels of what one cell depends on.
    """

    stride: int = 1
    start: float = 0.0
    field: int = 1

    def through(self, windows: Iterable[Window]) -> "Grid":
        """Return the grid behind layers of the given windows."""
        grid = self
        for window in windows:
            center = (window.kernel - 1) / 2 - window.padding
            grid = Grid(
                grid.stride * window.stride,
                grid.start + grid.stride * center,
                grid.field + grid.stride * (window.kernel - 1),
            )
        return grid


@dataclass(frozen=True)
class Upsampling:
    """A deconvolution along one axis.

    Attributes:
        factor: f, output cells for an input cell.
        kernel: 2 f, or 2 f - 1 where cell centres shall fall onto cell centres.
        extension: Cells by which the input's edge is replicated on each side before it.
        padding: Output cells dropped on each side.
    """

    factor: int
    kernel: int
    extension: int = 0
    padding: int = 0

    @classmethod
    def paper(cls, factor: int, kernel: int) -> "Upsampling":
        """Return the authors' deconvolution: nothing around the map, nothing dropped."""
        return cls(factor, kernel)

    @classmethod
    def aligned(cls, factor: int, kernel: int) -> "Upsampling":
        """Return one that does not fade towards the borders.

        One replicated cell on each side suffices for the kernel to be covered whole. What is
        dropped leaves the half-pixel convention of `F.interpolate(align_corners=False)` for an
        even kernel: f n cells for n. For an odd one, the outermost are the replicated cells'
        own centres: f (n + 1) + 1 cells.
        """
        even = kernel == 2 * factor
        return cls(
            factor, kernel, extension=1, padding=factor + factor // 2 if even else factor - 1
        )

    def size(self, cells: int) -> int:
        """Return the number of output cells for an input of `cells`."""
        return (cells + 2 * self.extension - 1) * self.factor + self.kernel - 2 * self.padding

    def grid(self, grid: Grid) -> Grid:
        """Return the grid of the output for an input on `grid`."""
        stride = grid.stride // self.factor
        first = grid.start - self.extension * grid.stride
        return replace(
            grid, stride=stride, start=first - stride * ((self.kernel - 1) / 2 - self.padding)
        )


@dataclass(frozen=True)
class Step:
    """One upsampling, and how its output meets the next finer map (at last: the image).

    Attributes:
        upsampling: The deconvolution.
        stride: Of the finer map.
        offset: Cell of the upsampled map that lies on the finer map's cell 0. The authors' crop
            offset of the output; negative where the finer map has to be cropped, by as much.
    """

    upsampling: Upsampling
    stride: int
    offset: int


def windows(layer: nn.Module) -> list[Window]:
    """Return the windows that a cell of a layer's output looks through, input to output.

    Layers that work on each cell by itself (norms, activations, dropout) have none.

    Raises:
        TypeError: If the layer is of a kind whose geometry is not known here.
    """
    if isinstance(layer, nn.Sequential | BasicConv2d):
        return [window for child in layer.children() for window in windows(child)]
    if isinstance(layer, Inception):
        # Its branches are concatenated, so they agree; each keeps its input's grid.
        branches = [Grid().through(windows(branch)) for branch in layer.children()]
        if any((branch.stride, branch.start) != (1, 0.0) for branch in branches):
            raise TypeError("an inception module's branches are not centred")
        widest = max(branches, key=lambda branch: branch.field).field
        return [Window(widest, padding=widest // 2)]
    if isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        ceil = not isinstance(layer, nn.Conv2d) and layer.ceil_mode
        kernel, stride, padding = map(_one, (layer.kernel_size, layer.stride, layer.padding))
        return [Window(kernel, stride, padding, ceil)]
    if next(layer.children(), None) is not None:
        raise TypeError(f"the geometry of {type(layer).__name__} is not known")
    return []


def _one(value: object) -> int:
    """Return the size along one axis of a layer that treats both alike."""
    sizes = {*value} if isinstance(value, tuple) else {value}
    size = sizes.pop()
    if sizes or not isinstance(size, int):
        raise TypeError(f"{value!r} is not one size for both axes")
    return size


def plan_upsampling(grids: Mapping[int, Grid], finest: int, alignment: str) -> list[Step]:
    """Return the upsamplings from the coarsest map, by way of the skips, to the image.

    The kernel of each is 2 f wide, or 2 f - 1 where only that lets cells meet.

    Args:
        grids: Of the trunk's maps, by stride.
        finest: Stride of the last skip: 32 for FCN-32s, 16 for 16s, 8 for 8s.
        alignment: `aligned` or `paper`.

    Raises:
        ValueError: If the grids of two maps do not differ by whole cells.
    """
    strides = sorted((stride for stride in grids if stride >= finest), reverse=True)
    make = Upsampling.paper if alignment == "paper" else Upsampling.aligned
    grid = grids[strides[0]]
    steps = []
    for stride in [*strides[1:], 1]:
        target = grids[stride] if stride > 1 else Grid()
        factor = grid.stride // stride
        for kernel in (2 * factor, 2 * factor - 1):
            upsampling = make(factor, kernel)
            upsampled = upsampling.grid(grid)
            offset = (target.start - upsampled.start) / stride
            if offset.is_integer():
                break
        else:
            raise ValueError(f"the maps of strides {grid.stride} and {stride} do not meet")
        steps.append(Step(upsampling, stride, int(offset)))
        # Maps are added where they overlap: the sum begins where the later of the two does.
        grid = max(upsampled, target, key=lambda each: each.start)
    return steps


def covers(maps: Mapping[int, Sequence[Window]], steps: Sequence[Step], pixels: int) -> bool:
    """Return whether an image of `pixels` along one axis gets a logit for each of them.

    Args:
        maps: Windows from the image to each map of the trunk, by stride.
        steps: From `plan_upsampling`.
        pixels: Height or width of the image.
    """
    cells = {stride: _size(pixels, through) for stride, through in maps.items()}
    size = cells[max(cells)]
    for step in steps:
        if size < 1:
            return False
        size = step.upsampling.size(size)
        target = cells[step.stride] if step.stride > 1 else pixels
        end = min(size - step.offset, target)  # in cells of the target
        size = end - max(0, -step.offset)
    return steps[-1].offset >= 0 and size == pixels


def _size(cells: int, through: Iterable[Window]) -> int:
    for window in through:
        cells = window.size(cells) if cells > 0 else 0
    return cells


def least_padding(maps: Mapping[int, Sequence[Window]]) -> int:
    """Return the least padding of the first layer with which the aligned geometry works.

    That is: all offsets of FCN-32s, 16s and 8s are whole and none is negative, and images of
    every size from one pixel get a logit for each pixel. (Sizes repeat with the coarsest stride,
    so two periods are looked at.)

    Args:
        maps: Windows from the image to each map of the trunk, by stride.

    Raises:
        ValueError: If there is none.
    """
    for padding in range(MAX_PADDING):
        padded = {
            stride: [replace(first, padding=padding), *rest]
            for stride, (first, *rest) in maps.items()
        }
        grids = {stride: Grid().through(through) for stride, through in padded.items()}
        try:
            plans = [plan_upsampling(grids, finest, "aligned") for finest in grids]
        except ValueError:
            continue
        if all(step.offset >= 0 for steps in plans for step in steps) and all(
            covers(padded, steps, pixels)
            for steps in plans
            for pixels in range(1, 2 * max(maps) + 1)
        ):
            return padding
    raise ValueError(f"no padding below {MAX_PADDING} aligns the trunk's maps")
