"""VOC and SBD: trees of a few photos, laid out as torchvision lays them out."""

import errno
import hashlib
import json
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import SBDataset
from torchvision.datasets.voc import DATASET_YEAR_DICT

from app.errors import UsageError
from app.train import voc
from app.train.__main__ import main, train
from app.train.datasets import class_pixels, load_sample, open_dataset
from model import VOID, load_checkpoint
from model.class_lists import VOC_CLASSES
from model.classes import voc_colormap

SIZE = (24, 40)
VOC_2012 = {"train": ["a", "b"], "val": ["c"], "trainval": ["a", "b", "c"]}
VOC_2011 = {"train": ["a"], "val": ["c", "d", "e"]}
SBD = {"train": ["d", "f", "g"], "val": ["h"]}
TRAIN_NOVAL = ["f", "g"]


def save_photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.stem)).integers(0, 256, (*SIZE, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def label_map(stem: str) -> np.ndarray:
    label = np.zeros(SIZE, np.uint8)
    label[4:12] = 1 + ord(stem) % 20
    return label


def save_lists(folder: Path, lists: Mapping[str, Sequence[str]]) -> list[str]:
    """Write the lists and return the stems in any of them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, stems in lists.items():
        (folder / f"{name}.txt").write_text("".join(f"{stem}\n" for stem in stems))
    return sorted({stem for stems in lists.values() for stem in stems})


def make_voc(folder: Path, lists: Mapping[str, Sequence[str]]) -> None:
    (folder / "SegmentationClass").mkdir(parents=True)
    for stem in save_lists(folder / "ImageSets" / "Segmentation", lists):
        save_photo(folder / "JPEGImages" / f"{stem}.jpg")
        label = label_map(stem)
        label[3] = VOID
        mask = Image.fromarray(label, mode="P")
        mask.putpalette([value for color in voc_colormap(256) for value in color])
        mask.save(folder / "SegmentationClass" / f"{stem}.png")


def save_mat(path: Path, label: np.ndarray) -> None:
    """Write what SBD's files hold of use here: a struct GTcls with a field Segmentation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"GTcls": {"Segmentation": label}}, do_compression=True)


def make_sbd(folder: Path) -> None:
    (folder / "inst").mkdir(parents=True)
    for stem in save_lists(folder, SBD):
        save_photo(folder / "img" / f"{stem}.jpg")
        save_mat(folder / "cls" / f"{stem}.mat", label_map(stem))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with VOC 2012, VOC 2011 and SBD."""
    root = tmp_path / "data"
    make_voc(root / "VOCdevkit" / "VOC2012", VOC_2012)
    make_voc(root / "TrainVal" / "VOCdevkit" / "VOC2011", VOC_2011)
    make_sbd(root)
    save_lists(root, {"train_noval": TRAIN_NOVAL})
    return root


@dataclass
class Mirror:
    """A server on this machine that torchvision takes for the official sites."""

    folder: Path
    requests: list[str]


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    root = tmp_path / "mirror"
    requests: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            requests.append(self.path.removeprefix("/"))

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(root)))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    make_voc(root / "VOCdevkit" / "VOC2012", VOC_2012)
    make_voc(root / "TrainVal" / "VOCdevkit" / "VOC2011", VOC_2011)
    make_sbd(root / "benchmark_RELEASE" / "dataset")
    save_lists(root, {"train_noval": TRAIN_NOVAL})

    def pack(filename: str, folder: str) -> tuple[str, str]:
        with tarfile.open(root / filename, "w:gz" if filename.endswith("gz") else "w") as archive:
            archive.add(root / folder, folder)
        return address(filename)

    def address(filename: str) -> tuple[str, str]:
        url = f"http://127.0.0.1:{server.server_port}/{filename}"
        return url, hashlib.md5((root / filename).read_bytes()).hexdigest()

    for year, folder in (("2012", "VOCdevkit"), ("2011", "TrainVal")):
        source = DATASET_YEAR_DICT[year]
        url, md5 = pack(source["filename"], folder)
        monkeypatch.setitem(DATASET_YEAR_DICT, year, {**source, "url": url, "md5": md5})
    url, md5 = pack(SBDataset.filename, "benchmark_RELEASE")
    monkeypatch.setattr(SBDataset, "url", url)
    monkeypatch.setattr(SBDataset, "md5", md5)
    url, md5 = address("train_noval.txt")
    monkeypatch.setattr(SBDataset, "voc_train_url", url)
    monkeypatch.setattr(SBDataset, "voc_split_md5", md5)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield Mirror(root, requests)
    server.shutdown()
    thread.join()
    server.server_close()


EVERY_SPLIT = [
    ("voc", "train", ["a", "b"]),
    ("voc", "val", ["c"]),
    ("voc", "trainval", ["a", "b", "c"]),
    ("voc", "seg11valid", ["c", "e"]),
    ("sbd", "train", ["d", "f", "g"]),
    ("sbd", "val", ["h"]),
    ("sbd", "train_noval", ["f", "g"]),
    ("sbd", "seg11valid", ["c", "e"]),
]


@pytest.mark.parametrize(("name", "split", "stems"), EVERY_SPLIT)
def test_every_split_has_its_photos_and_labels(
    data: Path, name: str, split: str, stems: list[str]
) -> None:
    dataset = open_dataset(name, data, split)
    assert dataset.classes == VOC_CLASSES
    assert dataset.names == [f"{stem}.jpg" for stem in stems]
    for index, stem in enumerate(stems):
        photo, label = load_sample(dataset, index)
        assert photo.shape == (3, *SIZE)
        expected = label_map(stem)
        if name == "voc" or split == "seg11valid":  # SBD's own masks have no void
            expected[3] = VOID
        assert np.array_equal(label.numpy(), expected)


@pytest.mark.parametrize("name", ["voc", "sbd"])
def test_seg11valid_needs_voc_2011_and_one_list_of_sbd(tmp_path: Path, name: str) -> None:
    make_voc(tmp_path / "TrainVal" / "VOCdevkit" / "VOC2011", VOC_2011)
    with pytest.raises(UsageError, match=r"train\.txt: not there; --download fetches SBD"):
        open_dataset(name, tmp_path, "seg11valid")
    save_lists(tmp_path, {"train": SBD["train"]})
    assert len(open_dataset(name, tmp_path, "seg11valid")) == 2


@pytest.mark.parametrize(
    ("name", "split", "place"),
    [
        ("voc", "val", "VOCdevkit/VOC2012: no such folder; --download fetches VOC 2012"),
        ("voc", "seg11valid", "TrainVal/VOCdevkit/VOC2011: no such folder; --download"),
        ("sbd", "train", "img: not there; --download fetches SBD"),
    ],
)
def test_missing_data_is_named_with_the_way_to_it(
    tmp_path: Path, name: str, split: str, place: str
) -> None:
    with pytest.raises(UsageError) as error:
        open_dataset(name, tmp_path / "nowhere", split)
    assert str(error.value).startswith(str(tmp_path / "nowhere" / place))
    assert not (tmp_path / "nowhere").exists()


def test_a_missing_train_noval_is_named(data: Path) -> None:
    (data / "train_noval.txt").unlink()
    with pytest.raises(UsageError, match=r"train_noval\.txt: no such file; --download"):
        open_dataset("sbd", data, "train_noval")


def remove_mask(data: Path) -> None:
    (data / "VOCdevkit" / "VOC2012" / "SegmentationClass" / "c.png").unlink()


def remove_photo(data: Path) -> None:
    (data / "img" / "h.jpg").unlink()


def remove_list(data: Path) -> None:
    (data / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt").unlink()


def empty_list(data: Path) -> None:
    (data / "val.txt").write_text("")


def binary_list(data: Path) -> None:
    (data / "val.txt").write_bytes(b"\xff\xfe\x00")


def list_everything(data: Path) -> None:
    save_lists(data, {"train": ["c", "d", "e"]})


@pytest.mark.parametrize(
    ("damage", "name", "split", "message"),
    [
        (remove_mask, "voc", "val", r"c\.png: no such file, though .*val\.txt lists it"),
        (remove_photo, "sbd", "val", r"h\.jpg: no such file, though .*val\.txt lists it"),
        (remove_list, "voc", "val", r"val\.txt: cannot be read as a list"),
        (empty_list, "sbd", "val", r"val\.txt: lists no photos"),
        (binary_list, "sbd", "val", r"val\.txt: cannot be read as a list"),
        (list_everything, "sbd", "seg11valid", r"train\.txt: .* so seg11valid is empty"),
    ],
)
def test_an_incomplete_dataset_is_named_before_it_is_used(
    data: Path, damage: Callable[[Path], None], name: str, split: str, message: str
) -> None:
    damage(data)
    with pytest.raises(UsageError, match=message):
        open_dataset(name, data, split)


def test_a_label_outside_the_classes_is_named(data: Path) -> None:
    save_mat(data / "cls" / "h.mat", np.full(SIZE, 21, np.uint8))
    with pytest.raises(UsageError, match=r"h\.mat: label 21 is outside the 21 classes"):
        class_pixels(open_dataset("sbd", data, "val"))


def cut(mat: Path) -> None:
    mat.write_bytes(mat.read_bytes()[:-9])


def empty(mat: Path) -> None:
    mat.write_bytes(b"")


def text(mat: Path) -> None:
    mat.write_text("not MATLAB's, and longer than the 128 bytes of its header: " + "x" * 128)


def flip(mat: Path) -> None:
    file = bytearray(mat.read_bytes())
    file[-9] ^= 1
    mat.write_bytes(file)


def other_struct(mat: Path) -> None:
    savemat(mat, {"GTinst": {"Segmentation": np.zeros(SIZE, np.uint8)}})


def not_a_map(mat: Path) -> None:
    save_mat(mat, np.zeros((*SIZE, 3), np.uint8))


def fractions(mat: Path) -> None:
    save_mat(mat, np.full(SIZE, 0.5))


@pytest.mark.parametrize("damage", [cut, empty, text, flip, other_struct, not_a_map, fractions])
def test_a_damaged_mat_file_is_one_line_that_names_it(
    data: Path, damage: Callable[[Path], None]
) -> None:
    mat = data / "cls" / "h.mat"
    damage(mat)
    with pytest.raises(UsageError) as error:
        class_pixels(open_dataset("sbd", data, "val"))
    assert str(error.value).startswith(f"{mat}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "split", "stems"), EVERY_SPLIT)
def test_download_fetches_once_what_a_split_needs(
    tmp_path: Path, mirror: Mirror, name: str, split: str, stems: list[str]
) -> None:
    data = tmp_path / "new" / "data"
    dataset = open_dataset(name, data, split, download=True)
    assert dataset.names == [f"{stem}.jpg" for stem in stems]
    assert class_pixels(dataset).sum() > 0
    assert not list(data.glob(".*"))  # no half-made folder stays
    mirror.requests.clear()
    again = open_dataset(name, data, split, download=True)
    assert again.names == dataset.names
    assert mirror.requests == []


def test_an_archive_fetched_by_hand_is_used(tmp_path: Path, mirror: Mirror) -> None:
    data = tmp_path / "data"
    data.mkdir()
    archive = DATASET_YEAR_DICT["2012"]["filename"]
    (mirror.folder / archive).rename(data / archive)
    assert len(open_dataset("voc", data, "val", download=True)) == 1
    assert mirror.requests == []


def wrong_checksum(mirror: Mirror) -> None:
    for file in mirror.folder.glob("*.t*"):
        file.write_bytes(file.read_bytes()[:-600])


def not_found(mirror: Mirror) -> None:
    mirror.folder.rename(mirror.folder.with_name("gone"))


def no_server(mirror: Mirror) -> None:
    # The fixture has put both in place, and takes both back.
    DATASET_YEAR_DICT["2012"]["url"] = SBDataset.url = "http://127.0.0.1:1/archive"


@pytest.mark.parametrize("trouble", [wrong_checksum, not_found, no_server])
@pytest.mark.parametrize(("name", "split"), [("voc", "val"), ("sbd", "train")])
def test_a_failed_download_is_one_line_and_leaves_nothing(
    tmp_path: Path, mirror: Mirror, trouble: Callable[[Mirror], None], name: str, split: str
) -> None:
    trouble(mirror)
    data = tmp_path / "data"
    url = DATASET_YEAR_DICT["2012"]["url"] if name == "voc" else SBDataset.url
    for _ in range(2):
        with pytest.raises(UsageError) as error:
            open_dataset(name, data, split, download=True)
        assert str(error.value).startswith(f"{url}: cannot be fetched to {data}: ")
        assert "\n" not in str(error.value)
        assert list(data.iterdir()) == []
    with pytest.raises(UsageError, match="--download fetches"):
        open_dataset(name, data, split)


def test_a_wrong_train_noval_is_not_kept(tmp_path: Path, mirror: Mirror) -> None:
    (mirror.folder / "train_noval.txt").write_text("f\n")
    data = tmp_path / "data"
    with pytest.raises(UsageError, match=r"train_noval\.txt: cannot be fetched"):
        open_dataset("sbd", data, "train_noval", download=True)
    assert not (data / "train_noval.txt").exists()
    assert len(open_dataset("sbd", data, "train")) == 3


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), UsageError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
@pytest.mark.parametrize(("name", "split"), [("voc", "val"), ("sbd", "val")])
def test_half_an_archive_unpacked_is_not_taken_for_data(
    tmp_path: Path,
    mirror: Mirror,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    raised: type[BaseException],
    name: str,
    split: str,
) -> None:
    def unpack_half(archive: Path, folder: Path) -> None:
        make_voc(folder / "VOCdevkit" / "VOC2012", {"val": []})
        make_sbd(folder / "benchmark_RELEASE" / "dataset")
        raise error

    data = tmp_path / "data"
    with monkeypatch.context() as patch:
        patch.setattr(voc, "extract_archive", unpack_half)
        with pytest.raises(raised):
            open_dataset(name, data, split, download=True)
    (archive,) = data.iterdir()
    assert archive.is_file()
    with pytest.raises(UsageError, match="--download fetches"):
        open_dataset(name, data, split)
    mirror.requests.clear()
    assert len(open_dataset(name, data, split, download=True)) == 1
    assert mirror.requests == []  # the archive was whole: it is not fetched again


def test_half_of_sbd_is_not_written_over(tmp_path: Path, mirror: Mirror) -> None:
    data = tmp_path / "data"
    make_sbd(data)
    (data / "val.txt").unlink()
    with pytest.raises(UsageError, match=r"val\.txt is not: remove what is left of SBD"):
        open_dataset("sbd", data, "train", download=True)
    assert mirror.requests == []


QUICK = ["--device", "cpu", "--precision", "fp32", "--variant", "fcn32s", "--head-width", "4"]
QUICK += ["--crop", "32x32", "--batch-size", "2", "--max-steps", "1", "--workers", "0"]


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["train", *words])
    return main()


@pytest.fixture
def run(tmp_path: Path, mirror: Mirror, capsys: pytest.CaptureFixture[str]) -> Path:
    """A run as in the paper: SBD's train split against seg11valid."""
    words = ["--dataset", "sbd", "--val-split", "seg11valid", "--download"]
    words += ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "run")]
    assert train([*QUICK, *words]) == 0
    printed = capsys.readouterr().out
    assert "train: 3 photos" in printed
    assert "val: 2 photos" in printed
    assert "warning: photos in both" not in printed
    return tmp_path / "run"


