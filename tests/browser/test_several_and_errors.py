"""Several photos, and what is said when something is wrong."""

import json

import pytest
from live_server import Server
from page import Page
from selenium.webdriver import Keys

pytestmark = pytest.mark.browser


def problem(status: int, detail: str, **headers: str) -> dict[str, object]:
    """An answer of the service in trouble."""
    kind = {"Content-Type": "application/problem+json"}
    return {"status": status, "headers": kind | headers, "body": json.dumps({"detail": detail})}


def test_several_photos_each_have_a_tile_with_their_state(
    page: Page, other_photos: list[bytes]
) -> None:
    first, second = other_photos
    page.drop({"a.png": first, "b.png": second, "broken.png": first[:200], "c.png": second})
    page.settled()
    states = [tile.get_attribute("data-state") for tile in page.all("#strip li")]
    assert states == ["done", "done", "failed", "done"]
    assert "a.png" in page.find("#canvas").get_attribute("aria-label")
    page.all("#strip button")[3].click()
    page.until(lambda: "c.png" in label(page), "the other photo")
    assert "96 × 72" in page.find("#size").text
    page.all("#strip button")[2].click()
    page.until(lambda: page.find("#failure").is_displayed(), "its error")
    page.press("#strip li:nth-child(3) button", Keys.DELETE)
    assert len(page.all("#strip li")) == 3
    page.until(lambda: "c.png" in label(page), "its neighbour")
    for _ in range(3):
        page.find("#remove").click()
    assert page.find("#choose").is_displayed()
    assert page.script("return document.activeElement.id") == "choose"


def label(page: Page) -> str:
    return str(page.find("#canvas").get_attribute("aria-label"))


def test_what_is_no_photo_is_refused_in_a_sentence(page: Page, server: Server) -> None:
    text = b"Dear diary"
    page.drop({"diary.txt": text})
    page.settled()
    assert page.state == "failed"
    assert page.find("#failure").get_attribute("role") == "alert"
    assert page.find("#failure-sentence").text == server.post(text).json()["detail"]
    page.find("#discard").click()
    assert not page.all("#strip li")


def test_a_busy_server_is_asked_again_when_it_says(page: Page, small: bytes) -> None:
    busy = problem(429, "The queue is full.", **{"Retry-After": "2"})
    page.answer_with("/segment", busy)
    page.drop({"street.png": small})
    page.until(
        lambda: page.find("#progress").text == "The queue is full. Trying again in 2 s.", "word"
    )
    page.restore()
    page.settled()
    assert page.state == "done"


def test_a_refusal_can_be_tried_again(page: Page, small: bytes) -> None:
    page.answer_with("/segment", problem(413, "The photo has too many pixels."))
    page.drop({"street.png": small})
    page.until(lambda: page.state == "failed", "refusal")
    assert page.find("#failure-sentence").text == "The photo has too many pixels."
    page.restore()
    page.find("#again").click()
    page.settled()
    assert page.state == "done"


def test_a_proxys_own_page_becomes_a_sentence(page: Page, small: bytes) -> None:
    page.answer_with("/segment", {"status": 413, "headers": {}, "body": "<html>nginx</html>"})
    page.drop({"street.png": small})
    page.until(lambda: page.state == "failed", "refusal")
    assert "larger than the proxy" in page.find("#failure-sentence").text


@pytest.mark.parametrize("status", [0, 502], ids=["no-answer", "proxy-alone"])
def test_photos_wait_for_a_server_that_cannot_be_reached(
    page: Page, small: bytes, status: int
) -> None:
    page.answer_with("", {"status": status, "headers": {}, "body": "<html>nginx</html>"})
    page.script("window.dispatchEvent(new Event('online'))")
    page.until(lambda: page.find("#state").text != "Ready", "another state")
    page.drop({"street.png": small})
    page.until(lambda: page.find("#state").text == "The server cannot be reached", "the state")
    assert page.find("#progress").text.startswith("The server cannot be reached.")
    page.restore()
    page.settled()
    assert page.find("#state").text == "Ready"
    assert page.state == "done"


@pytest.mark.parametrize("status", ["starting", "draining"])
def test_photos_wait_for_a_server_that_starts_or_ends(
    page: Page, small: bytes, status: str
) -> None:
    health = {"status": 200, "headers": {}, "body": json.dumps({"status": status, "model": None})}
    page.answer_with("/health", health)
    page.script("window.dispatchEvent(new Event('online'))")
    words = {"starting": "Starting", "draining": "Shutting down"}
    page.until(lambda: page.find("#state").text.startswith(words[status]), "the state")
    page.drop({"street.png": small})
    page.until(lambda: page.find("#progress").text.endswith("The photo waits."), "word")
    page.restore()
    page.settled()
    assert page.state == "done"
