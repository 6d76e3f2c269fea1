"""A photo and its mask on the canvas, pixel for pixel."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_server import ROOT, Server, decode_png, running_server
from numpy.typing import NDArray
from page import PHONE, Page
from PIL import Image
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from street import draw_street

from app.paths import DEFAULT_CHECKPOINT
from model import load_checkpoint, save_with_card

pytestmark = pytest.mark.browser

WIDEST_ZOOM = 64


def colored(server: Server, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return labels, HxW, in the classes' colours."""
    classes = server.client.get("/model").json()["classes"]
    table = np.array([tuple(bytes.fromhex(entry["color"][1:])) for entry in classes], np.uint8)
    colours: NDArray[np.uint8] = table[labels]
    return colours


def class_index(server: Server, name: str) -> int:
    classes = server.client.get("/model").json()["classes"]
    return next(int(entry["index"]) for entry in classes if entry["name"] == name)


def only_the_mask_at_its_own_size(page: Page) -> None:
    page.press("#opacity", Keys.END)
    page.press("#viewport", "1")


def test_a_dropped_photo_gets_the_mask_that_the_api_gives(
    page: Page, server: Server, photo: bytes, labels: NDArray[np.uint8]
) -> None:
    page.drop({"street.png": photo})
    page.settled()
    only_the_mask_at_its_own_size(page)
    assert np.array_equal(page.pixels(), colored(server, labels))


def test_the_mask_is_turned_as_the_photo_is(page: Page, server: Server, photo: bytes) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: to be turned right by 90 degrees
    file = io.BytesIO()
    Image.open(io.BytesIO(photo)).save(file, "JPEG", quality=95, exif=exif)
    page.drop({"turned.jpg": file.getvalue()})
    page.settled()
    only_the_mask_at_its_own_size(page)
    labels = server.label_map(file.getvalue())
    assert labels.shape == (240, 180)
    assert np.array_equal(page.pixels(), colored(server, labels))
    assert page.find("#progress").text == ""


def test_a_photo_that_the_browser_cannot_show_has_its_mask_alone(
    page: Page, server: Server, photo: bytes
) -> None:
    file = io.BytesIO()
    Image.open(io.BytesIO(photo)).save(file, "TIFF")
    page.drop({"scan.tif": file.getvalue()})
    page.settled()
    assert "mask alone" in page.find("#progress").text
    only_the_mask_at_its_own_size(page)
    assert np.array_equal(page.pixels(), colored(server, server.label_map(file.getvalue())))


def test_the_legend_tells_each_class_and_its_share(
    page: Page, server: Server, photo: bytes
) -> None:
    page.drop({"street.png": photo})
    page.settled()
    masks = server.post(photo, format="rle", scores=True).json()["masks"]
    rows = [button.text.split("\n") for button in page.all("#legend button")]
    by_area = sorted(masks, key=lambda mask: -mask["area"])
    assert [row[0] for row in rows] == [mask["class_name"] for mask in by_area]
    assert rows[0][1:] == [
        f"score {by_area[0]['score']:.2f}",
        f"{by_area[0]['fraction'] * 100:.1f} %",
    ]
    assert by_area[0]["class_name"] in page.find("#canvas").get_attribute("aria-label")
    found = {mask["class_name"] for mask in masks}
    for entry in server.client.get("/model").json()["classes"]:
        assert (entry["name"] in page.find("#absent").text) == (entry["name"] not in found)


def test_a_hidden_class_shows_the_photo_and_comes_back(
    page: Page, server: Server, photo: bytes, labels: NDArray[np.uint8]
) -> None:
    page.drop({"street.png": photo})
    page.settled()
    only_the_mask_at_its_own_size(page)
    road = labels == class_index(server, "road")
    mask, bare = colored(server, labels), decode_png(photo)
    button = page.class_button("road")
    button.click()
    leave(page)
    assert button.get_attribute("aria-pressed") == "false"
    assert np.array_equal(page.pixels(), np.where(road[..., None], bare, mask))
    button.click()
    leave(page)
    assert np.array_equal(page.pixels(), mask)
    page.find("#hide-all").click()
    assert np.array_equal(page.pixels(), bare)


def leave(page: Page) -> None:
    """Move the pointer to where it highlights nothing."""
    ActionChains(page.driver).move_to_element(page.find("#mask-title")).perform()


def test_pointing_at_a_class_dims_the_others(
    page: Page, server: Server, photo: bytes, labels: NDArray[np.uint8]
) -> None:
    page.drop({"street.png": photo})
    page.settled()
    only_the_mask_at_its_own_size(page)
    road = labels == class_index(server, "road")
    mask, bare = colored(server, labels).astype(int), decode_png(photo).astype(int)
    ActionChains(page.driver).move_to_element(page.class_button("road")).perform()
    seen = page.pixels().astype(int)
    assert np.array_equal(seen[road], mask[road])
    assert np.abs(seen - bare)[~road].mean() < np.abs(seen - mask)[~road].mean() / 4
    leave(page)
    assert np.array_equal(page.pixels(), mask)


def test_the_slider_leads_from_the_photo_to_the_mask(
    page: Page, server: Server, photo: bytes
) -> None:
    page.drop({"street.png": photo})
    page.settled()
    only_the_mask_at_its_own_size(page)
    mask = page.pixels().astype(int)
    page.press("#opacity", Keys.HOME)
    bare = page.pixels().astype(int)
    assert np.array_equal(bare, decode_png(photo))
    page.press("#opacity", Keys.ARROW_RIGHT * 30)
    assert page.find("#opacity-value").text == "30 %"
    assert np.abs(page.pixels() - (0.7 * bare + 0.3 * mask)).max() < 3


