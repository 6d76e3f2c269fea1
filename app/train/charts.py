"""Line charts as SVG: geometry here, drawn by the template of the report, which colours them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from matplotlib.ticker import MaxNLocator

WIDTH: Final = 400
HEIGHT: Final = 220
"""Size of a chart in SVG units; the page scales it."""

LEFT, RIGHT, TOP, BOTTOM = 54, 12, 10, 34
"""Room around the plot, for the ticks' texts."""

MAX_MARKS: Final = 60
"""A line of no more points than this shows each of them."""


@dataclass(frozen=True)
class Tick:
    """A grid line: its place in SVG units, and what stands beside it."""

    place: float
    text: str


@dataclass(frozen=True)
class Line:
    """A curve.

    Attributes:
        label: In the key.
        path: `points` of an SVG polyline.
        marks: (x, y, text) of points that are shown one by one, in SVG units.
    """

    label: str
    path: str
    marks: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True)
class Chart:
    """Everything that is drawn of a chart, in SVG units."""

    title: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def line_chart(
    title: str,
    series: Mapping[str, Sequence[tuple[int, float | None]]],
    *,
    top: float | None = None,
) -> Chart:
    """Lay out curves over epochs, both axes from 0.

    Args:
        title: Of the chart.
        series: Label -> (epoch, value); no value where it is undefined. Values are not negative.
        top: Of the value axis; None for a round number above the highest value.
    """
    defined = {
        label: [(epoch, value) for epoch, value in points if value is not None]
        for label, points in series.items()
    }
    every = [point for points in defined.values() for point in points]
    last_epoch = max((epoch for epoch, _ in every), default=1)
    highest = max((value for _, value in every), default=0.0) or 1.0
    value_ticks = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]).tick_values(0, top or highest)
    epoch_ticks = MaxNLocator(nbins=6, integer=True).tick_values(0, last_epoch)
    upper = top or float(value_ticks[-1])

    def x(epoch: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * epoch / last_epoch, 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / upper, 1)

    return Chart(
        title,
        x_ticks=tuple(Tick(x(tick), f"{tick:g}") for tick in epoch_ticks if tick <= last_epoch),
        y_ticks=tuple(Tick(y(tick), f"{tick:g}") for tick in value_ticks if 0 <= tick <= upper),
        lines=tuple(
            Line(
                label,
                " ".join(f"{x(epoch)},{y(value)}" for epoch, value in points),
                tuple(
                    (x(epoch), y(value), f"{label}, epoch {epoch}: {value:.4g}")
                    for epoch, value in points
                )
                if len(points) <= MAX_MARKS
                else (),
            )
            for label, points in defined.items()
        ),
    )
