"""Geometry of the report's line charts."""

import pytest

from app.train.charts import MAX_MARKS, line_chart


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in path.split())]


def test_axes_begin_at_zero_and_ticks_are_round() -> None:
    chart = line_chart("loss", {"loss": [(1, 0.7), (2, 0.35), (8, 0.1)]})
    assert [tick.text for tick in chart.y_ticks] == ["0", "0.2", "0.4", "0.6", "0.8"]
    assert [tick.text for tick in chart.x_ticks] == ["0", "2", "4", "6", "8"]
    assert chart.y_ticks[0].place == chart.bottom
    assert chart.x_ticks[0].place == chart.left
    (first, second, last) = points(chart.lines[0].path)
    assert last[0] == chart.right
    # Half of the value, half of the height; twice the epoch, twice the way.
    assert chart.bottom - second[1] == pytest.approx((chart.bottom - first[1]) / 2, abs=0.1)
    assert second[0] - chart.left == pytest.approx(2 * (first[0] - chart.left), abs=0.1)


def test_a_given_top_is_the_top() -> None:
    chart = line_chart("val", {"mean IU": [(1, 0.2)], "accuracy": [(1, 1.0)]}, top=1.0)
    assert chart.y_ticks[-1].text == "1"
    assert points(chart.lines[1].path)[0][1] == chart.top
    assert [line.label for line in chart.lines] == ["mean IU", "accuracy"]


def test_undefined_values_are_left_out() -> None:
    (line,) = line_chart("val", {"mean IU": [(1, None), (2, 0.5)]}, top=1.0).lines
    assert len(points(line.path)) == 1
    assert [text for _, _, text in line.marks] == ["mean IU, epoch 2: 0.5"]


@pytest.mark.parametrize("values", [[], [(1, None)], [(1, 0.0)], [(3, 1e-14)], [(1, 3e6)]])
def test_any_values_have_a_chart_within_its_frame(values: list[tuple[int, float | None]]) -> None:
    chart = line_chart("rate", {"rate": values})
    assert len(chart.y_ticks) >= 2
    for x, y in points(chart.lines[0].path):
        assert chart.left <= x <= chart.right
        assert chart.top <= y <= chart.bottom


def test_long_lines_show_no_single_points() -> None:
    (line,) = line_chart("loss", {"loss": [(n, 1.0) for n in range(MAX_MARKS + 1)]}).lines
    assert line.marks == ()
