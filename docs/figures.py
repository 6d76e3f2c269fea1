"""Draws the figures of docs/fcn.md and of the README: `python docs/figures.py [RUNS]`.

RUNS holds the runs fcn32s, fcn16s and fcn8s of `make variants`; without it, the figure that needs
them is left as it is.
"""

import sys
from pathlib import Path
from typing import Final

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

from app.inference.engine import Engine
from app.paths import DEFAULT_CHECKPOINT
from app.train.report import colorize
from app.train.shapes import Drawings
from model import FCN, load_checkpoint
from model.bilinear import Deconvolution, bilinear_kernel
from model.geometry import Upsampling

IMAGES: Final = Path(__file__).parent / "images"
VARIANTS: Final = ("fcn32s", "fcn16s", "fcn8s")

SHOWN: Final = (2, 13, 19, 27)
"""Test drawings that are shown; together they have every class."""


def draw_bilinear(path: Path) -> None:
    """Draw the bilinear kernels, and what zeros around a map do to its borders."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    axes = figure.subplots(1, 4, width_ratios=[1, 1, 1, 2.6])
    for axis, size in zip(axes, (4, 16, 15), strict=False):
        kernel = bilinear_kernel(size)
        axis.imshow(kernel, cmap="viridis", vmin=0, vmax=1)
        axis.set_title(f"{size}x{size}: stride {(size + 1) // 2}", fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    axes[0].set_ylabel("kernels", fontsize=9)

    scores = torch.tensor([1.0, 1.0, 1.0, 0.2, 0.6, 0.6])
    pixels = np.arange(len(scores) * 8)
    plot = axes[3]
    for label, upsampling, offset, style in (
        ("zeros around the map", Upsampling.paper(8, 16), 4, "--"),
        ("edge replicated (ours)", Upsampling.aligned(8, 16), 0, "-"),
    ):
        layer = Deconvolution(1, upsampling, learned=True)
        with torch.no_grad():
            # A map of a single row fades in its height as well: the middle of equal rows does not.
            output = layer(scores.expand(1, 1, 5, -1))[0, 0]
        row = output[output.shape[0] // 2, offset : offset + len(pixels)]
        plot.plot(pixels, row, style, label=label)
    plot.plot(np.arange(len(scores)) * 8 + 3.5, scores, "ko", markersize=4, label="cells")
    plot.set_ylim(0, 1.1)
    plot.set_xlabel("pixel", fontsize=9)
    plot.set_ylabel("score", fontsize=9)
    plot.set_title("one row of six cells, upsampled 8x", fontsize=9)
    plot.legend(fontsize=8, loc="lower left")
    plot.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def draw_receptive_field(path: Path) -> None:
    """Draw what one cell of each map sees: its receptive field, and the gradient within fc7's."""
    net, _ = load_checkpoint(DEFAULT_CHECKPOINT)
    photo = _hopper()
    height, width = photo.shape[:2]
    figure = Figure(figsize=(9.2, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.imshow(photo)
    for color, (stride, name) in zip(
        ("tab:green", "tab:orange", "tab:red"),
        ((8, "pool3"), (16, "pool4"), (32, "fc7")),
        strict=True,
    ):
        grid = net.trunk.grids[stride]
        column, row = (
            grid.start + stride * round((size / 2 - grid.start) / stride)
            for size in (width, height)
        )
        corner = (column - grid.field / 2, row - grid.field / 2)
        label = f"{name}: stride {stride}, sees {grid.field} px"
        left.add_patch(
            Rectangle(corner, grid.field, grid.field, fill=False, color=color, lw=2, label=label)
        )
        left.plot(column, row, "+", color=color)
    left.legend(fontsize=8, loc="lower center")
    left.set_title("receptive field of one cell, from the layers", fontsize=9)
    right.imshow(_influence(net, photo), cmap="magma")
    right.set_title("how much each pixel moves that cell of fc7 (gradient)", fontsize=9)
    for axis in (left, right):
        axis.set_axis_off()
    figure.savefig(path, dpi=90)


def _hopper() -> NDArray[np.uint8]:
    """Return a photo that matplotlib ships: Grace Hopper, public domain, 600x512x3."""
    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    return np.array(Image.open(path).convert("RGB"))


def _influence(net: FCN, photo: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the gradient's magnitude at each pixel, HxW, of the scores of fc7's middle cell.

    The root of the largest is shown as one, smaller ones by their square roots.
    """
    image = torch.from_numpy(photo).permute(2, 0, 1)[None].float().requires_grad_()
    fc7 = net.trunk((image - net.mean) / net.std)[32]
    fc7[0, :, fc7.shape[2] // 2, fc7.shape[3] // 2].sum().backward()
    assert image.grad is not None
    magnitude = image.grad.abs().sum(1)[0].numpy()
    influence: NDArray[np.float32] = np.sqrt(magnitude / magnitude.max())
    return influence


def draw_variants(runs: Path, path: Path) -> None:
    """Draw what FCN-32s, 16s and 8s make of drawings that none of them has seen."""
    drawings = Drawings("test")
    columns = {"drawing": drawings.photo, "truth": _painted(drawings.label)}
    for variant in VARIANTS:
        engine = Engine.load(runs / variant / "best.safetensors", device="cpu", precision="fp32")
        columns[variant] = _painted(
            lambda index, engine=engine: engine.segment([drawings.photo(index)])[0].label_map
        )
    figure = Figure(figsize=(2.3 * len(columns), 1.6 * len(SHOWN) + 0.3), layout="constrained")
    axes = figure.subplots(len(SHOWN), len(columns))
    for row, index in zip(axes, SHOWN, strict=True):
        for axis, (title, picture) in zip(row, columns.items(), strict=True):
            axis.imshow(picture(index), interpolation="nearest")
            axis.set_axis_off()
            if index == SHOWN[0]:
                axis.set_title(title.replace("fcn", "FCN-"), fontsize=10)
    figure.savefig(path, dpi=100)


def _painted(label_map):
    return lambda index: colorize(label_map(index), Drawings.classes)


def main() -> None:
    """Draw."""
    IMAGES.mkdir(exist_ok=True)
    draw_bilinear(IMAGES / "bilinear.png")
    draw_receptive_field(IMAGES / "receptive_field.png")
    if len(sys.argv) > 1:
        draw_variants(Path(sys.argv[1]), IMAGES / "variants.png")


if __name__ == "__main__":
    main()