def test_pixels_are_crisp_when_they_are_large(page: Page, server: Server, photo: bytes) -> None:
    page.drop({"street.png": photo})
    page.settled()
    page.press("#opacity", Keys.HOME)
    page.press("#viewport", "+" * 12)
    assert page.find("#zoom").text == f"{WIDEST_ZOOM * 100} %"
    for opacity in (Keys.HOME, Keys.END):
        page.press("#opacity", opacity)
        seen = page.pixels().astype(int)
        for axis in (0, 1):
            edges = np.unique(np.nonzero(np.diff(seen, axis=axis))[axis] % WIDEST_ZOOM)
            assert len(edges) <= 1  # every pixel is a square, and all squares are in step
    page.press("#viewport", "0")
    assert page.find("#zoom").text != f"{WIDEST_ZOOM * 100} %"


def test_wheel_and_pointer_zoom_and_move(page: Page, photo: bytes) -> None:
    page.drop({"street.png": photo})
    page.settled()
    fitting = page.pixels()
    viewport = page.find("#viewport")
    actions = ActionChains(page.driver)
    actions.scroll_from_origin(ScrollOrigin.from_element(viewport), 0, -600).perform()
    page.until(lambda: percents(page) > 200, "zoom")
    zoomed = page.pixels()
    ActionChains(page.driver).drag_and_drop_by_offset(viewport, 90, 40).perform()
    moved = page.pixels()
    assert moved.shape == zoomed.shape
    assert np.array_equal(moved[40:, 90:], zoomed[:-40, :-90])
    page.find("#fit").click()
    assert np.array_equal(page.pixels(), fitting)
    page.find("#zoom-in").click()
    page.find("#zoom-out").click()
    assert np.array_equal(page.pixels(), fitting)
    page.find("#zoom").click()
    assert percents(page) == 100


def percents(page: Page) -> int:
    return int(page.find("#zoom").text.split()[0])


def test_two_fingers_zoom(page: Page, photo: bytes) -> None:
    page.open(PHONE)
    page.drop({"street.png": photo})
    page.settled()
    before = percents(page)
    box: dict[str, Any] = page.find("#viewport").rect
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def touch(kind: str, *offsets: float) -> None:
        points = [{"x": x + offset, "y": y, "id": index} for index, offset in enumerate(offsets)]
        page.cdp("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", -20, 20)
    for spread in (30, 40, 50, 60):
        touch("touchMove", -spread, spread)
    touch("touchEnd")
    page.until(lambda: percents(page) > 2 * before, "zoom")


def test_another_scale_asks_again(page: Page, server: Server, photo: bytes) -> None:
    page.drop({"street.png": photo})
    page.settled()
    page.script("performance.clearMeasures()")
    page.press("#scale", "½")
    page.settled()
    only_the_mask_at_its_own_size(page)
    assert np.array_equal(page.pixels(), colored(server, server.label_map(photo, scale=0.5)))
    assert "scale=0.5" in page.find("#code").text


def test_a_large_photo_is_shown_to_the_network_smaller(page: Page, server: Server) -> None:
    file = io.BytesIO()
    draw_street(size=(1800, 1350), noise=0).save(file, "JPEG")
    page.drop({"large.jpg": file.getvalue()})
    page.settled()
    assert "scale=0.5" in page.find("#code").text
    assert "1800 × 1350" in page.find("#size").text
    page.press("#scale", "¼")
    page.settled()
    assert "scale=0.25" in page.find("#code").text


def test_photos_are_shown_at_the_models_own_scale(
    driver: webdriver.Chrome, photo: bytes, tmp_path: Path
) -> None:
    shipped, half = ROOT / DEFAULT_CHECKPOINT, tmp_path / "half.safetensors"
    save_with_card(shipped, half, dataclasses.replace(load_checkpoint(shipped)[1], scale=0.5))
    with running_server(tmp_path / "log.txt", "--checkpoint", str(half)) as server:
        page = Page(driver, server.url, tmp_path / "downloads")
        page.open()
        page.drop({"street.png": photo})
        page.settled()
        only_the_mask_at_its_own_size(page)
        assert np.array_equal(page.pixels(), colored(server, server.label_map(photo)))
        assert "scale" not in page.find("#code").text
        assert "shown to the network at 0.5" in page.find("#size").text
        page.press("#scale", "The photo")
        page.settled()
        only_the_mask_at_its_own_size(page)
        assert np.array_equal(page.pixels(), colored(server, server.label_map(photo, scale=1)))
        assert "scale=1" in page.find("#code").text
        assert "shown" not in page.find("#size").text


def test_pasted_and_taken_photos_are_segmented(page: Page, other_photos: list[bytes]) -> None:
    page.paste({"image.png": other_photos[0]})
    page.settled()
    assert page.state == "done"
    page.press("#scale", "¼")  # the camera's photos are large
    page.settled()
    page.find("#photos [data-camera]").click()
    page.until(lambda: page.find("#shutter").is_enabled(), "the camera")
    page.find("#shutter").click()
    page.until(lambda: len(page.all("#strip li")) == 2, "the camera's photo")
    page.settled()
    assert page.state == "done"
    assert "camera-" in page.find("#strip [aria-current] .caption").text
