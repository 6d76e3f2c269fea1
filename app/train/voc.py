"""PASCAL VOC and SBD, as torchvision's readers list and lay them out, and how they are fetched.

Both share one folder: VOC 2012 in `VOCdevkit/VOC2012`, VOC 2011 in `TrainVal/VOCdevkit/VOC2011`,
SBD in `img`, `cls` and its lists beside them. SBD labels photos of VOC 2011 that VOC itself has
only boxes for; its masks have the same classes and no void.
"""

import contextlib
import http.client
import io
import os
import struct
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat
from torchvision.datasets import SBDataset, VOCSegmentation
from torchvision.datasets.utils import check_integrity, download_url, extract_archive
from torchvision.datasets.voc import DATASET_YEAR_DICT

from app.errors import UsageError

SEG11VALID: Final = "seg11valid"
"""What the paper validates on: VOC 2011's val photos that SBD does not train on, 736 of them.

Derived from the two lists, as the authors did. Photos and masks are those of VOC 2011.
"""
VOC_SPLITS: Final = ("train", "val", "trainval", SEG11VALID)
SBD_SPLITS: Final = ("train", "val", "train_noval", SEG11VALID)

SBD_PARTS: Final = ("img", "cls", "train.txt", "val.txt")
"""What of SBD is read; its archive also holds instances, `inst`."""

MI_COMPRESSED: Final = 15
"""Type of the compressed elements of a MATLAB 5 file."""

Pairs = list[tuple[Path, Path]]
"""(photo, label file) by sample."""


def voc_pairs(data: Path, split: str, *, download: bool = False) -> Pairs:
    """Return the photos and palette masks of a split of VOC 2012, or of `seg11valid`.

    Args:
        data: The folder that holds VOC and SBD.
        split: One of `VOC_SPLITS`.
        download: Whether to fetch what is missing.

    Raises:
        UsageError: If something is missing or cannot be fetched.
    """
    if split == SEG11VALID:
        return _seg11valid(data, download)
    return _voc(data, "2012", split, download)


def sbd_pairs(data: Path, split: str, *, download: bool = False) -> Pairs:
    """Return the photos and `.mat` masks of a split of SBD, or `seg11valid` with VOC's masks.

    Args:
        data: The folder that holds VOC and SBD.
        split: One of `SBD_SPLITS`; `train_noval` leaves out what VOC 2012 validates on.
        download: Whether to fetch what is missing.

    Raises:
        UsageError: If something is missing or cannot be fetched.
    """
    if split == SEG11VALID:
        return _seg11valid(data, download)
    _require_sbd(data, SBD_PARTS, download)
    listing = data / f"{split}.txt"
    if not listing.exists():  # train_noval is not in the archive but a file of its own
        if not download:
            raise UsageError(f"{listing}: no such file; --download fetches it")
        url, md5 = SBDataset.voc_train_url, SBDataset.voc_split_md5
        _download(data, url, SBDataset.voc_split_filename, md5)
    return _whole(listing, lambda: SBDataset(data, split, mode="segmentation"))


def read_segmentation(path: Path) -> NDArray[np.uint8]:
    """Return the label map in an SBD `.mat` file, HxW: `GTcls.Segmentation`.

    Raises:
        UsageError: If the file is damaged or holds something else.
    """
    try:
        file = path.read_bytes()
        _check_sums(file)
        label = loadmat(io.BytesIO(file), variable_names=["GTcls"])["GTcls"][0]["Segmentation"][0]
    except Exception as error:  # scipy raises what the first wrong byte happens to lead to
        raise UsageError(f"{path}: cannot be read as one of SBD's masks: {error!r}") from error
    if not isinstance(label, np.ndarray) or label.dtype != np.uint8 or label.ndim != 2:
        raise UsageError(f"{path}: GTcls.Segmentation is no 8-bit label map")
    return label


def _check_sums(file: bytes) -> None:
    """Check the zlib sums in a MATLAB 5 file, for scipy's reader may crash on wrong bytes.

    The format is MathWorks' "MAT-File Format": after 128 bytes of header come elements of type
    and size, 32 bits each in the byte order that the header ends with, and data.
    """
    order = {b"IM": "<", b"MI": ">"}.get(file[126:128])
    if order is None:
        raise ValueError("not a MATLAB 5 file")
    start = 128
    while start < len(file):
        kind, size = struct.unpack_from(f"{order}II", file, start)
        start += 8
        if kind == MI_COMPRESSED:
            zlib.decompress(file[start : start + size])
        start += size


