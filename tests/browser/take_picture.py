"""Takes the README's picture of the page: `python tests/browser/take_picture.py URL`.

The service must run at URL, with the default checkpoint; chromium and chromedriver must be there.
"""

import base64
import io
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests/end_to_end"), str(ROOT / "docs")]

from page import Page  # noqa: E402
from PIL import Image  # noqa: E402
from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from street import draw_street  # noqa: E402

PICTURE = ROOT / "docs/images/page-desktop.png"
WINDOW = (1080, 700)
PHOTOS = 3


def main(url: str) -> None:
    """Open the page, give it drawings, and write what is seen."""
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    with tempfile.TemporaryDirectory() as downloads:
        page = Page(driver, url, Path(downloads))
        page.open(WINDOW)
        page.drop({f"street-{seed + 1}.jpg": _drawn(seed) for seed in range(PHOTOS)})
        page.settled()
        shot = page.cdp("Page.captureScreenshot", {"format": "png"})["data"]
        with Image.open(io.BytesIO(base64.b64decode(shot))) as picture:
            picture.convert("RGB").save(PICTURE, optimize=True)
    driver.quit()


def _drawn(seed: int) -> bytes:
    # Without noise: it would be most of what the pictures hold.
    file = io.BytesIO()
    draw_street(seed, noise=0).save(file, "JPEG", quality=92)
    return file.getvalue()


if __name__ == "__main__":
    main(*sys.argv[1:])
