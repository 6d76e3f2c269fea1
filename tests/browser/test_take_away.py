"""Downloads and the lines that ask for the same: the API's own bytes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from live_server import Server
from page import Page

pytestmark = pytest.mark.browser

FILES = {
    "png": "street-mask.png",
    "grey": "street-labels.png",
    "overlay": "street-overlay.png",
    "zip": "street-masks.zip",
    "cvat": "street-cvat.zip",
}
DOCUMENTS = {
    "rle": "street-masks.json",
    "polygons": "street-masks.geojson",
    "coco": "street-coco.json",
}


def test_every_download_is_what_the_api_sends(page: Page, server: Server, small: bytes) -> None:
    page.drop({"street.png": small})
    page.settled()
    image = {"image": ("street.png", small)}
    for format, name in FILES.items():
        page.choose_format(format)
        expected = server.client.post("/segment", params={"format": format}, files=image)
        assert page.download() == (name, expected.content)
    for format, name in DOCUMENTS.items():
        page.choose_format(format)
        query = {"format": format, "scores": "true"}
        expected = server.client.post("/segment", params=query, files=image)
        downloaded, body = page.download()
        assert downloaded == name
        assert without_request(json.loads(body)) == without_request(expected.json())


def without_request(document: dict[str, Any]) -> dict[str, Any]:
    """Leave out what differs from request to request."""
    left = {key: document[key] for key in document if key not in ("request_id", "timing_ms")}
    if "info" in left:
        left["info"] = without_request(left["info"])
    return left


def test_these_are_all_formats_that_the_page_offers(page: Page) -> None:
    offered = {option.get_attribute("value") for option in page.all("#format option")}
    assert offered == set(FILES) | set(DOCUMENTS)


def test_what_is_hidden_is_not_downloaded(page: Page, server: Server, small: bytes) -> None:
    page.drop({"street.png": small})
    page.settled()
    page.class_button("sky").click()
    names = [b.text.split("\n")[0] for b in page.all("#legend button[aria-pressed=true]")]
    assert "sky" not in names
    _, body = page.download()
    assert body == server.post(small, classes=",".join(names)).content
    page.find("#hide-all").click()
    assert not page.find("#download").is_enabled()
    assert "All classes are hidden" in page.find("#download-message").text


@pytest.mark.parametrize("language", ["curl", "python"])
@pytest.mark.parametrize("name", ["street.png", 'it\'s, a "street"; 1.png'])
def test_the_lines_fetch_the_same(
    page: Page, server: Server, small: bytes, tmp_path: Path, language: str, name: str
) -> None:
    if language == "curl" and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    page.drop({name: small})
    page.settled()
    page.choose_format("grey")
    page.choose_language(language)
    page.class_button("sky").click()
    shown = [b.text.split("\n")[0] for b in page.all("#legend button[aria-pressed=true]")]
    (tmp_path / name).write_bytes(small)
    program = ["sh", "-c"] if language == "curl" else [sys.executable, "-c"]
    lines = page.script("return document.getElementById('code').textContent")
    subprocess.run([*program, lines], cwd=tmp_path, check=True, timeout=60, capture_output=True)
    written = (tmp_path / (name.removesuffix(".png") + "-labels.png")).read_bytes()
    assert written == server.post(small, format="grey", classes=",".join(shown)).content
