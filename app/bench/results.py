"""From the samples of a load to figures: rates, percentiles by stage and size, medians, a line."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from app.bench.load import Outcome, Sample
from app.bench.photos import Photo

TOTAL: Final = "total"
REST: Final = "rest"
"""What no stage of the server accounts for: the way there and back, HTTP, waits between stages."""


@dataclass(frozen=True)
class Distribution:
    """Times in milliseconds; percentiles lie between neighbours linearly, as numpy's default.

    Attributes:
        count: How many times there are.
        mean: Their mean.
        p50: Half of them are no longer.
        p90: The same for nine of ten.
        p99: The same for 99 of 100.
        longest: The longest.
    """

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    longest: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Distribution":
        """Describe at least one time, given in seconds."""
        times = np.asarray(seconds, np.float64) * 1e3
        p50, p90, p99 = np.percentile(times, (50, 90, 99)).tolist()
        return cls(len(times), float(times.mean()), p50, p90, p99, float(times.max()))

    @classmethod
    def median_of(cls, rounds: Sequence["Distribution"]) -> "Distribution":
        """Return the median over rounds of each figure, the sum of counts and the longest time."""
        return cls(
            count=sum(one.count for one in rounds),
            mean=statistics.median(one.mean for one in rounds),
            p50=statistics.median(one.p50 for one in rounds),
            p90=statistics.median(one.p90 for one in rounds),
            p99=statistics.median(one.p99 for one in rounds),
            longest=max(one.longest for one in rounds),
        )


@dataclass(frozen=True)
class Figures:
    """What one load, or the median of several, found.

    Attributes:
        images_per_s: Photos segmented per second of the measurement.
        measured_s: How long that was, in seconds.
        answers: Time to the answer, by its status (`200`) or why there was none. Nothing that was
            sent is missing here.
        stages: Of the photos segmented: `total`, the stages that the server tells of, and `rest`.
        by_size: The same for each size, as `480x360`.
        late: How late requests were sent, beyond the moment they were due.
        generator_cpu: Share of a processor that the generator used; near 1 it was the limit.
    """

    images_per_s: float
    measured_s: float
    answers: dict[str, Distribution]
    stages: dict[str, Distribution]
    by_size: dict[str, dict[str, Distribution]]
    late: Distribution
    generator_cpu: float

    @property
    def sent(self) -> int:
        """Requests measured."""
        return sum(answers.count for answers in self.answers.values())

    @property
    def failed(self) -> int:
        """Requests measured that did not get a mask."""
        return self.sent - (self.answers["200"].count if "200" in self.answers else 0)


def summarise(outcome: Outcome, photos: Sequence[Photo]) -> Figures:
    """Compute the figures of one load of these photos, of which at least one was measured."""
    measured = [sample for sample in outcome.samples if sample.measured]
    segmented = [sample for sample in measured if sample.answer.status == 200]
    measured_s = outcome.closed - outcome.opened
    # Also those sent before the window opened: in a steady load as many are cut off at its end.
    finished = sum(
        sample.answer.status == 200 and outcome.opened <= sample.answer.finished <= outcome.closed
        for sample in outcome.samples
    )
    return Figures(
        images_per_s=finished / measured_s,
        measured_s=measured_s,
        answers={
            name: Distribution.of([sample.latency_s for sample in samples])
            for name, samples in sorted(_grouped(measured, _outcome_of).items())
        },
        stages=_by_stage(segmented),
        by_size={
            size: _by_stage(samples)
            for size, samples in sorted(
                _grouped(segmented, lambda s: photos[s.photo].size).items(),
                key=lambda entry: megapixels(entry[0]),
            )
        },
        late=Distribution.of([max(0.0, sample.sent - sample.due) for sample in measured]),
        generator_cpu=outcome.cpu_share,
    )


def medians(rounds: Sequence[Figures]) -> Figures:
    """Return the median over rounds of every figure."""
    return Figures(
        images_per_s=statistics.median(one.images_per_s for one in rounds),
        measured_s=sum(one.measured_s for one in rounds),
        answers=_median_by_name([one.answers for one in rounds]),
        stages=_median_by_name([one.stages for one in rounds]),
        by_size={
            size: _median_by_name([one.by_size[size] for one in rounds if size in one.by_size])
            for size in sorted(_names(one.by_size for one in rounds), key=megapixels)
        },
        late=Distribution.median_of([one.late for one in rounds]),
        generator_cpu=statistics.median(one.generator_cpu for one in rounds),
    )


def parse_server_timing(header: bytes) -> dict[str, float]:
    """Parse `decode;dur=0.81, queue;dur=1.20` into seconds by stage; what has no time is left out.

    Format: W3C Server Timing, https://www.w3.org/TR/server-timing/.
    """
    stages = {}
    for metric in header.decode("latin-1").split(","):
        name, *parameters = (word.strip() for word in metric.split(";"))
        for parameter in parameters:
            if parameter.startswith("dur="):
                stages[name] = float(parameter.removeprefix("dur=")) / 1e3
    return stages


@dataclass(frozen=True)
class Line:
    """time = slope * megapixels + offset.

    Attributes:
        slope: In milliseconds per megapixel.
        offset: In milliseconds.
        r_squared: Share of the times' variance that the line explains; 1 is a straight line.
    """

    slope: float
    offset: float
    r_squared: float


def fit_line(megapixels: Sequence[float], milliseconds: Sequence[float]) -> Line:
    """Fit a line by least squares.

    Raises:
        ValueError: Fewer than two different sizes.
    """
    if len(set(megapixels)) < 2:
        raise ValueError("a line needs two different sizes")
    slope, offset = statistics.linear_regression(megapixels, milliseconds)
    mean = statistics.fmean(milliseconds)
    total = sum((y - mean) ** 2 for y in milliseconds)
    residual = sum(
        (y - (slope * x + offset)) ** 2 for x, y in zip(megapixels, milliseconds, strict=True)
    )
    return Line(slope, offset, 1 - residual / total if total else 1.0)


def fit_sizes(figures: Figures, stage: str) -> Line | None:
    """Fit the median times of a stage over the sizes; None with fewer than three areas."""
    points = {
        megapixels(size): stages[stage].p50
        for size, stages in figures.by_size.items()
        if stage in stages
    }
    if len(points) < 3:
        return None
    return fit_line(list(points), list(points.values()))


def megapixels(size: str) -> float:
    """Return the area of a size like `480x360`."""
    width, _, height = size.partition("x")
    return int(width) * int(height) / 1e6


def _outcome_of(sample: Sample) -> str:
    return str(sample.answer.status or sample.answer.error)


def _grouped(samples: Iterable[Sample], key: Callable[[Sample], str]) -> dict[str, list[Sample]]:
    groups: defaultdict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[key(sample)].append(sample)
    return dict(groups)


def _by_stage(samples: Sequence[Sample]) -> dict[str, Distribution]:
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    for sample in samples:
        stages = parse_server_timing(sample.answer.server_timing)
        seconds[TOTAL].append(sample.latency_s)
        for stage, stage_s in stages.items():
            seconds[stage].append(stage_s)
        if stages:
            seconds[REST].append(sample.latency_s - sum(stages.values()))
    if REST in seconds:
        seconds[REST] = seconds.pop(REST)  # comes last
    return {stage: Distribution.of(times) for stage, times in seconds.items()}


def _names(rounds: Iterable[Mapping[str, object]]) -> list[str]:
    return list(dict.fromkeys(name for one in rounds for name in one))


def _median_by_name(rounds: Sequence[Mapping[str, Distribution]]) -> dict[str, Distribution]:
    return {
        name: Distribution.median_of([one[name] for one in rounds if name in one])
        for name in _names(rounds)
    }
