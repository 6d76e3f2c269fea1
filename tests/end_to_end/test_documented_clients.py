"""docs/integrations.md: every example runs, and finds what /segment finds."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from live_server import ROOT, Server, running_server
from street import draw_street

EXAMPLES = re.findall(
    r"```python\n(.*?)```", (ROOT / "docs/integrations.md").read_text(), re.DOTALL
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a street in it, which Label Studio's local storage may be."""
    folder = tmp_path_factory.mktemp("photos")
    draw_street(size=(240, 180)).save(folder / "photo.jpg")
    return folder


@pytest.fixture(scope="module")
def server(
    folder: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "log.txt"
    arguments = ("--checkpoint", str(checkpoint))
    with running_server(log, *arguments, warm_up_sizes="", label_studio_files=folder) as server:
        yield server


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_finds_the_road(
    server: Server, folder: Path, example: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert "localhost:8000" in example
    found: dict = {}
    exec(example.replace("localhost:8000", server.url.removeprefix("http://")), found)
    model = server.client.get("/model").json()
    classes = {entry["name"]: entry["index"] for entry in model["classes"]}
    expected = server.label_map(Path("photo.jpg").read_bytes()) == classes["road"]
    assert expected.any()
    assert found["road"].dtype == bool
    assert np.array_equal(found["road"], expected)
