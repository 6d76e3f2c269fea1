"""`fcn` and predict: what they print, write and refuse."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app import __main__ as fcn
from app import evaluate, predict
from app.inference.decode import resize, scaled_size
from app.inference.engine import Engine
from app.inference.render import MaskFormat, Rendering
from model import FCN, Card, load_checkpoint, save_checkpoint, save_with_card


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """One photo: three quarters leaf, a quarter spot."""
    folder = tmp_path / "data" / "val"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    (tmp_path / "data" / "classes.txt").write_text("leaf\nspot\n")
    Image.new("RGB", (8, 4)).save(folder / "images" / "a.png")
    label = np.zeros((4, 8), np.uint8)
    label[0] = 1
    Image.fromarray(label).save(folder / "masks" / "a.png")
    return tmp_path / "data"


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory, random_network: tuple[FCN, Card]) -> Path:
    """`varied.safetensors`, a network whose masks have several classes, and `photo.png`."""
    folder = tmp_path_factory.mktemp("varied")
    save_checkpoint(folder / "varied.safetensors", *random_network)
    colors = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    blocks = np.kron(colors, np.ones((8, 8, 1), np.uint8))
    Image.fromarray(blocks).save(folder / "photo.png")
    return folder


@pytest.mark.parametrize("command", [evaluate.main, predict.main])
def test_a_missing_checkpoint_is_one_line(command, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--checkpoint", "nowhere.safetensors"]
    words += ["x.png"] if command is predict.main else ["--dataset", "shapes"]
    assert command(words) == 2
    assert capsys.readouterr().err == "error: nowhere.safetensors: No such file or directory\n"


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("png", ".png"),
        ("grey", ".png"),
        ("overlay", ".png"),
        ("rle", ".json"),
        ("zip", ".zip"),
        ("polygons", ".geojson"),
        ("coco", ".json"),
        ("cvat", ".zip"),
        ("probabilities", ".npz"),
        ("confidence", ".png"),
    ],
)
def test_predict_writes_every_format(varied: Path, tmp_path: Path, name: str, suffix: str) -> None:
    words = ["--checkpoint", varied / "varied.safetensors", varied / "photo.png"]
    words += ["--format", name, "--out", tmp_path / "out"]
    assert predict.main([str(word) for word in words]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"photo{suffix}"]


@pytest.mark.parametrize(
    ("options", "rendering", "scale"),
    [
        (["--classes", "road"], Rendering(MaskFormat.PNG, (1,)), 1.0),
        (["--scale", "0.5"], Rendering(MaskFormat.PNG), 0.5),
        (["--tolerance", "3"], Rendering(MaskFormat.POLYGONS, tolerance=3.0), 1.0),
        (["--scores"], Rendering(MaskFormat.RLE, scores=True), 1.0),
        (
            ["--classes", "2,sky", "--scale", "2", "--tolerance", "3", "--scores"],
            Rendering(MaskFormat.COCO, (0, 2), scores=True, tolerance=3.0),
            2.0,
        ),
    ],
)
def test_predict_writes_what_its_options_say(
    varied: Path, tmp_path: Path, options: list[str], rendering: Rendering, scale: float
) -> None:
    engine = Engine.load(varied / "varied.safetensors", device="cpu", precision="fp32")
    with Image.open(varied / "photo.png") as image:
        photo = np.array(image)
    size = photo.shape[0], photo.shape[1]

    def rendered(rendering: Rendering, scale: float) -> Any:
        extras = rendering.extras(engine.card.classes)
        seen = resize(photo, scaled_size(*size, scale))
        (found,) = engine.segment([seen], size=size, extras=extras)
        if not rendering.format.is_json:
            return rendering.file(found, photo, engine.card.classes)
        named = dataclasses.replace(rendering, name="photo.png")
        return json.loads(json.dumps(named.document(found, engine.card, engine.version)))

    words = ["--checkpoint", str(varied / "varied.safetensors"), str(varied / "photo.png")]
    words += ["--device", "cpu", "--precision", "fp32", "--out", str(tmp_path)]
    assert predict.main([*words, "--format", rendering.format, *options]) == 0
    written: Any = (tmp_path / f"photo{rendering.format.suffix}").read_bytes()
    if rendering.format.is_json:
        written = json.loads(written)
        if "image" in written:
            assert written["image"].pop("name") == "photo.png"
    assert written == rendered(rendering, scale)
    assert written != rendered(Rendering(rendering.format), 1.0)


def test_predict_shows_photos_at_the_checkpoints_scale(varied: Path, tmp_path: Path) -> None:
    source, half = varied / "varied.safetensors", tmp_path / "half.safetensors"
    save_with_card(source, half, dataclasses.replace(load_checkpoint(source)[1], scale=0.5))
    masks = {}
    for name, words in (
        ("own", [half]),
        ("asked", [source, "--scale", "0.5"]),
        ("whole", [half, "--scale", "1"]),
    ):
        arguments = ["--checkpoint", *words, varied / "photo.png", "--out", tmp_path / name]
        assert predict.main([str(word) for word in arguments]) == 0
        masks[name] = (tmp_path / name / "photo.png").read_bytes()
    assert masks["own"] == masks["asked"] != masks["whole"]


def test_predict_writes_scores_and_simplified_polygons(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    image = data / "val" / "images" / "a.png"
    words = ["--checkpoint", checkpoint, image, "--out", tmp_path, "--scores", "--tolerance", 1]
    for name in ("polygons", "coco"):
        assert predict.main([str(word) for word in [*words, "--format", name]]) == 0
    found = json.loads((tmp_path / "a.geojson").read_text())
    assert found["type"] == "FeatureCollection"
    assert found["image"] == {"name": "a.png", "width": 8, "height": 4}
    assert all(0 < feature["properties"]["score"] <= 1 for feature in found["features"])
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["images"][0]["file_name"] == "a.png"
    assert all(0 < annotation["score"] <= 1 for annotation in found["annotations"])


def test_predict_skips_what_does_not_fit_into_memory(
    checkpoint: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.inference.room.available_bytes", lambda: 1_000_000)
    image = data / "val" / "images" / "a.png"
    words = ["--checkpoint", checkpoint, image, "--device", "cpu", "--out", tmp_path / "out"]
    assert predict.main([str(word) for word in words]) == 2
    captured = capsys.readouterr()
    assert f"error: {image}: There is too little memory" in captured.err
    assert "0 of 1 masks written" in captured.out
    assert not list((tmp_path / "out").iterdir())


def test_predict_skips_what_it_cannot_read_and_does_the_rest(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.jpg").write_text("not a picture")
    images = [tmp_path / "text.jpg", tmp_path / "gone.png", data / "val" / "images" / "a.png"]
    words = ["--checkpoint", checkpoint, *images, "--out", tmp_path / "out"]
    assert predict.main([str(word) for word in words]) == 2
    captured = capsys.readouterr()
    assert "text.jpg" in captured.err
    assert "gone.png: No such file" in captured.err
    assert "1 of 3 masks written" in captured.out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]


def test_predict_refuses_two_inputs_for_one_output(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict.main(["--checkpoint", str(checkpoint), "x/a.png", "y/a.jpg"]) == 2
    assert "would both be written to masks/a.png" in capsys.readouterr().err


def test_predict_refuses_outputs_that_only_some_file_systems_tell_apart(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--checkpoint", str(checkpoint), "--out", str(tmp_path)]
    assert predict.main([*words, "a.jpg", "A.jpg"]) == 2
    assert "A.jpg and a.jpg would both be written to" in capsys.readouterr().err
    assert predict.main([*words, str(tmp_path / "a.PNG")]) == 2
    assert "a.PNG would be overwritten by its own mask" in capsys.readouterr().err


def test_predict_never_overwrites_a_photo(
    checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = data / "val" / "images"
    before = (folder / "a.png").read_bytes()
    words = ["--checkpoint", checkpoint, folder / "a.png", "--out", folder]
    assert predict.main([str(word) for word in words]) == 2
    assert "overwritten by its own mask" in capsys.readouterr().err
    assert (folder / "a.png").read_bytes() == before


def test_predict_lists_the_classes_if_one_is_unknown(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict.main(["--checkpoint", str(checkpoint), "a.png", "--classes", "bug"]) == 2
    assert "leaf (0), spot (1)" in capsys.readouterr().err


def test_fcn_names_its_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["fcn"])
    assert fcn.main() == 0
    printed = capsys.readouterr().out
    for command, description in fcn.COMMANDS.items():
        assert re.search(rf"^  {command} +{re.escape(description)}$", printed, re.MULTILINE)


def test_fcn_refuses_an_unknown_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["fcn", "paint"])
    assert fcn.main() == 2
    assert "unknown command 'paint'" in capsys.readouterr().err


@pytest.mark.parametrize("command", fcn.COMMANDS)
def test_every_command_helps_with_an_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.setattr("sys.argv", ["fcn", command, "--help"])
    with pytest.raises(SystemExit) as stop:
        fcn.main()
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert "example:" in printed
    assert "default" in printed
