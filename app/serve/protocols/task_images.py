"""Where the image of a Label Studio task comes from. Nothing is fetched over the network.

A task names its image by a URL, and whoever may post tasks could name any: a server that fetched it
would look into its own network for them. So only what the task holds itself is taken, and files
below one directory that whoever runs the server has opened.
"""

import os
import stat
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import parse_qs, urlsplit

from app.serve.protocols.errors import UnreachableImageError

_LOCAL_FILES: Final = "/data/local-files"
"""Path of Label Studio's URLs of files in its local storage; `d` is their path below its root."""


def is_data_uri(source: str) -> bool:
    """Whether an image is given itself."""
    return source[:5].lower() == "data:"


class LocalFile(NamedTuple):
    """A file of the local storage.

    Attributes:
        path: Where it is, every link followed.
        size: In bytes, when it was found.
    """

    path: Path
    size: int


def find_local_file(source: str, root: Path | None) -> LocalFile:
    """Find the file that a URL of Label Studio's local storage names; blocking.

    Args:
        source: `/data/local-files/?d=path`, with or without a host, which plays no role.
        root: The directory that Label Studio's local storage begins at; None if none was opened.

    Raises:
        UnreachableImageError: If it is no such URL, or there is no such file below the root.
    """
    shown = source[:100]
    try:
        parts = urlsplit(source)
    except ValueError:
        parts = urlsplit("")
    if parts.path.rstrip("/") != _LOCAL_FILES:
        raise UnreachableImageError(
            f"{shown!r} would have to be fetched, and this server fetches nothing; give the image "
            f"as a data URI, or keep it in Label Studio's local storage ({_LOCAL_FILES}/?d=...)."
        )
    if root is None:
        raise UnreachableImageError(
            f"{shown!r} lies in Label Studio's local storage; set FCN_LABEL_STUDIO_FILES to that "
            "directory to let this server read it."
        )
    missing = UnreachableImageError(f"{shown!r}: there is no such file in FCN_LABEL_STUDIO_FILES.")
    names = parse_qs(parts.query).get("d", [])
    if len(names) != 1:
        raise missing
    try:
        # With every link followed: one may lead out of the directory as well as `..` can.
        path = (root / names[0].lstrip("/")).resolve(strict=True)
        status = path.stat()
    except (OSError, ValueError, RuntimeError):  # not there, a zero byte, a circle of links
        raise missing from None
    if not path.is_relative_to(root.resolve()) or not stat.S_ISREG(status.st_mode):
        raise missing
    return LocalFile(path, status.st_size)


def read_file(found: LocalFile) -> bytes:
    """Read a file that `find_local_file` found; blocking.

    Raises:
        UnreachableImageError: If it is gone, has grown, or has become something else.
    """
    path = found.path
    try:
        # Not blocking, not a link: it may have been replaced since it was looked at.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UnreachableImageError(f"{path.name} is no file.")
            data = file.read(found.size + 1)
    except OSError as error:
        raise UnreachableImageError(f"{path.name} cannot be read: {error.strerror}.") from None
    if len(data) > found.size:
        raise UnreachableImageError(f"{path.name} grows while it is read.")
    return data
