"""TensorBoard events of a run: curves that grow while it trains."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from app.errors import UsageError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

POINTS: Final = 1000
"""Points of a training curve. TensorBoard draws no more of a scalar unless told to."""

FLUSH_S: Final = 30
"""Seconds after which events are in the file at the latest."""


class Events:
    """Writes a run's figures to a folder that `tensorboard --logdir` reads.

    All curves count optimiser steps, those of val too, so that they lie above one another. A
    process that goes on with a run hides what an earlier one wrote after the state was saved:
    steps that are done again are drawn once.

    Args:
        folder: Made with the first event; may hold events of the same run.

    Raises:
        UsageError: If the package `tensorboard`, which not every training needs, is missing.
    """

    def __init__(self, folder: Path) -> None:
        try:
            # Takes seconds, and not every run asks for it.
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UsageError(
                f"--tensorboard needs another package, pip install tensorboard: {error}"
            ) from None
        self._folder = folder
        self._writer_class = SummaryWriter
        self._writer: SummaryWriter | None = None
        self._losses: list[float] = []

    def step(
        self,
        step: int,
        steps: int,
        *,
        loss: float,
        images_per_second: float,
        waiting: float,
        learning_rate: float | None,
    ) -> None:
        """Take one optimiser step; write a point, its loss the mean since the last, when due.

        Args:
            step: From 1 to `steps`.
            steps: Of the whole run.
            loss: Of this step.
            images_per_second: Photos trained on.
            waiting: Share of the time spent waiting for data, 0 to 1.
            learning_rate: Of this step, None if not known.
        """
        writer = self._open(step)
        self._losses.append(loss)
        if step % max(1, steps // POINTS) and step < steps:
            return
        _write(
            writer,
            step,
            {
                "train/loss": math.fsum(self._losses) / len(self._losses),
                "train/learning_rate": learning_rate,
                "train/images_per_second": images_per_second,
                "train/waiting_for_data": waiting,
            },
        )
        self._losses.clear()

    def epoch(self, line: dict[str, Any]) -> None:
        """Write what val says of an epoch, a line of `metrics.jsonl`, and empty the queue."""
        writer = self._open(line["step"] + 1)
        val = dict(line.get("val", {}))
        by_class = val.pop("iu", {})
        _write(writer, line["step"], {f"val/{key}": value for key, value in val.items()})
        _write(writer, line["step"], {f"val_iu/{name}": value for name, value in by_class.items()})
        writer.flush()

    def close(self) -> None:
        """Write what is left."""
        if self._writer:
            self._writer.close()
            self._writer = None

    def _open(self, purge_step: int) -> "SummaryWriter":
        """Return the writer; the first call decides from which step on older events are hidden."""
        if self._writer is None:
            self._writer = self._writer_class(
                str(self._folder), purge_step=purge_step, flush_secs=FLUSH_S
            )
        return self._writer


def _write(writer: "SummaryWriter", step: int, values: dict[str, float | None]) -> None:
    """Write scalars; what is undefined leaves a gap in its curve."""
    for tag, value in values.items():
        if value is not None:
            writer.add_scalar(tag, value, step)
