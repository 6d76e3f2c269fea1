"""Folders of photos -> which mask goes where."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PHOTO_SUFFIXES: Final = frozenset(
    [".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"]
)
"""Of files that are taken for photos; case does not count."""

SUFFIXES: Final = {
    "rle": ".json",
    "zip": ".zip",
    "polygons": ".geojson",
    "coco": ".json",
    "cvat": ".zip",
    "probabilities": ".npz",
}
"""Format -> suffix of its files, of everything that is no PNG."""


class FolderError(ValueError):
    """The folders cannot be what is meant; the message is one line that says what and where."""


@dataclass(frozen=True)
class Job:
    """A photo and the file that its mask goes to."""

    photo: Path
    output: Path


def suffix_of(format: str) -> str:
    """Return the suffix of a format's files."""
    return SUFFIXES.get(format, ".png")


def plan(sources: Sequence[Path], out: Path, format: str) -> list[Job]:
    """Return what is to be segmented and where the masks go, in order of the names.

    A mask has its photo's name with the suffix of the format, and its place below the folder. Where
    photos would differ in their suffix only, masks keep it too: `a.jpg` and `a.tif` give
    `a.jpg.png` and `a.tif.png`.

    Args:
        sources: Folders, looked through with their subfolders, and image files.
        out: Folder for the masks; not looked through.
        format: Of the masks.

    Raises:
        FolderError: If there are no photos, or a mask would overwrite a photo or another mask.
        OSError: If a folder cannot be read or a file is missing.
    """
    photos = [found for source in sources for found in _photos(source, out)]
    if not photos:
        raise FolderError(
            f"{', '.join(map(str, sources))}: no photos; their names end in "
            f"{', '.join(sorted(PHOTO_SUFFIXES))}"
        )
    suffix = suffix_of(format)
    # Not every file system tells A from a.
    stems = Counter(str(place.with_suffix("")).casefold() for _, place in photos)
    jobs: dict[str, Job] = {}
    for photo, place in photos:
        shared = stems[str(place.with_suffix("")).casefold()] > 1
        output = out / place.with_name((place.name if shared else place.stem) + suffix)
        other = jobs.setdefault(str(output).casefold(), Job(photo, output))
        if other.photo != photo:
            raise FolderError(f"{photo} and {other.photo} would both be written to {output}")
        if output.resolve() == photo.resolve():
            raise FolderError(
                f"{photo} would be overwritten by its own mask; give another output folder"
            )
    return list(jobs.values())


def _photos(source: Path, out: Path) -> Iterator[tuple[Path, Path]]:
    """Yield each photo with its place below the source."""
    if not source.is_dir():
        source.stat()  # raises what the caller expects of a missing file
        yield source, Path(source.name)
        return
    results = out.resolve()
    if source.resolve() == results:
        raise FolderError(f"{source}: masks would lie among the photos; give another output folder")
    for folder, subfolders, files in os.walk(source, onerror=_fail):
        here = Path(folder)
        subfolders[:] = sorted(
            name for name in subfolders if name[0] != "." and (here / name).resolve() != results
        )
        for name in sorted(files):
            if name[0] != "." and Path(name).suffix.lower() in PHOTO_SUFFIXES:
                yield here / name, (here / name).relative_to(source)


def _fail(error: OSError) -> None:
    raise error
