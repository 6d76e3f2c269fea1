"""A report as tables for people."""

from collections.abc import Iterator, Mapping
from typing import Final

from rich.console import Console
from rich.table import Table

from app.bench.engine_alone import EngineFigures
from app.bench.report import Report
from app.bench.results import TOTAL, Distribution, Figures, medians
from app.bench.rounds import Inside

_MOST_SIZES: Final = 12
"""Sizes that are shown; JSON holds all."""

_BUSY: Final = 0.9
_LATE_MS: Final = 10.0
_SAME: Final = 0.999
"""Share of pixels in which the servers' masks must agree: in batches of other sizes bf16 rounds
differently, in one of a thousand at most."""


def show(report: Report, console: Console) -> None:
    """Print a report."""
    results = {one.server.name: medians(one.rounds) for one in report.contestants}
    console.print(_servers_table(results))
    for name, figures in results.items():
        _show_failures(console, name, figures)
        if len(figures.stages) > 1:
            console.print(_times_table(f"{name}, by stage", "stage", figures.stages))
        sizes = {size: stages[TOTAL] for size, stages in figures.by_size.items()}
        if 1 < len(sizes) <= _MOST_SIZES:
            console.print(_times_table(f"{name}, by size", "size", sizes))
    if report.engine is not None:
        console.print(_engine_table(report.engine.median))
    for line in (*_comparisons(report), *_warnings(report, results)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _comparisons(report: Report) -> Iterator[str]:
    first = report.contestants[0].server.name
    for one in report.contestants:
        for inside in one.inside[-1:]:
            if inside != Inside(None, None):
                yield (
                    f"{one.server.name}: {_of(inside.images_per_batch, '.2f')} photos a batch, "
                    f"{_of(inside.resident_mib, '.0f')} MiB resident in its last round"
                )
    for name, ratios in report.ratios().items():
        if ratios is None:
            yield f"{first} and {name} cannot be compared: one segmented nothing"
        else:
            yield (
                f"{first} over {name}: {ratios.images_per_s:.3f} x images/s, "
                f"{ratios.p50:.3f} x p50, {ratios.p99:.3f} x p99"
            )
    of_engine = report.of_engine()
    if of_engine is not None:
        yield f"{first} over the engine alone: {of_engine:.3f} x images/s"
    for size, more in list(report.beyond_forward().items())[:_MOST_SIZES]:
        yield f"{first} at {size}: p50 is the forward alone + {_time(more)} ms"
    for stage, line in report.lines().items():
        yield (
            f"{first}, median {stage} time of a size: {line.slope:.2f} ms x megapixels + "
            f"{line.offset:.2f} ms, R^2 {line.r_squared:.5f}"
        )


def _warnings(report: Report, results: Mapping[str, Figures]) -> Iterator[str]:
    for name, figures in results.items():
        if figures.generator_cpu > _BUSY:
            yield (
                f"warning: the generator used {figures.generator_cpu:.0%} of a processor under "
                f"{name}: it may have been the limit"
            )
        if figures.late.p99 > _LATE_MS:
            yield (
                f"warning: requests to {name} were sent up to {_time(figures.late.p99)} ms late "
                "(p99): the machine has too little time for the generator"
            )
    for name, share in report.agreement.items():
        if share is not None and share < _SAME:
            yield (
                f"warning: {name}'s masks agree with the service's in {share:.2%} of the pixels "
                "only"
            )


def _servers_table(results: Mapping[str, Figures]) -> Table:
    table = Table("server", title="time to the answer in ms, medians over the rounds")
    for column in ("images/s", "p50", "p90", "p99", "mean", "longest", "failed"):
        table.add_column(column, justify="right")
    for name, figures in results.items():
        total = figures.stages.get(TOTAL)
        table.add_row(
            name,
            f"{figures.images_per_s:.2f}",
            *(_times(total)[:4] if total else ["-"] * 4),
            _time(max(times.longest for times in figures.answers.values())),
            f"{figures.failed} of {figures.sent}",
        )
    return table


def _times_table(title: str, kind: str, rows: Mapping[str, Distribution]) -> Table:
    table = Table(kind, title=f"{title}, in ms")
    for column in ("p50", "p90", "p99", "mean", "longest"):
        table.add_column(column, justify="right")
    for name, times in rows.items():
        table.add_row(name, *_times(times))
    return table


def _engine_table(figures: EngineFigures) -> Table:
    table = Table(
        "size", title=f"engine alone: {figures.images_per_s:.2f} images/s in best batches"
    )
    for column in ("forward p50, ms", "best batch", "side by side", "ms an image in it"):
        table.add_column(column, justify="right")
    for size, one in list(figures.by_size.items())[:_MOST_SIZES]:
        table.add_row(
            size, _time(one.forward.p50), str(one.batch), str(one.lanes), _time(one.ms_per_image)
        )
    return table


def _show_failures(console: Console, name: str, figures: Figures) -> None:
    for outcome, times in figures.answers.items():
        if outcome != "200":
            console.print(
                f"{name} answered {times.count} of {figures.sent} with {outcome}: "
                f"p50 {_time(times.p50)} ms, longest {_time(times.longest)} ms",
                markup=False,
                highlight=False,
            )


def _times(times: Distribution) -> list[str]:
    return [_time(value) for value in (times.p50, times.p90, times.p99, times.mean, times.longest)]


def _of(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _time(milliseconds: float) -> str:
    return f"{milliseconds:.1f}" if milliseconds >= 10 else f"{milliseconds:.2f}"
