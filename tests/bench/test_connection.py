"""The bytes of a request, read by the parsers that servers use."""

import asyncio

import pytest
from starlette.requests import Request

from app.bench.connection import build_request

PHOTO = bytes(range(256)) * 5


def split(request: bytes) -> tuple[list[str], bytes]:
    head, _, body = request.partition(b"\r\n\r\n")
    return head.decode().split("\r\n"), body


def form_of(lines: list[str], body: bytes):
    headers = [tuple(part.encode() for part in line.lower().split(": ", 1)) for line in lines[1:]]
    # The boundary is case-sensitive.
    headers = [(name, value) for name, value in headers if name != b"content-type"] + [
        (b"content-type", lines[2].partition(": ")[2].encode())
    ]

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def read():
        scope = {"type": "http", "method": "POST", "headers": headers}
        async with Request(scope, receive).form() as form:
            return form["image"].content_type, await form["image"].read()

    return asyncio.run(read())


def test_multipart_holds_the_photo_as_field_image():
    lines, body = split(build_request("h:1", "/segment?format=png", PHOTO, media_type="image/png"))
    assert lines[:2] == ["POST /segment?format=png HTTP/1.1", "Host: h:1"]
    assert f"Content-Length: {len(body)}" in lines
    assert form_of(lines, body) == ("image/png", PHOTO)


def test_raw_is_the_photo_itself():
    request = build_request(
        "h:1", "/segment", PHOTO, media_type="image/jpeg", multipart=False, headers=[("X-A", "1")]
    )
    lines, body = split(request)
    assert body == PHOTO
    assert lines[2:] == ["Content-Type: image/jpeg", f"Content-Length: {len(PHOTO)}", "X-A: 1"]


def test_answers_are_not_asked_to_be_compressed():
    # LitServe would gzip its masks, which costs it more than encoding them.
    lines, _ = split(build_request("h:1", "/segment", PHOTO, media_type="image/jpeg"))
    assert not any(line.lower().startswith("accept-encoding") for line in lines)


@pytest.mark.parametrize("photo", [b"", b"\r\n--", b"\r\n\r\n"])
def test_multipart_holds_any_bytes(photo: bytes):
    lines, body = split(build_request("h:1", "/segment", photo, media_type="image/png"))
    assert form_of(lines, body)[1] == photo
