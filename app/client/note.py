"""A note among masks of what they were asked for with.

Formats share suffixes, and no mask tells its scale or its classes: without the note, a run with
other parameters would take the masks of an earlier one for its own and leave them as they are.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from app.client.files import write_bytes
from app.client.plan import FolderError, suffix_of


class Note:
    """What the masks of one suffix in a folder, and below it, were asked for with.

    It is a file in that folder, without a suffix, so that no mask has its name, and hidden, so that
    who looks at the masks does not find it. `{}` stands for masks that were not all made alike.
    Masks without a note are taken for what they ought to be.

    Args:
        out: Folder of the masks; need not exist.
        parameters: Query of `POST /segment` that masks are asked for with now.
        photos: What is no mask, though it may lie there and have the suffix.
        overwrite: Whether masks that were made with other parameters may be there.

    Raises:
        FolderError: If there are such masks and they may not, or the note is damaged.
        OSError: If the note cannot be read.
    """

    def __init__(
        self, out: Path, parameters: Mapping[str, str], photos: Collection[Path], *, overwrite: bool
    ) -> None:
        suffix = suffix_of(parameters["format"])
        self._path = out / f".fcn-segment-{suffix[1:]}"
        self._parameters = dict(parameters)
        self._noted = _read(self._path)
        self._others: set[Path] = set()
        if self._noted is not None and self._noted != self._parameters:
            self._others.update(path.resolve() for path in out.rglob(f"*{suffix}"))
            self._others.difference_update(path.resolve() for path in photos)
        if self._others and not overwrite:
            raise FolderError(
                f"{out}: {self._difference()}; overwrite them or give another output folder"
            )

    def keep(self) -> None:
        """Write the note, unless it says already what is true; to be done before the first mask.

        Raises:
            OSError: If it cannot be written.
        """
        true = {} if self._others else self._parameters
        if true != self._noted:
            write_bytes(self._path, (json.dumps(true, indent=2) + "\n").encode())
            self._noted = true

    def made(self, mask: Path) -> None:
        """Take notice of a mask that was written.

        Raises:
            OSError: If the note cannot be written.
        """
        self._others.discard(mask.resolve())
        self.keep()

    def _difference(self) -> str:
        now = _words(self._parameters)
        if not self._noted:
            return f"not all masks there were made with {now}"
        return f"the masks there were made with {_words(self._noted)}, not with {now}"


def _read(path: Path) -> dict[str, str] | None:
    try:
        noted = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        noted = None
    if not isinstance(noted, dict):
        raise FolderError(f"{path} is damaged; delete it if all masks there were made alike")
    return noted


def _words(parameters: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in parameters.items())
