"""Masks of one folder are of one kind, or the user says otherwise."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scripted_server import ScriptedServer, answer, photo_of, png, well_behaved

from app.client import FolderError

LABELS = np.array([[1, 2]], np.uint8)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.jpg", "b.jpg", "sub/c.jpg"):
        (folder / name).write_bytes(png(photo_of(LABELS)))
    return folder


def modes(out: Path) -> list[str]:
    """Return Pillow's mode of each mask, which differs between the formats that are PNGs."""
    return [Image.open(path).mode for path in sorted(out.rglob("*.png"))]


@pytest.mark.parametrize(
    ("first", "then", "said"),
    [
        ({}, {"format": "overlay"}, "made with format=png, not with format=overlay; overwrite"),
        ({"format": "grey"}, {}, "made with format=grey, not with format=png; "),
        ({"scale": 0.5}, {"scale": 1}, "format=png scale=0.5, not with format=png scale=1.0; "),
        (
            {"classes": [0, "road"]},
            {},
            "made with format=png classes=0,road, not with format=png; ",
        ),
        ({"format": "rle"}, {"format": "coco"}, "made with format=rle, not with format=coco; "),
        ({"format": "zip"}, {"format": "cvat"}, "made with format=zip, not with format=cvat; "),
        (
            {"format": "rle", "scores": True},
            {"format": "rle", "scores": False},
            "made with format=rle scores=true, not with format=rle; ",
        ),
    ],
)
def test_masks_of_two_kinds_are_not_mixed(
    scripted: ScriptedServer, connect, photos: Path, tmp_path: Path, first, then, said: str
) -> None:
    out = tmp_path / "out"
    client = connect(scripted.url)
    assert len(client.segment_folder(photos, out, **first).written) == 3
    asked = len(scripted.requests)
    with pytest.raises(FolderError) as raised:
        client.segment_folder(photos, out, **then)
    assert str(raised.value).startswith(f"{out}: the masks there were ")
    assert said in str(raised.value)
    assert len(scripted.requests) == asked
    assert len(client.segment_folder(photos, out, **first).skipped) == 3


def test_masks_that_are_overwritten_are_of_the_new_kind(
    scripted: ScriptedServer, connect, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    client = connect(scripted.url)
    client.segment_folder(photos, out)
    assert client.segment_folder(photos, out, "overlay", overwrite=True).complete
    assert modes(out) == ["RGB"] * 3
    assert len(client.segment_folder(photos, out, "overlay").skipped) == 3
    with pytest.raises(FolderError, match="made with format=overlay, not with format=png"):
        client.segment_folder(photos, out)


def test_an_overwriting_that_did_not_finish_is_of_no_kind(
    scripted: ScriptedServer, connect, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    client = connect(scripted.url)
    client.segment_folder(photos, out)
    scripted.script = [well_behaved, well_behaved, answer(500), answer(500)]
    report = client.segment_folder(photos, out, "overlay", overwrite=True, parallel=1)
    assert len(report.written) == 1
    assert modes(out) == ["RGB", "P", "P"]
    for format in ("png", "overlay"):
        with pytest.raises(
            FolderError, match=f"not all masks there were made with format={format}"
        ):
            client.segment_folder(photos, out, format)
    assert client.segment_folder(photos, out, "overlay", overwrite=True).complete
    assert len(client.segment_folder(photos, out, "overlay").skipped) == 3


def test_overwriting_some_leaves_the_others_of_their_kind(
    scripted: ScriptedServer, connect, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    client = connect(scripted.url)
    client.segment_folder(photos, out)
    assert client.segment_folder(photos / "a.jpg", out, "overlay", overwrite=True).complete
    with pytest.raises(FolderError, match="not all masks"):
        client.segment_folder(photos, out, "overlay")


def test_formats_of_different_suffixes_lie_side_by_side(
    scripted: ScriptedServer, connect, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    client = connect(scripted.url)
    for format in ("png", "rle"):
        assert len(client.segment_folder(photos, out, format, scale=0.5).written) == 3
    for format in ("png", "rle"):
        assert len(client.segment_folder(photos, out, format, scale=0.5).skipped) == 3
    assert len(list(out.rglob("*.json"))) == 3  # the notes are no masks


def test_photos_are_no_masks(
    scripted: ScriptedServer, connect, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = photos / "sub" / "d.png"
    photo.write_bytes(png(photo_of(LABELS)))
    client = connect(scripted.url)
    client.segment_folder(photos / "sub", photos)
    monkeypatch.chdir(photos)
    photos = Path()  # one is spelled so, the other absolutely
    out = Path.cwd()
    assert client.segment_folder(photos / "sub", out, "overlay", overwrite=True).complete
    assert len(client.segment_folder(photos / "sub", out, "overlay").skipped) == 2


def test_masks_that_were_deleted_bind_nobody(
    scripted: ScriptedServer, connect, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    client = connect(scripted.url)
    client.segment_folder(photos, out)
    for path in out.rglob("*.png"):
        path.unlink()
    assert client.segment_folder(photos, out, "overlay").complete
    assert len(client.segment_folder(photos, out, "overlay").skipped) == 3


def test_masks_of_unknown_origin_are_left_out(
    scripted: ScriptedServer, connect, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.png").write_text("another program's")
    report = connect(scripted.url).segment_folder(photos, out)
    assert (len(report.skipped), len(report.written)) == (1, 2)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff"])
def test_a_damaged_note_is_said(
    scripted: ScriptedServer, connect, photos: Path, tmp_path: Path, content: bytes
) -> None:
    out = tmp_path / "out"
    client = connect(scripted.url)
    client.segment_folder(photos, out)
    (note,) = (path for path in out.iterdir() if path.is_file() and path.suffix != ".png")
    note.write_bytes(content)
    with pytest.raises(FolderError, match=f"{note.name} is damaged; delete it"):
        client.segment_folder(photos, out)


def test_an_address_is_not_noted(
    scripted: ScriptedServer, connect, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    connect(scripted.url).segment_folder(photos, out)
    assert len(connect("http://elsewhere").segment_folder(photos, out).skipped) == 3
