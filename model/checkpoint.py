"""Checkpoints: one safetensors file holds the weights and everything needed to use them.

The file's metadata has one entry, `fcn`: a JSON object with the format version and the card
below. (One entry, because safetensors writes several in random order, and equal networks should
make equal files.) Nothing here can run code from a file: a stranger's checkpoint is only data.
"""

import dataclasses
import errno
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from model.classes import MAX_CLASSES, ClassInfo
from model.fcn import FCN, Architecture
from model.files import write_atomically

FORMAT_VERSION: Final = 1
"""Raised when a reader of today could misread a file of tomorrow."""


NAME_PATTERN: Final = re.compile(r"[\w.:+-]{1,128}", re.ASCII)
"""Model names go into an HTTP header and into metrics."""


SHOWN_MISFITS: Final = 5
"""How many tensors that do not fit a message lists."""


class CheckpointError(ValueError):
    """A file is not a checkpoint that this version can use; the message is one line."""


@dataclass(frozen=True)
class Card:
    """What a checkpoint says of itself.

    Attributes:
        name: Short name for people and for the `X-Model` header.
        architecture: Which network the tensors belong to.
        classes: Names and colours in index order.
        training: How it was trained and its validation metrics; JSON values only.
        temperature: What logits are divided by where they become probabilities, positive; masks
            do not depend on it. 1 for networks that were never calibrated.
        scale: What the sides of a photo are multiplied by before the network sees it, unless asked
            otherwise: that at which it was trained. Positive.
    """

    name: str
    architecture: Architecture
    classes: tuple[ClassInfo, ...]
    training: dict[str, Any] = field(default_factory=dict)
    temperature: float = 1.0
    scale: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """Return the card as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Card":
        """Build a card from what `to_json` gave.

        Raises:
            CheckpointError: If an entry is missing, unknown or of the wrong kind.
        """
        try:
            classes = tuple(_class_info(entry) for entry in values["classes"])
            architecture = Architecture(**values["architecture"])
            name = values["name"]
            training = values.get("training", {})
            temperature = _positive("temperature", values.get("temperature", 1.0))
            scale = _positive("scale", values.get("scale", 1.0))
        except KeyError as error:
            raise CheckpointError(f"its metadata lacks {error}") from None
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"its metadata is wrong: {error}") from None
        if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name):
            raise CheckpointError(f"its metadata is wrong: {name!r} is no model name")
        if not isinstance(training, dict):
            raise CheckpointError("its metadata is wrong: training is not an object")
        if not 1 <= len(classes) <= MAX_CLASSES:
            raise CheckpointError(f"it has {len(classes)} classes; 1 to {MAX_CLASSES} are possible")
        if len({info.name for info in classes}) < len(classes):
            raise CheckpointError("two of its classes have the same name")
        return cls(name, architecture, classes, training, temperature, scale)


def _class_info(entry: dict[str, Any]) -> ClassInfo:
    name, color = entry["name"], tuple(entry["color"])
    if not isinstance(name, str) or not name:
        raise ValueError(f"{name!r} is no class name")
    if len(color) != 3 or not all(isinstance(v, int) and 0 <= v <= 255 for v in color):
        raise ValueError(f"{list(color)} is no colour")
    return ClassInfo(name, color)


def _positive(what: str, value: Any) -> float:
    # JSON knows no NaN; Python's reader does, and whole numbers that no float can hold.
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and 0 < value <= sys.float_info.max):
        raise ValueError(f"{value!r:.40} is no {what}, which is a positive number")
    return float(value)


def save_checkpoint(
    path: Path | str, net: FCN, card: Card, *, dtype: torch.dtype = torch.float32
) -> None:
    """Write a checkpoint; a reader sees the old file or the new one, never half of either.

    Args:
        path: Where to, conventionally ending in `.safetensors`.
        net: The network; on any device.
        card: Must describe `net`.
        dtype: Format of the convolutions' kernels. `torch.bfloat16` halves the file. Biases,
            batch norm statistics and deconvolutions always keep 32 bits: they are small, and
            inference uses them in 32 bits.

    Raises:
        OSError: If the file cannot be written; nothing is left behind then.
    """
    path = Path(path)
    tensors = {}
    for name, tensor in net.state_dict().items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.is_floating_point():
            kernel = tensor.dim() == 4 and not name.startswith("upscore")
            tensor = tensor.to(dtype if kernel else torch.float32)
        tensors[name] = tensor
    values = {"format_version": FORMAT_VERSION, **card.to_json()}
    values["input"] = {
        "channel_order": "RGB",
        "range": [0, 255],
        "mean": net.mean.flatten().tolist(),
        "std": net.std.flatten().tolist(),
    }
    _write(path, tensors, values)


def save_with_card(source: Path | str, path: Path | str, card: Card) -> None:
    """Write the tensors of one checkpoint, bit for bit as it stores them, with another card.

    Args:
        source: The checkpoint.
        path: Where to; may be `source` itself.
        card: Must describe the same network.

    Raises:
        CheckpointError: If `source` is no checkpoint; the message begins with its path.
        OSError: If a file cannot be read or written; nothing is left behind then.
    """
    stored = _read(Path(source))
    with _told_with_path(Path(source)):
        values, _ = _read_card(stored.metadata)
    _write(Path(path), stored.tensors, {**values, **card.to_json()})


def _write(path: Path, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    metadata = {"fcn": json.dumps(values)}

    def write(temporary: Path) -> None:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:  # how safetensors reports a full disk
            raise OSError(errno.EIO, f"cannot be written: {error}", str(path)) from error

    write_atomically(path, write)


def load_checkpoint(path: Path | str) -> tuple[FCN, Card]:
    """Read a checkpoint: `load_versioned` without the version."""
    net, card, _ = load_versioned(path)
    return net, card


def load_versioned(path: Path | str) -> tuple[FCN, Card, str]:
    """Read a checkpoint into a network with fp32 weights on the CPU, in evaluation mode.

    The file is read once, into memory of this process: whatever is done to it later, also while
    the network is in use, changes nothing. A network needs twice the size of its fp32 weights
    while it is read, and that of its fp32 weights once it is.

    The network is laid out without memory first and held against the file, so a file that
    asks for absurd sizes is refused before they are allocated.

    Returns:
        Network, card, and the SHA-256 of the very bytes that they come from, in hex.

    Raises:
        CheckpointError: If the file is damaged, truncated, of a newer format, was written to
            meanwhile, or its tensors do not fit its architecture; the message begins with the
            path and names what is wrong.
        OSError: If the file cannot be read at all.
    """
    path = Path(path)
    stored = _read(path)
    with _told_with_path(path):
        _, card = _read_card(stored.metadata)
        with torch.device("meta"):
            net = FCN(card.architecture, len(card.classes))
        tensors = stored.tensors
        _check_shapes(net, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
        for name, expected in net.state_dict().items():
            # One at a time: 16-bit kernels go as their 32-bit copies come.
            tensors[name] = _restore(name, tensors[name], expected.dtype)
    net.load_state_dict(tensors, assign=True)
    return net.eval().requires_grad_(False), card, stored.digest


class _Stored(NamedTuple):
    """What a safetensors file holds.

    Attributes:
        metadata: Its free entries.
        tensors: By name, as they are stored; in memory of their own.
        digest: SHA-256 of the file, in hex.
    """

    metadata: dict[str, str]
    tensors: dict[str, Tensor]
    digest: str


def _read(path: Path) -> _Stored:
    """Read a safetensors file, once.

    safetensors' own reader maps the file: it would follow what is written to it, and the process
    would die of SIGBUS if it were cut short.
    """
    with open(path, "rb") as file:
        before = os.fstat(file.fileno())
        data = file.read()
        after = os.fstat(file.fileno())
    with _told_with_path(path):
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise CheckpointError("was written to while it was read")
        try:
            tensors = load(data)
        except SafetensorError as error:
            raise CheckpointError(f"not a safetensors file, or damaged: {error}") from None
        except KeyError as error:  # a number format that safetensors knows and torch does not
            raise CheckpointError(f"holds numbers of an unknown format, {error}") from None
    # The layout of the file: the header's length in 8 bytes, the header, the tensors. `load`
    # has checked it, but keeps the metadata to itself.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return _Stored(header.get("__metadata__") or {}, tensors, hashlib.sha256(data).hexdigest())


@contextmanager
def _told_with_path(path: Path) -> Iterator[None]:
    """Let what is wrong with a checkpoint begin with its path."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _read_card(metadata: Mapping[str, str]) -> tuple[dict[str, Any], Card]:
    """Return the entry of a checkpoint's metadata, as it is stored and as a card."""
    if "fcn" not in metadata:
        raise CheckpointError("a safetensors file, but not a checkpoint of this project")
    try:
        values = json.loads(metadata["fcn"])
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise CheckpointError("its metadata is not a JSON object")
    version = values.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise CheckpointError(f"its format version {version!r} is no number from 1 up")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"its format version is {version}, this program reads up to {FORMAT_VERSION}: update it"
        )
    return values, Card.from_json(values)


def _check_shapes(net: FCN, found: dict[str, tuple[int, ...]]) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    if problems := misfits(expected, found):
        raise CheckpointError(f"its tensors do not fit its architecture: {problems}")


def misfits(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> str:
    """Name the tensors that are missing, unknown or of another shape; empty if there are none.

    Args:
        expected: Shapes by name.
        found: The same of a file.
    """
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is unknown" for name in found if name not in expected]
    problems += [
        f"{name} is {list(found[name])}, not {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    more = f"; and {len(problems) - SHOWN_MISFITS} more" if len(problems) > SHOWN_MISFITS else ""
    return "; ".join(problems[:SHOWN_MISFITS]) + more


def _restore(name: str, tensor: Tensor, expected: torch.dtype) -> Tensor:
    if tensor.is_floating_point() != expected.is_floating_point:
        raise CheckpointError(f"{name} holds {tensor.dtype}, not {expected}")
    return tensor.to(expected)