def test_a_run_tells_its_splits_and_goes_on_with_them(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, card = load_checkpoint(run / "best.safetensors")
    assert card.training["splits"] == {"train": "train", "val": "seg11valid"}
    assert card.classes == VOC_CLASSES
    assert "download" not in json.loads((run / "config.json").read_text())["options"]
    resume = ("--dataset", "sbd", "--out", str(run), "--resume")
    assert command(monkeypatch, *resume) == 0
    assert command(monkeypatch, *resume, "--download") == 0
    capsys.readouterr()
    assert command(monkeypatch, *resume, "--val-split", "val") == 2
    assert "was started with --val-split seg11valid" in capsys.readouterr().err


def test_splits_that_overlap_are_told(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--dataset", "voc", "--data", str(data), "--train-split", "trainval"]
    assert train([*QUICK, *words, "--out", str(tmp_path / "run")]) == 0
    warnings = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert "warning: photos in both train and val: 1; val will look too good" in warnings


def test_a_split_of_another_dataset_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--dataset", "shapes", "--val-split", "seg11valid", "--out", str(tmp_path / "run")]
    assert command(monkeypatch, *words) == 2
    assert capsys.readouterr().err == (
        "error: shapes has no split seg11valid: it has train, val, test\n"
    )
    assert list(tmp_path.iterdir()) == []
