"""`/`: the page that people try the service with, and the files it is made of."""

import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import Final

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

router = APIRouter(include_in_schema=False)

_MEDIA_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
"""By file name's end. Python's `mimetypes` asks the machine, and machines differ on `js`."""

_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # No text ever becomes code: class and file names are anybody's.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)

_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",  # frame-ancestors for browsers that do not know it
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Kept, but asked about each time: after an update nobody runs a mixture of versions.
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class _File:
    body: bytes
    headers: dict[str, str]


def _load() -> dict[str, _File]:
    """Read all files, once: they are small, and a request never waits for the disk."""
    files = {}
    for path in resources.files("app.serve").joinpath("static").iterdir():
        media_type = _MEDIA_TYPES.get(path.name.rpartition(".")[2])
        if media_type is not None:
            body = path.read_bytes()
            tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            files[path.name] = _File(body, {"Content-Type": media_type, "ETag": tag, **_HEADERS})
    return files


_FILES: Final = _load()


@router.api_route("/", methods=["GET", "HEAD"])
async def page(request: Request) -> Response:
    """Show the page. It names its files relative to itself, so any proxy prefix may be before."""
    return _answer(request, "index.html")


@router.api_route("/static/{name}", methods=["GET", "HEAD"])
async def file(request: Request, name: str) -> Response:
    """Hand out a file of the page."""
    if name not in _FILES:
        raise HTTPException(404)
    return _answer(request, name)


def _answer(request: Request, name: str) -> Response:
    found = _FILES[name]
    known = request.headers.get("if-none-match", "")
    # A proxy that packs an answer makes its tag weak (RFC 9110, section 13.1.2).
    tags = {tag.strip().removeprefix("W/") for tag in known.split(",")}
    if found.headers["ETag"] in tags or "*" in tags:
        return Response(status_code=304, headers=found.headers)
    return Response(found.body, headers=found.headers)