def _seg11valid(data: Path, download: bool) -> Pairs:
    pairs = _voc(data, "2011", "val", download)
    _require_sbd(data, ("train.txt",), download)
    listing = data / "train.txt"
    trained_on = _listed(listing, lambda: SBDataset(data, "train")).images
    stems = {Path(photo).stem for photo in trained_on}
    kept = [(photo, label) for photo, label in pairs if photo.stem not in stems]
    if not kept:
        raise UsageError(f"{listing}: lists every val photo of VOC 2011, so {SEG11VALID} is empty")
    return kept


def _voc(data: Path, year: str, split: str, download: bool) -> Pairs:
    source = DATASET_YEAR_DICT[year]
    inside = source["base_dir"]
    folder = data / inside
    if not folder.is_dir():
        if not download:
            raise UsageError(f"{folder}: no such folder; --download fetches VOC {year}")
        archive = _download(data, source["url"], source["filename"], source["md5"])
        _unpack(archive, {inside: inside})
    listing = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
    return _whole(listing, lambda: VOCSegmentation(data, year, split))


def _require_sbd(data: Path, parts: tuple[str, ...], download: bool) -> None:
    missing = [part for part in parts if not (data / part).exists()]
    if not missing:
        return
    if not download:
        raise UsageError(f"{data / missing[0]}: not there; --download fetches SBD")
    places = {f"benchmark_RELEASE/dataset/{part}": part for part in ("inst", *SBD_PARTS)}
    for part in places.values():
        if (data / part).exists():
            raise UsageError(
                f"{data / part} is there, {data / missing[0]} is not: remove what is left of SBD "
                "before --download fetches all of it"
            )
    archive = _download(data, SBDataset.url, SBDataset.filename, SBDataset.md5)
    _unpack(archive, places)


def _listed(listing: Path, read: Callable[[], Any]) -> Any:
    """Return a torchvision dataset, which holds the paths of the photos and masks in a list.

    Raises:
        UsageError: If the list cannot be read.
    """
    try:
        return read()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{listing}: cannot be read as a list of photos: {error}") from None


def _whole(listing: Path, read: Callable[[], Any]) -> Pairs:
    """Return the pairs of a torchvision dataset after a look that every file is there."""
    dataset = _listed(listing, read)
    pairs = [
        (Path(image), Path(mask)) for image, mask in zip(dataset.images, dataset.masks, strict=True)
    ]
    if not pairs:
        raise UsageError(f"{listing}: lists no photos")
    for path in (path for pair in pairs for path in pair):
        if not path.is_file():
            raise UsageError(
                f"{path}: no such file, though {listing} lists it; where more is missing, remove "
                "the dataset's folders and fetch them again with --download"
            )
    return pairs


def _download(data: Path, url: str, filename: str, md5: str) -> Path:
    """Fetch a file into `data` unless it is there, and return where; it is whole or not there.

    Raises:
        UsageError: If it cannot be fetched or has another checksum.
    """
    file = data / filename
    # torchvision redraws a percentage for every 32 KiB: good on a terminal, not in a log.
    on_terminal = sys.stderr.isatty()
    bar = contextlib.nullcontext() if on_terminal else contextlib.redirect_stderr(io.StringIO())
    with _one_line(f"{url}: cannot be fetched to {data}"), _beside(file) as folder:
        if not check_integrity(file, md5):
            print(f"fetching {url} to {data}", flush=True)
            with bar:
                download_url(url, folder, filename, md5)
            os.replace(folder / filename, file)
    return file


def _unpack(archive: Path, places: Mapping[str, str]) -> None:
    """Unpack an archive's parts into their places beside it, each whole or not there.

    torchvision's `download=True` unpacks in place, where a full disk or Ctrl-C leaves half a
    dataset that looks like a whole one.

    Args:
        archive: It stays, as torchvision leaves it, so that nothing has to be fetched twice.
        places: Path in the archive -> path beside the archive, in the order they are moved.

    Raises:
        UsageError: If it cannot be unpacked.
    """
    with _one_line(f"{archive}: cannot be unpacked"), _beside(archive) as folder:
        print(f"unpacking {archive}", flush=True)
        extract_archive(archive, folder)
        for inside, place in places.items():
            target = archive.parent / place
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(folder / inside, target)


@contextlib.contextmanager
def _beside(file: Path) -> Iterator[Path]:
    """Make a folder on the same disk as a file, gone with all that is in it afterwards."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}.") as folder:
        yield Path(folder)


@contextlib.contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Turn what network, checksum, disk and archive raise into one line."""
    try:
        yield
    except (
        OSError,  # also urllib's errors and time-outs
        RuntimeError,  # torchvision's for a wrong checksum
        http.client.HTTPException,
        tarfile.TarError,
        zlib.error,
        EOFError,
    ) as error:
        raise UsageError(f"{what}: {error}") from error
