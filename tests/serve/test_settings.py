import re
import subprocess
import sys
from pathlib import Path

import pytest
from serve_doubles import PATIENCE_S

from app.serve.settings import (
    Settings,
    SettingsError,
    as_markdown,
    default_threads,
    load_settings,
    unknown_variables,
)

REPOSITORY = Path(__file__).parents[2]


def test_the_documentation_is_what_the_code_says():
    documented = (REPOSITORY / "docs" / "settings.md").read_text(encoding="utf-8")
    assert documented == as_markdown(), "run: python -m app.serve.settings > docs/settings.md"


def test_every_setting_says_what_it_means():
    for name, field in Settings.model_fields.items():
        assert field.description, name


def test_every_setting_is_read_somewhere():
    sources = [
        path.read_text(encoding="utf-8")
        for path in (REPOSITORY / "app" / "serve").rglob("*.py")
        if path.name != "settings.py"
    ]
    for name in Settings.model_fields:
        assert any(re.search(rf"settings\.{name}\b", source) for source in sources), name


def test_defaults_need_no_environment():
    settings = load_settings()
    assert settings.port == 8000
    assert settings.warm_up_sizes == ((360, 480),)
    assert 1 <= settings.decode_threads == default_threads() <= 8


def test_the_environment_is_read_and_arguments_override_it(monkeypatch):
    monkeypatch.setenv("FCN_PORT", "9000")
    monkeypatch.setenv("FCN_HOST", "0.0.0.0")
    settings = load_settings(port="9001")
    assert (settings.host, settings.port) == ("0.0.0.0", 9001)


@pytest.mark.parametrize(
    ("text", "sizes"),
    [("480x360", ((360, 480),)), (" 96x64 , 1x2 ", ((64, 96), (2, 1))), ("", ())],
)
def test_sizes_are_written_as_width_x_height(monkeypatch, text, sizes):
    monkeypatch.setenv("FCN_WARM_UP_SIZES", text)
    assert load_settings().warm_up_sizes == sizes


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "http"),
        ("PORT", "70000"),
        ("MAX_BYTES", "0"),
        ("REQUEST_TIMEOUT_S", "0"),
        ("REQUEST_TIMEOUT_S", "inf"),
        ("BATCH_DELAY_S", "-1"),
        ("DEVICE", "gpu"),
        ("PRECISION", "int8"),
        ("LOG_FORMAT", "xml"),
        ("WARM_UP_SIZES", "480"),
        ("WARM_UP_SIZES", "0x5"),
        ("QUEUE_PIXELS", "1000"),
        ("UPLOAD_BYTES", "33554432"),
        ("DRAIN_S", "1"),
    ],
)
def test_an_impossible_value_is_one_line_that_names_it(monkeypatch, name, value):
    monkeypatch.setenv(f"FCN_{name}", value)
    with pytest.raises(SettingsError, match=f"FCN_{name}") as caught:
        load_settings()
    assert "\n" not in str(caught.value)
    assert value in str(caught.value)


def test_a_path_of_no_letters_is_none_and_not_the_working_directory(monkeypatch):
    monkeypatch.setenv("FCN_LABEL_STUDIO_FILES", "")
    assert load_settings().label_studio_files is None


def test_misspelt_variables_are_found():
    environment = {"FCN_PORT": "1", "FCN_PROT": "1", "PATH": "", "fcn_x": ""}
    assert unknown_variables(environment) == ["FCN_PROT"]


def test_the_documented_command_prints_the_documentation():
    result = subprocess.run(
        [sys.executable, "-m", "app.serve.settings"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )
    assert result.stdout == as_markdown()
