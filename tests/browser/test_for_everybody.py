"""Phone and desktop, light and dark, keyboard alone, screen readers."""

import pytest
from page import DESKTOP, PHONE, Page
from selenium.webdriver import ActionChains, Keys

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe_finds_nothing_serious(
    page: Page, axe: str, other_photos: list[bytes], size: tuple[int, int], dark: bool
) -> None:
    page.open(size, dark=dark)
    assert page.violations(axe) == []
    page.drop({"a.png": other_photos[0], "b.png": other_photos[1], "no.txt": b"text"})
    page.settled()
    page.all("#legend button")[0].click()
    assert page.violations(axe) == []
    page.all("#strip button")[2].click()
    page.until(lambda: page.find("#failure").is_displayed(), "an error")
    assert page.violations(axe) == []
    ground = page.script("return getComputedStyle(document.body).backgroundColor")
    red = int(ground.removeprefix("rgb(").split(",")[0])
    assert (red < 64) == dark


def test_nothing_is_wider_than_a_phone(page: Page, small: bytes) -> None:
    page.open(PHONE)
    wide = "return document.documentElement.scrollWidth"
    assert page.script(wide) == PHONE[0]
    page.drop({f"a-street-with-a-long-name-{n}.png": small for n in range(4)})
    page.settled()
    assert page.script(wide) == PHONE[0]
    viewport = page.find("#viewport").rect
    assert viewport["y"] + viewport["height"] < PHONE[1]  # the mask is seen without scrolling
    # WCAG 2.2, 2.5.8: at least 24 by 24 pixels to press.
    for button in page.all("button"):
        if button.is_displayed():
            assert min(button.size.values()) >= 24, button.text


def test_on_a_desktop_only_the_panel_scrolls(page: Page, small: bytes) -> None:
    page.drop({"street.png": small})
    page.settled()
    assert page.script("return document.documentElement.scrollHeight") == DESKTOP[1]
    panel = page.script("return document.getElementById('panel').scrollHeight")
    assert panel > DESKTOP[1]


def test_the_keyboard_alone_is_enough(page: Page, small: bytes) -> None:
    order = tabbed(page, until="choose")
    assert order[0].startswith("a:")
    page.paste({"street.png": small})
    page.settled()
    page.script("document.activeElement.blur()")
    order = tabbed(page, until="copy")
    wanted = ["viewport", "zoom-in", "fit", "remove", "opacity", "scale", "show-all", "download"]
    places = [order.index(name) for name in wanted]
    assert places == sorted(places)

    page.script("document.getElementById('show-all').focus()")
    type_keys(page, Keys.TAB, Keys.TAB)  # to the first class
    pressed = "return document.activeElement.getAttribute('aria-pressed')"
    assert page.script(pressed) == "true"
    type_keys(page, Keys.SPACE)
    assert page.script(pressed) == "false"
    assert "classes=" in page.find("#code").text
    page.script("document.querySelector('[name=language]').focus()")
    type_keys(page, Keys.ARROW_RIGHT)
    assert "import httpx" in page.find("#code").text
    page.script("document.getElementById('viewport').focus()")
    before = page.find("#zoom").text
    type_keys(page, "+", "+")
    zoomed = page.pixels()
    assert page.find("#zoom").text != before
    type_keys(page, Keys.ARROW_RIGHT)
    assert (page.pixels() != zoomed).any()


def type_keys(page: Page, *keys: str) -> None:
    ActionChains(page.driver).send_keys(*keys).perform()
    page.frame()


def tabbed(page: Page, until: str) -> list[str]:
    """Press Tab until this element has the focus; return what had it, each visibly."""
    seen: list[str] = []
    while not seen or seen[-1] != until:
        assert len(seen) < 60, seen
        type_keys(page, Keys.TAB)
        name, outline = page.script(
            "const at = document.activeElement;"
            "const styled = at.matches('.segments input') ? at.nextElementSibling : at;"
            "return [at.id || at.localName + ':' + at.textContent,"
            "getComputedStyle(styled).outlineStyle]"
        )
        seen.append(name)
        assert outline == "solid", name
    return seen


def test_screen_readers_are_told_what_happened(page: Page, small: bytes) -> None:
    live = page.find("#live")
    assert live.get_attribute("role") == "status"
    page.drop({"street.png": small})
    page.settled()
    said = page.script("return document.getElementById('live').textContent")
    assert said.startswith("street.png is done: ")
    assert "road" in said


def test_nothing_moves_for_who_asked_for_that(page: Page) -> None:
    reduced = {"name": "prefers-reduced-motion", "value": "reduce"}
    page.cdp("Emulation.setEmulatedMedia", {"features": [reduced]})
    page.script("document.body.dataset.view = 'photos'; document.body.dataset.photo = 'working'")
    assert page.script("return document.getAnimations().length") == 0
    page.cdp("Emulation.setEmulatedMedia", {"features": []})
    assert page.script("return document.getAnimations().length") > 0
