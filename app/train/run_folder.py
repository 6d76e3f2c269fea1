"""The folder of one training run; every file in it is whole at any moment."""

import dataclasses
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from app.cli import UsageError
from model import FCN, Card, save_checkpoint


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
        self._dtype = dtype

    def create(self, config: dict[str, Any]) -> None:
        """Make the folder and write `config.json`.

        Raises:
            UsageError: If the folder already holds a run.
            OSError: If it cannot be made.
        """
        if self.config.exists():
            raise UsageError(
                f"{self.path} already holds a run: continue it with --resume, or give another --out"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        text = json.dumps(config, indent=2) + "\n"
        _write_atomically(self.config, lambda path: path.write_text(text))

    def read_config(self) -> dict[str, Any]:
        """Return what `create` wrote.

        Raises:
            UsageError: If there is no run here.
        """
        if not self.config.is_file():
            raise UsageError(f"{self.path} holds no run: there is no {self.config.name}")
        values: dict[str, Any] = json.loads(self.config.read_text())
        return values

    def save_best(self, net: FCN, card: Card, line: dict[str, Any]) -> None:
        """Write `best.safetensors`, its card completed by the epoch's figures."""
        training = {**card.training, "epoch": line["epoch"], "val": line["val"]}
        save_checkpoint(
            self.best, net, dataclasses.replace(card, training=training), dtype=self._dtype
        )

    def save_state(self, state: dict[str, Any]) -> None:
        """Write `last.pt`."""
        _write_atomically(self.last, lambda path: torch.save(state, path))

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
            raise UsageError(f"{self.last}: cannot be read: {error}") from error
        return state

    def save_history(self, history: list[dict[str, Any]]) -> None:
        """Write `metrics.jsonl`, a line an epoch."""
        text = "".join(json.dumps(line) + "\n" for line in history)
        _write_atomically(self.metrics, lambda path: path.write_text(text))


def _write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a new file beside `path`, then put it in its place."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
