"""Every example of docs/client.md runs."""

import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scripted_server import ScriptedServer

from app import client, segment
from app.client import SegmentationError
from app.client.errors import error_class

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "client.md").read_text()
URL = "http://localhost:8000"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    photo = Image.fromarray(np.full((36, 48, 3), 70, np.uint8))
    (tmp_path / "photos" / "day").mkdir(parents=True)
    for name in ("photo.jpg", "photos/b.jpg", "photos/day/a.jpg"):
        photo.save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_examples_run(scripted: ScriptedServer, folder: Path) -> None:
    examples = blocks("python")
    assert len(examples) == 5
    # One process for all: each starts from an empty namespace all the same.
    program = "\n".join(
        f"exec({textwrap.dedent(example).replace(URL, scripted.url)!r}, {{}})"
        for example in examples
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2 written, 0 were there\nnot a photo: The bytes are no image.\n"
    assert np.array_equal(np.asarray(Image.open(folder / "mask.png")), np.ones((36, 48)))
    assert Image.open(folder / "overlay.png").mode == "RGB"
    assert Image.open(folder / "labels" / "day" / "a.png").mode == "L"


def test_the_commands_run(scripted: ScriptedServer, folder: Path) -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(lines) == 2
    for line in lines:
        program, command, *words = shlex.split(line.replace(URL, scripted.url))
        assert (program, command) == ("fcn", "segment")
        if "--url" not in words:
            words += ["--url", scripted.url]
        assert segment.main(words) == 0
    assert (folder / "masks" / "day" / "a.png").exists()
    assert (folder / "outlines" / "day" / "a.png").exists()


def test_the_table_of_errors_is_the_codes() -> None:
    rows = dict(re.findall(r"^\| `(\w+Error)` \| (.*?) \|", PAGE, re.MULTILINE))
    known = {
        name
        for name, kind in vars(client).items()
        if isinstance(kind, type) and issubclass(kind, SegmentationError)
    }
    assert set(rows) == known - {"SegmentationError"}
    for name, when in rows.items():
        for status in map(int, re.findall(r"\b\d{3}\b", when)):
            kind = error_class(status, "urn:fcn:broken-image" if status == 400 else None)
            assert kind.__name__ == name
