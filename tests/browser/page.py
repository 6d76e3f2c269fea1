"""The page as somebody uses it: what is dropped, clicked and typed, and what is seen."""

import base64
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from live_server import until
from numpy.typing import NDArray
from PIL import Image
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select

DESKTOP = (1280, 800)
PHONE = (360, 740)

_FILES = """
const bag = new DataTransfer();
for (const [name, type, base64] of arguments[0]) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  bag.items.add(new File([bytes], name, { type }));
}
"""

_DROP = (
    _FILES
    + """
for (const kind of ["dragenter", "dragover", "drop"]) {
  document.body.dispatchEvent(
    new DragEvent(kind, { dataTransfer: bag, bubbles: true, cancelable: true }));
}
"""
)

_PASTE = (
    _FILES
    + """
document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: bag, bubbles: true }));
"""
)

_FAKE_ANSWERS = """
const [part, answers] = arguments;
const real = window.fetch;
window.fetch = async (url, options) => {
  if (!new URL(url).pathname.endsWith(part) || !answers.length) return real(url, options);
  const { status, headers, body } = answers.length > 1 ? answers.shift() : answers[0];
  if (!status) throw new TypeError("Failed to fetch");
  return new Response(body, { status, headers });
};
window.realFetch = real;
"""


class Page:
    """One tab.

    Args:
        driver: Chromium.
        url: The service.
        downloads: Folder for what is downloaded.
    """

    def __init__(self, driver: Chrome, url: str, downloads: Path) -> None:
        self.driver = driver
        self.url = url
        self.downloads = downloads
        driver.execute_cdp_cmd(
            "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)}
        )

    def open(self, size: tuple[int, int] = DESKTOP, *, dark: bool = False, path: str = "/") -> None:
        """Open the page in a window of this size; a small one is a phone's."""
        phone = size[0] < 600
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": phone}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.cdp("Emulation.setDeviceMetricsOverride", metrics)
        self.cdp("Emulation.setTouchEmulationEnabled", {"enabled": phone, "maxTouchPoints": 2})
        self.cdp("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get(self.url + path)
        self.until(lambda: self.find("#state").text == "Ready", "a page that is ready")

    def cdp(self, command: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """Send a command of Chromium's own protocol."""
        answer: dict[str, Any] = self.driver.execute_cdp_cmd(command, parameters)
        return answer

    def script(self, code: str, *arguments: object) -> Any:
        return self.driver.execute_script(code, *arguments)

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def until(self, condition: Callable[[], bool], what: str) -> None:
        until(condition, what, patience_s=60)

    def drop(self, files: dict[str, bytes]) -> None:
        """Drop files, by name, onto the page."""
        self.script(_DROP, _packed(files))

    def paste(self, files: dict[str, bytes]) -> None:
        self.script(_PASTE, _packed(files))

    def answer_with(self, part: str, *answers: dict[str, object]) -> None:
        """Stand in for a server in trouble; the last answer is repeated until `restore`."""
        self.script(_FAKE_ANSWERS, part, list(answers))

    def restore(self) -> None:
        self.script("window.fetch = window.realFetch")

    @property
    def state(self) -> str:
        """Of the selected photo."""
        return str(self.script("return document.body.dataset.photo"))

    def settled(self) -> None:
        """Wait until every photo has its mask or its error, and the selected one is drawn."""
        tiles = "return [...document.querySelectorAll('#strip li')].map((li) => li.dataset.state)"
        self.until(lambda: set(self.script(tiles)) <= {"done", "failed"}, "all photos")
        drawn = "return performance.getEntriesByName('answer to mask').length"
        self.until(lambda: self.state != "done" or self.script(drawn) > 0, "the mask")
        self.frame()

    def frame(self) -> None:
        """Wait until what was asked for is drawn."""
        self.driver.execute_async_script(
            "requestAnimationFrame(() => requestAnimationFrame(arguments[0]))"
        )

    def pixels(self) -> NDArray[np.uint8]:
        """Return what is drawn of photo and mask, HxWx3; the empty canvas around is left out."""
        self.frame()
        url = self.script("return document.getElementById('canvas').toDataURL()")
        with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
            canvas = np.array(image.convert("RGBA"))
        drawn = canvas[..., 3] > 0
        rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
        inside = canvas[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert (inside[..., 3] == 255).all()
        return inside[..., :3]

    def press(self, selector: str, *keys: str) -> None:
        """Type on an element."""
        self.find(selector).send_keys(*keys)
        self.frame()

    def choose_format(self, value: str) -> None:
        Select(self.find("#format")).select_by_value(value)

    def choose_language(self, value: str) -> None:
        self.find(f"label:has(input[name='language'][value='{value}'])").click()

    def class_button(self, name: str) -> WebElement:
        (button,) = (
            button
            for button in self.all("#legend button")
            if button.find_element(By.CLASS_NAME, "name").text == name
        )
        return button

    def download(self) -> tuple[str, bytes]:
        """Click Download; return the file's name and bytes."""
        before = set(self.downloads.glob("*"))
        self.find("#download").click()
        end = time.monotonic() + 60
        while time.monotonic() < end:
            new = [p for p in set(self.downloads.glob("*")) - before if p.suffix != ".crdownload"]
            if new and new[0].stat().st_size:
                return new[0].name, new[0].read_bytes()
            time.sleep(0.05)
        raise AssertionError("nothing was downloaded")

    def violations(self, axe: str) -> list[str]:
        """Return what axe-core finds that is serious or critical, and where."""
        self.script(axe)
        result = self.driver.execute_async_script(
            "axe.run({ resultTypes: ['violations'] }).then((found) =>"
            " arguments[0](JSON.stringify(found)), (error) => arguments[0](String(error)))"
        )
        return [
            f"{found['id']}: {found['help']}: {[node['target'] for node in found['nodes']]}"
            for found in json.loads(result)["violations"]
            if found["impact"] in ("serious", "critical")
        ]


def _packed(files: dict[str, bytes]) -> list[list[str]]:
    types = {"png": "image/png", "jpg": "image/jpeg", "txt": "text/plain", "tif": "image/tiff"}
    return [
        [name, types[name.rpartition(".")[2]], base64.b64encode(data).decode()]
        for name, data in files.items()
    ]
