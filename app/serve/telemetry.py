"""The metrics behind `GET /metrics`, in a registry of their own for each application.

All figures are of one process; run one process per device.
"""

from collections import Counter as Multiset
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Literal, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from app.serve.batcher import BatchReport
from app.serve.groups import Reason
from app.serve.record import STAGES, RequestRecord

UNMATCHED: Final = "unmatched"
"""Route label of requests that matched none: their paths are the client's to invent."""

UNANSWERED: Final = "unanswered"
"""Status label of requests that were cancelled before their answer, on a forced shutdown."""

ReloadOutcome = Literal["succeeded", "failed"]

_SECONDS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0),
)
_IMAGES: Final = (1, 2, 4, 8, 16, 32, 64, 128)
_PIXELS: Final = tuple(4**power for power in range(5, 14))  # 1,024 to 67 million

_RECENT_BATCHES: Final = 1000
"""Batches whose network input sizes are remembered."""


class Telemetry:
    """Every metric of the service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "fcn_requests",
            "Requests answered, by route template and status.",
            ["route", "status"],
            registry=self.registry,
        )
        self._request_seconds = Histogram(
            "fcn_request_seconds",
            "From the first byte of a request to the last of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        stage_seconds = Histogram(
            "fcn_stage_seconds",
            "Time a photo spent in each stage; `queue` is the wait for the device.",
            ["stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        # Looking a child up by its label takes longer than counting in it.
        self._stages = {stage: stage_seconds.labels(stage) for stage in STAGES}
        self._rejects = Counter(
            "fcn_rejects",
            "Requests answered with an error, and images that failed beside others of a request, "
            "by the kind of problem.",
            ["reason"],
            registry=self.registry,
        )
        self._cut_connections = Counter(
            "fcn_connections_cut",
            "Connections ended because the client neither sent nor read on.",
            registry=self.registry,
        )
        self._batch_images = Histogram(
            "fcn_batch_images", "Photos in a batch.", buckets=_IMAGES, registry=self.registry
        )
        self._batch_pixels = Histogram(
            "fcn_batch_pixels",
            "Pixels of a batch, as the network sees them.",
            buckets=_PIXELS,
            registry=self.registry,
        )
        self._batch_seconds = Histogram(
            "fcn_batch_seconds",
            "Device time of a batch: how long it took, times its share of the device.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._batches = Counter(
            "fcn_batches",
            "Batches, by why they were run: `full` (a cap was reached), `idle` (the device was "
            "free, and it was all there was of the group), `delay` (the wait for company was "
            "over), `older` (more of the group would have kept older photos of others waiting), "
            "`shared` (the rest of the group runs beside it), `retry` (a part of one that failed).",
            ["reason"],
            registry=self.registry,
        )
        for reason in Reason:
            self._batches.labels(reason)  # a rate needs the zero before the first
        self._shapes = RecentShapes(_RECENT_BATCHES)
        self.show(
            "fcn_recent_shapes",
            f"Different network input sizes in the last {_RECENT_BATCHES:,} batches.",
            lambda: len(self._shapes),
        )
        self._batch_failures = Counter(
            "fcn_batch_failures", "Batches whose forward failed.", registry=self.registry
        )
        self._model_info = Gauge(
            "fcn_model_info",
            "Which model serves; always 1.",
            ["name", "version", "device", "precision"],
            registry=self.registry,
        )
        self._reloads = Counter(
            "fcn_reloads",
            "Reloads of the checkpoint; after one that failed, the model before it serves on.",
            ["outcome"],
            registry=self.registry,
        )
        for outcome in get_args(ReloadOutcome):
            self._reloads.labels(outcome)  # a rate needs the zero before the first

    def observe_request(self, route: str, record: RequestRecord, seconds: float) -> None:
        """Count a request that has been answered."""
        self._requests.labels(route, str(record.status or UNANSWERED)).inc()
        self._request_seconds.labels(route).observe(seconds)
        for photo in record.images or [record]:
            for stage, stage_s in photo.stages_s.items():
                self._stages[stage].observe(stage_s)
        problems = [image.problem for image in record.images if image.problem is not None]
        # If every image has a problem, the request's own is one of those.
        if record.problem is not None and not (problems and len(problems) == len(record.images)):
            problems.append(record.problem)
        for problem in problems:
            self._rejects.labels(problem).inc()

    def count_refusal(self, problem: str, status: int) -> None:
        """Count what was answered before it was a request: its head broken or too large."""
        self._requests.labels(UNMATCHED, str(status)).inc()
        self._rejects.labels(problem).inc()

    def count_cut(self) -> None:
        """Count a connection that was ended because its client neither sent nor read on."""
        self._cut_connections.inc()

    def observe_batch(
        self, report: BatchReport[Any], input_size: tuple[int, int], device_s: float
    ) -> None:
        """Count a run of the network.

        Args:
            report: Of the run.
            input_size: Height and width of its photos as the network sees them.
            device_s: Seconds of the whole device that it took.
        """
        self._batches.labels(report.reason).inc()
        self._shapes.add(input_size)
        self._batch_images.observe(report.images)
        self._batch_pixels.observe(report.pixels)
        self._batch_seconds.observe(device_s)
        if report.failed:
            self._batch_failures.inc()

    def show_model(self, *, name: str, version: str, device: str, precision: str) -> None:
        """Export which model serves, on what; the one before it is shown no longer."""
        self._model_info.clear()
        self._model_info.labels(name, version, device, precision).set(1)

    def count_reload(self, outcome: ReloadOutcome) -> None:
        """Count a reload that has come to its end."""
        self._reloads.labels(outcome).inc()

    def show(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """Export a figure that is read when the metrics are."""
        Gauge(name, help_text, registry=self.registry).set_function(value)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class RecentShapes:
    """The different shapes among the last so many; its length is their number."""

    def __init__(self, remembered: int) -> None:
        self._remembered = remembered
        self._order: deque[tuple[int, int]] = deque()
        self._counts: Multiset[tuple[int, int]] = Multiset()

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, shape: tuple[int, int]) -> None:
        """Remember a shape, and forget the oldest if there are too many."""
        self._order.append(shape)
        self._counts[shape] += 1
        if len(self._order) > self._remembered:
            oldest = self._order.popleft()
            self._counts[oldest] -= 1
            if not self._counts[oldest]:
                del self._counts[oldest]
