"""Which mask goes where."""

from pathlib import Path

import pytest

from app.client import FolderError
from app.client.plan import plan, suffix_of
from app.inference.render import MaskFormat


def add(*photos: Path) -> None:
    """Make files; to plan, nobody looks into them."""
    for photo in photos:
        photo.parent.mkdir(parents=True, exist_ok=True)
        photo.touch()


def planned(out: Path, *sources: Path, format: str = "png") -> dict[str, str]:
    """Return each photo's name and the place of its mask below `out`."""
    jobs = plan(sources, out, format)
    return {job.photo.name: str(job.output.relative_to(out)) for job in jobs}


def test_masks_keep_the_place_of_their_photos(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for name in ("b.PNG", "a.jpg", "sub/deep/c.tif", "notes.txt", ".hidden.png", ".git/x.png"):
        add(folder / name)
    expected = {"a.jpg": "a.png", "b.PNG": "b.png", "c.tif": "sub/deep/c.png"}
    assert planned(tmp_path / "out", folder) == expected
    assert list(planned(tmp_path / "out", folder)) == ["a.jpg", "b.PNG", "c.tif"]


@pytest.mark.parametrize("format", list(MaskFormat))
def test_files_are_named_by_their_format(tmp_path: Path, format: MaskFormat) -> None:
    add(tmp_path / "photos" / "a.jpg")
    assert suffix_of(format.value) == format.suffix  # of the other commands
    masks = planned(tmp_path / "out", tmp_path / "photos", format=format.value)
    assert masks == {"a.jpg": f"a{format.suffix}"}


def test_photos_that_differ_in_their_suffix_keep_it(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    add(*(folder / name for name in ("x.png", "X.bmp", "y.png")))
    expected = {"X.bmp": "X.bmp.png", "x.png": "x.png.png", "y.png": "y.png"}
    assert planned(tmp_path / "out", folder) == expected


def test_two_photos_never_share_a_mask(tmp_path: Path) -> None:
    first, second = tmp_path / "b" / "a.png", tmp_path / "c" / "a.png"
    add(first, second)
    with pytest.raises(FolderError, match="would both be written to"):
        plan([first, second], tmp_path / "out", "png")
    add(*(tmp_path / "d" / name for name in ("a.png", "a.bmp", "a.bmp.png")))
    with pytest.raises(FolderError, match="would both be written to"):
        plan([tmp_path / "d"], tmp_path / "out", "png")


def test_a_mask_never_takes_its_photos_place(tmp_path: Path) -> None:
    add(tmp_path / "a.png")
    with pytest.raises(FolderError, match="among the photos"):
        plan([tmp_path], tmp_path, "png")
    with pytest.raises(FolderError, match="overwritten by its own mask"):
        plan([tmp_path / "a.png"], tmp_path, "png")
    assert planned(tmp_path, tmp_path / "a.png", format="rle") == {"a.png": "a.json"}


def test_files_and_folders_together(tmp_path: Path) -> None:
    single = tmp_path / "elsewhere" / "single.dat"
    add(single, tmp_path / "photos" / "deep" / "c.png")
    expected = {"c.png": "deep/c.png", "single.dat": "single.png"}
    assert planned(tmp_path / "out", tmp_path / "photos", single) == expected


def test_a_folder_of_masks_is_not_looked_through(tmp_path: Path) -> None:
    add(tmp_path / "a.png", tmp_path / "masks" / "a.png")
    assert planned(tmp_path / "masks", tmp_path) == {"a.png": "a.png"}


def test_a_folder_without_photos_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FolderError, match=r"empty: no photos; their names end in \.avif"):
        plan([tmp_path / "empty"], tmp_path / "out", "png")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        plan([tmp_path / "nowhere"], tmp_path / "out", "png")
