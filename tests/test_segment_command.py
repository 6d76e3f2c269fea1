"""`fcn segment`: what it prints, writes and refuses."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scripted_server import ScriptedServer, photo_of, png, stall, until, well_behaved

from app import __main__ as fcn
from app import segment

LABELS = np.array([[0, 1, 3]], np.uint8)
ROOT = Path(__file__).parents[1]


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    yield server
    server.end()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.png", "b.png", "sub/c.png"):
        (folder / name).write_bytes(png(photo_of(LABELS)))
    return folder


def test_it_writes_masks_and_goes_on_where_it_ended(
    scripted: ScriptedServer, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "masks"
    words = [str(photos), "--out", str(out), "--url", scripted.url]
    assert segment.main(words) == 0
    assert capsys.readouterr() == (f"3 of 3 masks written to {out}\n", "")
    assert np.array_equal(np.asarray(Image.open(out / "sub" / "c.png")), LABELS)

    (photos / "bad.jpg").write_text("no picture")
    assert segment.main(words) == 2
    captured = capsys.readouterr()
    assert (
        captured.out
        == f"0 of 4 masks written to {out}, 3 were there (--overwrite makes them again), 1 failed\n"
    )
    assert captured.err == f"error: {photos / 'bad.jpg'}: The bytes are no image.\n"


def test_options_reach_the_server(scripted: ScriptedServer, photos: Path, tmp_path: Path) -> None:
    words = [str(photos / "a.png"), "--out", str(tmp_path / "out"), "--url", scripted.url + "/"]
    words += ["--format", "rle", "--classes", "road,3", "--scale", "0.5", "--scores"]
    assert segment.main([*words, "--timeout", "9"]) == 0
    (post,) = scripted.posts()
    assert post.query == {"format": "rle", "classes": "road,3", "scale": "0.5", "scores": "true"}
    assert 0 < float(post.headers["x-request-timeout"]) <= 9
    assert [path.name for path in (tmp_path / "out").glob("[!.]*")] == ["a.json"]


def test_other_options_need_another_folder_or_overwrite(
    scripted: ScriptedServer, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "masks"
    words = [str(photos), "--out", str(out), "--url", scripted.url]
    assert segment.main(words) == 0
    capsys.readouterr()
    words += ["--format", "overlay"]
    assert segment.main(words) == 2
    assert capsys.readouterr().err == (
        f"error: {out}: the masks there were made with format=png, not with format=overlay; "
        "overwrite them or give another output folder\n"
    )
    assert segment.main([*words, "--overwrite"]) == 0
    assert Image.open(out / "sub" / "c.png").mode == "RGB"


def test_a_file_in_the_folders_place_is_one_line(
    scripted: ScriptedServer, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "masks"
    out.touch()
    assert segment.main([str(photos / "a.png"), "--out", str(out), "--url", scripted.url]) == 2
    assert capsys.readouterr().err == f"error: {out}: File exists\n"


def test_an_unknown_class_is_said_once(
    scripted: ScriptedServer, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(photos), "--out", str(tmp_path), "--url", scripted.url, "--classes", "bug"]
    assert segment.main([*words, "--parallel", "1"]) == 2
    captured = capsys.readouterr()
    assert "sky (0), road (1)" in captured.err
    assert captured.out == f"0 of 3 masks written to {tmp_path}, 1 failed, 2 not tried\n"


def test_without_a_server_it_is_one_line(
    scripted: ScriptedServer, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted.stop()
    words = [str(photos), "--out", str(tmp_path / "out"), "--url", scripted.url, "--retries", "0"]
    assert segment.main(words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: the connection to {scripted.url} failed: ")
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
    scripted.start()


def test_a_folder_without_photos_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert segment.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}: no photos; ")
    assert segment.main([str(tmp_path / "gone")]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'gone'}: No such file or directory\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--url", "localhost:8000"], "no address such as http://localhost:8000"),
        (["--format", "jpeg"], "invalid choice: 'jpeg'"),
        (["--parallel", "0"], "no whole number from 1 up"),
        (["--url", "http://localhost:80000"], "80000 is above 65535"),
        (["--url", "http://a..b"], "label empty or too long"),
        (["--timeout", "0"], "no number from 0.001 to 1e+06"),
        (["--timeout", "1e7"], "no number from 0.001 to 1e+06"),
    ],
)
def test_a_wrong_argument_is_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        segment.main(["photos", *words])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_fcn_knows_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["fcn", "segment", "--help"])
    with pytest.raises(SystemExit) as stop:
        fcn.main()
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert "example:" in printed
    assert "(default: masks)" in printed


def test_ctrl_c_ends_it_at_once_and_leaves_whole_files_only(
    scripted: ScriptedServer, photos: Path, tmp_path: Path
) -> None:
    scripted.script = [well_behaved, well_behaved, stall, stall]
    out = tmp_path / "out"
    command = [sys.executable, "-m", "app.segment", str(photos), "--out", str(out)]
    process = subprocess.Popen(
        [*command, "--url", scripted.url, "--parallel", "2"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: len(scripted.posts()) == 3 and any(out.glob("*.png")))
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=50)  # before the answers that never come
    assert process.returncode == 130
    assert printed == "interrupted\n"
    files = [path for path in out.rglob("*") if path.is_file()]
    (written,) = (path for path in files if path.name != ".fcn-segment-png")
    assert np.array_equal(np.asarray(Image.open(written)), LABELS)
