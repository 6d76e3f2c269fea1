import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect

from app.serve.image_form import MissingImageError, Received, TooManyImagesError
from app.serve.upload_budget import OVERHEAD_BYTES, UploadBudget, UploadsFullError
from app.serve.uploads import TooManyBytesError, announced_length, discard_body, receive_images

BOUNDARY = "frontier"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


def part(name, data, filename="photo.jpg"):
    file = f'; filename="{filename}"' if filename else ""
    head = f'Content-Disposition: form-data; name="{name}"{file}\r\nContent-Type: image/jpeg'
    return f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + data + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()


def receiving(chunks, after=None):
    """Return an ASGI receive that hands out the chunks, and then waits unless told what to do."""
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages[-1]["more_body"] = after is not None
    if after is not None:
        messages.append(after)

    async def receive():
        if not messages:
            await asyncio.sleep(3600)
        return messages.pop(0)

    return receive


def receive_whole(chunks, content_type=None, *, limit=1000, budget=None, after=None):
    budget = budget or UploadBudget(10**9, retry_after=lambda: 1)
    with budget.open() as upload:
        (image,) = asyncio.run(
            receive_images(receiving(chunks, after), content_type, upload, limit=limit)
        )
        return image.data


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=200), st.lists(st.integers(1, 60), max_size=20))
def test_a_form_may_arrive_in_any_chunks(data, cuts):
    body = part("note", b"hello", filename=None) + part("image", data) + END
    chunks, rest = [], body
    for cut in cuts:
        chunks.append(rest[:cut])
        rest = rest[cut:]
    assert receive_whole([*chunks, rest], FORM) == data


@pytest.mark.parametrize(
    "content_type", [None, "image/png", "application/octet-stream", "text/html", "nonsense"]
)
def test_any_other_body_is_the_photo(content_type):
    assert receive_whole([b"one", b"", b"two"], content_type) == b"onetwo"


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        (b"", None, "no body"),
        (b"", "image/png", "no body"),
        (b"", FORM, "ends before its closing boundary"),
        (END, FORM, "no field `image`; its fields: none"),
        (part("image", b"") + END, FORM, "`image` is empty"),
        (part("file", b"x") + END, FORM, "no field `image`; its fields: `file`"),
        (part("image", b"x"), FORM, "ends before its closing boundary"),
        (part("image", b"x")[:-9], FORM, "ends before its closing boundary"),
        (b"nonsense", FORM, "broken"),
        (part("image", b"x") + END, "multipart/form-data", "no boundary"),
        (b"x", f"multipart/form-data; boundary={'b' * 300}", "broken"),
        (part("note", b"x") * 65 + END, FORM, "more than 64 parts"),
        (f"--{BOUNDARY}\r\n{'x' * 5000}".encode(), FORM, "broken"),
    ],
)
def test_a_request_without_one_image_is_refused(body, content_type, message):
    with pytest.raises(MissingImageError, match=message):
        receive_whole([body], content_type, limit=10**6)


def receive_form(*parts, most):
    budget = UploadBudget(10**9, retry_after=lambda: 1)
    receive = receiving([b"".join(parts) + END])
    with budget.open() as upload:
        return asyncio.run(receive_images(receive, FORM, upload, limit=10**6, most=most))


def test_several_images_come_in_order_with_their_names():
    found = receive_form(
        part("image", b"one", "a/b/one.jpg"),
        part("note", b"hello", None),
        part("image", b"", "C:\\photos\\t\x07wo.png"),
        part("image", b"three", None),
        part("image", b"four", ".."),
        part("image", b"five", "gr\u00fcn.png"),
        most=5,
    )
    assert found == [
        Received(b"one", "one.jpg"),
        Received(b"", "two.png"),
        Received(b"three", None),
        Received(b"four", None),
        Received(b"five", "gr\u00fcn.png"),
    ]


@pytest.mark.parametrize("most", [1, 3])
def test_more_images_than_a_request_may_have_are_refused(most):
    with pytest.raises(TooManyImagesError, match=f"more than {most} fields `image`"):
        receive_form(*[part("image", b"x")] * (most + 1), most=most)


@pytest.mark.parametrize("content_type", [None, FORM])
def test_bytes_are_counted_while_they_stream(content_type):
    endless = [part("image", b"x" * 60)] + [b"x" * 100] * 10
    with pytest.raises(TooManyBytesError, match="300 bytes"):
        receive_whole(endless, content_type, limit=300, after={"type": "nothing reads this"})


def test_a_body_of_exactly_the_limit_is_taken():
    assert receive_whole([b"x" * 300], limit=300) == b"x" * 300


def test_a_client_that_leaves_is_noticed():
    with pytest.raises(ClientDisconnect):
        receive_whole([b"half"], after={"type": "http.disconnect"})


@pytest.mark.parametrize(
    ("header", "length"),
    [(None, 0), ("12", 12), ("100", 100), ("nonsense", 0), ("-5", 0), ("0" * 5000 + "7", 7)],
)
def test_the_announced_length(header, length):
    assert announced_length(header, limit=100) == length


@pytest.mark.parametrize("header", ["101", "9" * 5000])
def test_too_large_a_length_is_refused_before_reading(header):
    with pytest.raises(TooManyBytesError):
        announced_length(header, limit=100)


def test_an_upload_that_passes_the_budget_is_dropped():
    budget = UploadBudget(OVERHEAD_BYTES + 250, retry_after=lambda: 1)
    with pytest.raises(UploadsFullError):
        receive_whole([b"x" * 100] * 3, budget=budget)
    assert budget.held == 0


@pytest.mark.parametrize("after", [None, {"type": "http.disconnect"}])
def test_discarding_ends_with_the_body_or_the_client(after):
    asyncio.run(discard_body(receiving([b"x"] * 3, after), limit=100, seconds=5))


def test_discarding_does_not_wait_for_ever():
    async def stall():
        await asyncio.sleep(3600)

    asyncio.run(discard_body(stall, limit=100, seconds=0.01))
