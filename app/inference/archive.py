"""Zip files of what is compressed already, the same for the same content."""

import io
import zipfile
from collections.abc import Iterable
from typing import Final

_EARLIEST: Final = (1980, 1, 1, 0, 0, 0)
"""The first moment a zip can note: with the real one, equal masks would not give equal bytes."""

_UNIX: Final = 3
_READABLE_FILE: Final = 0o100644 << 16


def stored_zip(entries: Iterable[tuple[str, bytes]]) -> bytes:
    """Return a zip of files, uncompressed, in the order given.

    Args:
        entries: Path inside the archive and content of each; asked for one after another, so that
            a content can be let go of once it is written.
    """
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in entries:
            entry = zipfile.ZipInfo(name, _EARLIEST)
            # The rest would otherwise depend on the machine.
            entry.compress_type = zipfile.ZIP_STORED
            entry.create_system = _UNIX
            entry.external_attr = _READABLE_FILE
            file.writestr(entry, content)
    return archive.getvalue()  # no copy: it is the buffer itself, cut to its length
