"""Folders of photos -> folders of masks, through both clients."""

import asyncio
import errno
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scripted_server import (
    ScriptedServer,
    StoppedClock,
    answer,
    busy,
    hang_up,
    photo_of,
    png,
    problem,
    stall,
    until,
    well_behaved,
)

from app.client import (
    AsyncClient,
    BadImageError,
    ConnectionFailedError,
    FolderError,
    InvalidRequestError,
)


def labels_of(number: int) -> np.ndarray:
    return np.array([[number, 3 - number]], np.uint8)


def write_photo(path: Path, number: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(photo_of(labels_of(number))))
    return path


def tree(folder: Path) -> list[str]:
    """Everything below a folder that is no folder, hidden or not, but the note of it."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(path) for path in files if path != Path(".fcn-segment-png"))


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for number, name in enumerate(["a.png", "b.PNG", "sub/a.png", "sub/deep/c.png"]):
        write_photo(folder / name, number)
    (folder / "notes.txt").write_text("no photo")
    write_photo(folder / ".hidden.png")
    write_photo(folder / ".git" / "x.png")
    return folder


def test_subfolders_keep_their_structure(
    scripted: ScriptedServer, connect, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "masks"
    report = connect(scripted.url).segment_folder(photos, out)
    assert tree(out) == ["a.png", "b.png", "sub/a.png", "sub/deep/c.png"]
    for number, name in enumerate(tree(out)):
        assert np.array_equal(read(out / name), labels_of(number))
    assert report.complete
    assert [str(path.relative_to(out)) for path in report.written] == tree(out)
    assert (report.skipped, report.failures, report.untried) == ((), (), ())


def test_the_parameters_are_sent_with_each_photo(
    scripted: ScriptedServer, connect, photos: Path, tmp_path: Path
) -> None:
    connect(scripted.url).segment_folder(
        photos, tmp_path / "out", "rle", classes=["sky"], scale=0.5, scores=True, parallel=2
    )
    query = {"format": "rle", "classes": "sky", "scale": "0.5", "scores": "true"}
    assert [request.query for request in scripted.posts()] == [query] * 4


def test_what_is_there_is_skipped_unless_it_shall_be_made_again(
    scripted: ScriptedServer, connect, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (out / "sub").mkdir(parents=True)
    (out / "sub" / "a.png").write_text("an older one")
    client = connect(scripted.url)
    report = client.segment_folder(photos, out)
    assert report.skipped == (out / "sub" / "a.png",)
    assert len(report.written) == 3
    assert (out / "sub" / "a.png").read_text() == "an older one"

    asked = len(scripted.requests)
    assert len(client.segment_folder(photos, out).skipped) == 4
    assert len(scripted.requests) == asked

    assert len(client.segment_folder(photos, out, overwrite=True).written) == 4
    assert np.array_equal(read(out / "sub" / "a.png"), labels_of(2))


def test_what_cannot_be_planned_is_said_before_anything_is_sent(
    scripted: ScriptedServer, connect, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FolderError, match="no photos"):
        connect(scripted.url).segment_folder(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(FileNotFoundError):
        connect(scripted.url).segment_folder(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(ValueError, match="parallel"):
        connect(scripted.url).segment_folder(tmp_path / "empty", tmp_path / "out", parallel=0)
    assert scripted.requests == []
    assert not (tmp_path / "out").exists()


def test_masks_are_not_taken_for_photos(scripted: ScriptedServer, connect, photos: Path) -> None:
    client = connect(scripted.url)
    for _ in range(2):
        client.segment_folder(photos, photos / "masks")
    assert tree(photos / "masks") == ["a.png", "b.png", "sub/a.png", "sub/deep/c.png"]
    with pytest.raises(FolderError, match="among the photos"):
        client.segment_folder(photos, photos)
    with pytest.raises(FolderError, match="overwritten by its own mask"):
        client.segment_folder(photos / "a.png", photos)


def test_a_bad_photo_does_not_stop_the_rest(
    scripted: ScriptedServer, connect, photos: Path, tmp_path: Path
) -> None:
    (photos / "bad.png").write_text("no picture")
    os.symlink(photos / "gone", photos / "dangling.png")
    report = connect(scripted.url).segment_folder(photos, tmp_path / "out")
    assert [failure.photo.name for failure in report.failures] == ["bad.png", "dangling.png"]
    assert isinstance(report.failures[0].error, BadImageError)
    assert str(report.failures[0]) == f"{photos / 'bad.png'}: The bytes are no image."
    assert str(report.failures[1]).endswith("dangling.png: No such file or directory")
    assert len(report.written) == 4
    assert not report.complete
    assert tree(tmp_path / "out") == ["a.png", "b.png", "sub/a.png", "sub/deep/c.png"]


def test_a_wrong_parameter_is_not_sent_with_every_photo(
    scripted: ScriptedServer, connect, photos: Path, tmp_path: Path
) -> None:
    report = connect(scripted.url).segment_folder(
        photos, tmp_path / "out", classes=["bug"], parallel=1
    )
    (failure,) = report.failures
    assert isinstance(failure.error, InvalidRequestError)
    assert "sky (0)" in str(failure)
    assert len(report.untried) == 3


def test_a_server_that_has_gone_ends_the_run(
    scripted: ScriptedServer, connect, stopped: StoppedClock, tmp_path: Path
) -> None:
    for number in range(8):
        write_photo(tmp_path / "photos" / f"{number}.png")
    gone = [problem(503, "not-ready"), hang_up, answer(502)]
    scripted.script = [well_behaved, well_behaved, *gone]
    client = connect(scripted.url, clock=stopped.clock, retries=0)
    report = client.segment_folder(tmp_path / "photos", tmp_path / "out", parallel=1)
    assert tree(tmp_path / "out") == ["0.png"]
    assert [failure.photo.name for failure in report.failures] == ["1.png", "2.png", "3.png"]
    assert [path.name for path in report.untried] == ["4.png", "5.png", "6.png", "7.png"]

    report = client.segment_folder(tmp_path / "photos", tmp_path / "out", parallel=1)
    assert (len(report.skipped), len(report.written)) == (1, 7)


def test_a_server_that_comes_back_does_not(
    scripted: ScriptedServer, connect, stopped: StoppedClock, tmp_path: Path
) -> None:
    for number in range(8):
        write_photo(tmp_path / "photos" / f"{number}.png")
    scripted.script = [well_behaved, *[hang_up, hang_up, well_behaved] * 2]
    client = connect(scripted.url, clock=stopped.clock, retries=0)
    report = client.segment_folder(tmp_path / "photos", tmp_path / "out", parallel=1)
    assert (len(report.failures), len(report.written), report.untried) == (4, 4, ())


def test_a_busy_server_is_waited_for(
    scripted: ScriptedServer, connect, stopped: StoppedClock, photos: Path, tmp_path: Path
) -> None:
    scripted.script = [well_behaved, *[busy("1")] * 5]
    client = connect(scripted.url, clock=stopped.clock, timeout=1e6)
    assert client.segment_folder(photos, tmp_path / "out").complete
    assert len(stopped.slept) == 5


def test_a_server_that_stays_full_ends_the_run(
    scripted: ScriptedServer, connect, stopped: StoppedClock, tmp_path: Path
) -> None:
    for number in range(8):
        write_photo(tmp_path / "photos" / f"{number}.png")
    scripted.script = [well_behaved, *[busy("3600")] * 8]
    client = connect(scripted.url, clock=stopped.clock)
    report = client.segment_folder(tmp_path / "photos", tmp_path / "out", parallel=1)
    assert (len(report.failures), len(report.untried)) == (3, 5)


def test_without_a_server_nothing_is_written(
    scripted: ScriptedServer, connect, stopped: StoppedClock, photos: Path, tmp_path: Path
) -> None:
    scripted.stop()
    with pytest.raises(ConnectionFailedError):
        connect(scripted.url, clock=stopped.clock).segment_folder(photos, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    scripted.start()


def test_a_server_that_is_waited_for_is_said_once(
    scripted: ScriptedServer,
    connect,
    stopped: StoppedClock,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scripted.script = [problem(503, "not-ready", "Still loading.")] * 3
    client = connect(scripted.url, clock=stopped.clock)
    assert client.segment_folder(photos, tmp_path / "out").complete
    assert len(stopped.slept) == 3
    assert capsys.readouterr() == ("", "waiting for the server: Still loading.\n")

    scripted.script = [problem(503, "not-ready", "Still loading.")]
    client.segment_folder(photos, tmp_path / "quiet", progress=False)
    assert capsys.readouterr() == ("", "")


def test_a_mask_that_cannot_be_written_ends_the_run_and_leaves_nothing(
    scripted: ScriptedServer, connect, photos: Path, tmp_path: Path, monkeypatch
) -> None:
    synced: list[int] = []

    def full(handle: int) -> None:
        synced.append(handle)
        if len(synced) > 1:  # there was room for the note, not for a mask
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as raised:
        connect(scripted.url).segment_folder(photos, tmp_path / "out", parallel=1)
    assert raised.value.errno == errno.ENOSPC
    assert raised.value.filename == str(tmp_path / "out" / "a.png")
    assert tree(tmp_path / "out") == []


def test_no_more_photos_are_under_way_than_asked_for(
    scripted: ScriptedServer, connect, tmp_path: Path
) -> None:
    for number in range(12):
        write_photo(tmp_path / "photos" / f"{number}.png")
    inside: set[int] = set()
    most: list[int] = []

    def watch(handler, request) -> None:
        inside.add(id(request))
        most.append(len(inside))
        if len(most) < 3:
            until(lambda: len(most) >= 3)
        inside.discard(id(request))
        well_behaved(handler, request)

    scripted.script = [well_behaved, *[watch] * 12]
    assert (
        connect(scripted.url)
        .segment_folder(tmp_path / "photos", tmp_path / "out", parallel=3)
        .complete
    )
    assert max(most) == 3


def test_a_cancelled_run_leaves_whole_files_only(
    scripted: ScriptedServer, photos: Path, tmp_path: Path
) -> None:
    scripted.script = [well_behaved, well_behaved, stall, stall]

    async def play() -> None:
        async with AsyncClient(scripted.url) as client:
            run = asyncio.create_task(client.segment_folder(photos, tmp_path / "out", parallel=2))
            await asyncio.to_thread(until, lambda: len(scripted.posts()) == 3)
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run

    asyncio.run(play())
    (name,) = tree(tmp_path / "out")
    assert read(tmp_path / "out" / name).shape == (1, 2)


def test_progress_is_shown_where_it_is_wanted(
    scripted: ScriptedServer,
    connect,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (photos / "bad.png").write_text("no picture")
    client = connect(scripted.url)
    client.segment_folder(photos, tmp_path / "quiet", progress=False)
    assert capsys.readouterr() == ("", "")
    client.segment_folder(photos, tmp_path / "seldom")
    assert capsys.readouterr().err == f"error: {photos / 'bad.png'}: The bytes are no image.\n"
    monkeypatch.setattr("app.progress.LINE_EVERY_S", 0)
    client.segment_folder(photos, tmp_path / "often", parallel=1)
    assert "segmenting: 2 of 5\n" in capsys.readouterr().err


def test_a_terminal_gets_a_bar(
    scripted: ScriptedServer, connect, photos: Path, tmp_path: Path, monkeypatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    connect(scripted.url).segment_folder(photos, tmp_path / "out")
    assert "segmenting" in terminal.getvalue()
