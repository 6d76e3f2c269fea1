"""The folder of one training run; every file in it is whole at any moment."""

import dataclasses
import errno
import json
from pathlib import Path
from typing import Any

import torch

from app.errors import UsageError
from model import FCN, Card, save_checkpoint
from model.files import write_atomically, write_json


class RunFolder:
    """Reads and writes a run's files.

    Args:
        path: The folder; `create` makes it.
        dtype: Format of the kernels in `best.safetensors`.
    """

    def __init__(self, path: Path, *, dtype: torch.dtype = torch.bfloat16) -> None:
        self.path = path
        self.best = path / "best.safetensors"
        self.last = path / "last.pt"
        self.config = path / "config.json"
        self.metrics = path / "metrics.jsonl"
        self._files = (self.best, self.last, self.config, self.metrics)
        self._dtype = dtype

    def refuse_run(self) -> None:
        """Raise UsageError if the folder already holds a run."""
        if self.config.exists():
            raise UsageError(
                f"{self.path} already holds a run: continue it with --resume, or give another --out"
            )

    def create(self, config: dict[str, Any]) -> None:
        """Make the folder and write `config.json`.

        Raises:
            UsageError: If the folder already holds a run.
            OSError: If it cannot be made.
        """
        self.refuse_run()
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.config, config)

    def forget_start(self) -> None:
        """Undo `create`, unless a state was saved since: the next start has other arguments."""
        if not self.last.exists():
            self.config.unlink(missing_ok=True)

    def clear_leftovers(self) -> None:
        """Remove files that a killed process was still writing."""
        for path in self.path.glob(".*"):
            if path.name.startswith(tuple(f".{kept.name}." for kept in self._files)):
                path.unlink()

    def read_config(self) -> dict[str, Any]:
        """Return what `create` wrote.

        Raises:
            UsageError: If there is no run here.
        """
        if not self.config.is_file():
            raise UsageError(f"{self.path} holds no run: there is no {self.config.name}")
        try:
            values: dict[str, Any] = json.loads(self.config.read_text())
        except ValueError as error:
            raise UsageError(f"{self.config}: damaged: {error}") from None
        return values

    def save_best(self, net: FCN, card: Card, line: dict[str, Any]) -> None:
        """Write `best.safetensors`, its card completed by the epoch's figures."""
        training = {**card.training, "epoch": line["epoch"], "val": line["val"]}
        save_checkpoint(
            self.best, net, dataclasses.replace(card, training=training), dtype=self._dtype
        )

    def save_state(self, state: dict[str, Any]) -> None:
        """Write `last.pt`.

        Raises:
            OSError: If it cannot be written; the one before it is still there then.
        """

        def write(path: Path) -> None:
            try:
                torch.save(state, path)
            except RuntimeError as error:  # how torch reports a full disk
                raise OSError(errno.EIO, f"cannot be written: {error}", str(self.last)) from error

        write_atomically(self.last, write)

    def load_state(self) -> dict[str, Any] | None:
        """Return what `save_state` wrote last, or None if the run had not come that far.

        Raises:
            UsageError: If the file is damaged.
        """
        if not self.last.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(self.last, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises what its many readers raise
            raise UsageError(
                f"{self.last}: damaged, so this run cannot go on; "
                f"{self.best.name} can still be used, also with --init-from"
            ) from error
        return state

    def save_history(self, history: list[dict[str, Any]]) -> None:
        """Write `metrics.jsonl`, a line an epoch."""
        text = "".join(json.dumps(line) + "\n" for line in history)
        write_atomically(self.metrics, lambda path: path.write_text(text))
