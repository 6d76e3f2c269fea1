"""Files that are whole or not there."""

import contextlib
import os
import tempfile
from pathlib import Path


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file; a reader, and a crash at any moment, sees the old one or the new one.

    `model.files` does the same for what imports torch anyway.

    Raises:
        OSError: If the file cannot be written; nothing is left behind then. Of a full disk the
            system names no file; the error names `path`.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    try:
        with open(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would keep other users from reading it
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):  # Ctrl-C just after the replacement
            os.unlink(temporary)
        if isinstance(error, OSError) and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
