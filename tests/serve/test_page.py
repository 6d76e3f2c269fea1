"""The page's files over HTTP: types, caching, what they may do, and that they are all there."""

import re
import tomllib
from importlib import resources
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
STATIC = ROOT / "app/serve/static"
NAMES = sorted(path.name for path in STATIC.iterdir())

MOST_BYTES = 100_000

pytestmark = pytest.mark.anyio


def test_the_page_is_small() -> None:
    assert sum(path.stat().st_size for path in STATIC.iterdir()) < MOST_BYTES


def test_nothing_is_loaded_from_elsewhere() -> None:
    namespaces = {"http://www.w3.org/2000/svg"}
    for path in STATIC.iterdir():
        urls = set(re.findall(r"""["'(](?:https?:)?//[^"')\s]+""", path.read_text()))
        assert {url[1:] for url in urls} <= namespaces, path.name


def test_the_page_names_its_files_relative_to_itself_and_preloads_all_modules() -> None:
    text = (STATIC / "index.html").read_text()
    links = set(re.findall(r'(?:src|href)="([^"]+)"', text))
    assert links == {f"static/{name}" for name in NAMES if name != "index.html"} | {"docs"}


def test_modules_import_only_modules_that_are_there() -> None:
    for path in STATIC.glob("*.js"):
        imported = re.findall(r'from "\./([^"]+)"', path.read_text())
        assert set(imported) <= set(NAMES), path.name


def test_an_installed_package_has_the_files() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["app"]
    packed = {path for pattern in patterns for path in (ROOT / "app").glob(pattern)}
    assert set(STATIC.iterdir()) <= packed
    assert resources.files("app.serve").joinpath("static/index.html").is_file()


@pytest.mark.parametrize("name", ["", *(f"static/{name}" for name in NAMES)])
async def test_files_have_their_type_and_are_asked_about_each_time(serving, name: str) -> None:
    types = {
        "css": "text/css",
        "html": "text/html",
        "js": "text/javascript",
        "svg": "image/svg+xml",
    }
    async with serving(ready=False) as served:
        answer = await served.client.get(f"/{name}")
        assert answer.status_code == 200
        assert answer.content == (STATIC / (Path(name).name or "index.html")).read_bytes()
        kind = types[name.rpartition(".")[2] or "html"]
        assert answer.headers["content-type"].partition(";")[0] == kind
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        tag = answer.headers["etag"]
        for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            again = await served.client.get(f"/{name}", headers={"If-None-Match": known})
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["etag"] == tag
        changed = await served.client.get(f"/{name}", headers={"If-None-Match": '"other"'})
        assert changed.status_code == 200
        assert (await served.client.head(f"/{name}")).headers["etag"] == tag


async def test_the_policy_allows_nothing_inline_and_nothing_from_elsewhere(serving) -> None:
    async with serving(ready=False) as served:
        policy = (await served.client.get("/")).headers["content-security-policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["frame-ancestors"] == "'none'"
    assert "unsafe" not in policy
    assert "http" not in policy
    assert {rules[kind] for kind in ("script-src", "style-src", "connect-src")} == {"'self'"}


def test_the_page_needs_nothing_inline() -> None:
    text = (STATIC / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)", text)


@pytest.mark.parametrize("name", ["nothing.js", "..%2fsettings.py", "__init__.py"])
async def test_there_are_no_other_files(serving, name: str) -> None:
    async with serving(ready=False) as served:
        answer = await served.client.get(f"/static/{name}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


async def test_the_page_works_behind_a_prefix(serving) -> None:
    async with serving(ready=False) as served:
        transport = httpx.ASGITransport(served.app, root_path="/masks")
        async with httpx.AsyncClient(transport=transport, base_url="http://proxy") as client:
            page = await client.get("/masks/")
            assert page.status_code == 200
            for link in re.findall(r'(?:src|href)="([^"]+)"', page.text):
                found = await client.get(page.url.join(link))
                assert found.status_code == 200, link
