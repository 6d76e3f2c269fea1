"""Everything a run found, what follows from it, and its JSON."""

import dataclasses
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.bench.engine_alone import EngineFigures
from app.bench.machine import describe_machine
from app.bench.photos import Photo
from app.bench.results import TOTAL, Line, fit_sizes, medians
from app.bench.rounds import Contestant, Ratios, compare
from model.files import write_json


@dataclass(frozen=True)
class EngineResult:
    """The engine alone.

    Attributes:
        rounds: Its rounds.
        median: Their median.
    """

    rounds: Sequence[EngineFigures]
    median: EngineFigures


@dataclass(frozen=True)
class Report:
    """Everything a run found.

    Attributes:
        asked: The command's options, as JSON values.
        photos: What was sent.
        model: The service's `GET /model`, as far as it concerns speed.
        contestants: The servers, the service first.
        engine: The engine alone, if it was asked for.
        agreement: Server -> least share of pixels in which its masks agree with the service's.
        alone: Whether each photo had the service for itself, so that time depends on its size.
    """

    asked: Mapping[str, Any]
    photos: Sequence[Photo]
    model: Mapping[str, Any]
    contestants: Sequence[Contestant]
    engine: EngineResult | None
    agreement: Mapping[str, float | None]
    alone: bool

    def write(self, path: Path) -> None:
        """Write everything as JSON.

        Raises:
            OSError: If it cannot be written.
        """
        write_json(path, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values; times are in milliseconds."""
        engine = self.engine
        return {
            "options": dict(self.asked),
            "photos": [
                {"size": photo.size, "bytes": len(photo.body), "weight": photo.weight}
                for photo in self.photos
            ],
            "machine": describe_machine(),
            "settings": {key: value for key, value in os.environ.items() if key[:4] == "FCN_"},
            "model": dict(self.model),
            "servers": {
                one.server.name: {
                    "median": dataclasses.asdict(medians(one.rounds)),
                    "rounds": [
                        {**dataclasses.asdict(figures), **dataclasses.asdict(inside)}
                        for figures, inside in zip(one.rounds, one.inside, strict=True)
                    ],
                }
                for one in self.contestants
            },
            "engine": engine
            and {
                "median": dataclasses.asdict(engine.median),
                "rounds": [dataclasses.asdict(figures) for figures in engine.rounds],
            },
            "ratios": {
                name: ratios and dataclasses.asdict(ratios)
                for name, ratios in self.ratios().items()
            },
            "of_engine": self.of_engine(),
            "beyond_forward": self.beyond_forward(),
            "agreement": dict(self.agreement),
            "lines": {stage: dataclasses.asdict(line) for stage, line in self.lines().items()},
        }

    def ratios(self) -> dict[str, Ratios | None]:
        """Set the service against each other server; None where one segmented nothing."""
        first, *others = self.contestants
        return {other.server.name: compare(first.rounds, other.rounds) for other in others}

    def of_engine(self) -> float | None:
        """Return the service's rate over the engine's: the median of the rounds' ratios."""
        if self.engine is None:
            return None
        return statistics.median(
            one.images_per_s / alone.images_per_s
            for one, alone in zip(self.contestants[0].rounds, self.engine.rounds, strict=True)
        )

    def beyond_forward(self) -> dict[str, float]:
        """Return by how much a photo's p50 exceeds that of its forward alone, in ms, by size.

        Empty unless photos had the service for themselves.
        """
        if self.engine is None or not self.alone:
            return {}
        forwards = self.engine.median.by_size
        by_size = medians(self.contestants[0].rounds).by_size
        return {
            size: stages[TOTAL].p50 - forwards[size].forward.p50
            for size, stages in by_size.items()
            if size in forwards
        }

    def lines(self) -> dict[str, Line]:
        """Fit the service's median times over the sizes: in total, and of the forward.

        Empty unless photos had the service for themselves and there are three sizes.
        """
        if not self.alone:
            return {}
        figures = medians(self.contestants[0].rounds)
        fits = {stage: fit_sizes(figures, stage) for stage in (TOTAL, "forward")}
        return {stage: line for stage, line in fits.items() if line is not None}
