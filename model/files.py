"""Files that are whole or not there, and what tells them apart."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

_MOST_PREFIX: Final = 200
"""Bytes of a file's name in that of its temporary file: file systems take 255, with what mkstemp
appends."""


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a new file beside `path`, then put it in its place.

    A reader, and a crash at any moment, sees the old file or the new one.

    Raises:
        OSError: If the file cannot be written; nothing is left behind then. Of a full disk the
            system names no file; the error names `path`.
    """
    prefix = f".{os.fsdecode(os.fsencode(path.name)[:_MOST_PREFIX])}."
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would keep a server of another user out
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        # Libraries raise an OSError of mere words, too: that has no number and stays what it is.
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically.

    Raises:
        OSError: As `write_atomically`.
    """
    write_atomically(path, lambda temporary: temporary.write_bytes(data))


def write_json(path: Path, values: Any) -> None:
    """Write JSON values for people and programs to read, atomically.

    Raises:
        OSError: As `write_atomically`.
    """
    write_bytes(path, (json.dumps(values, indent=2) + "\n").encode())


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex.

    Raises:
        OSError: If it cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
