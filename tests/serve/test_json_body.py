import tracemalloc
from typing import Any

import pytest
from pydantic import BaseModel

from app.serve.protocols.errors import InvalidRequestError, JsonTooLargeError
from app.serve.protocols.json_body import decode_base64, parse_json
from app.serve.upload_budget import UploadBudget, UploadsFullError

pytestmark = pytest.mark.anyio

MANY = 20_000


class Document(BaseModel):
    data: list[Any]


def budget(max_bytes=1 << 30):
    return UploadBudget(max_bytes, retry_after=lambda: 1)


@pytest.mark.parametrize(
    "value",
    [
        "7",
        "1.5",
        "1234567890123456789012345",
        "[]",
        "[[[1]]]",
        "[1,2,3]",
        "{}",
        '{"a":1}',
        '"text %d"',
        '"€ %d"',
        '"\\ud83d\\ude00 %d"',
    ],
)
async def test_what_is_counted_is_no_less_than_what_it_takes(value):
    values = ",".join(value.replace("%d", str(number)) for number in range(MANY))
    text = f'{{"data":[{values}]}}'.encode()
    uploads = budget()
    with uploads.open() as upload:
        before = uploads.held
        tracemalloc.start()
        try:
            document = await parse_json(text, Document, upload, most_bytes=1 << 30)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(document.data) == MANY
        assert peak <= uploads.held - before
    assert uploads.held == 0


async def test_one_wide_character_makes_a_long_string_wide():
    text = '{"data":["€' + "a" * 1_000_000 + '"]}'
    uploads = budget()
    with uploads.open() as upload:
        await parse_json(text.encode(), Document, upload, most_bytes=1 << 30)
        assert uploads.held > 4_000_000


async def test_what_there_is_no_room_for_is_not_parsed():
    text = b'{"data":[' + b"[]," * 100_000 + b"[]]}"
    with budget().open() as upload, pytest.raises(JsonTooLargeError):
        await parse_json(text, Document, upload, most_bytes=1_000_000)
    with budget(1_000_000).open() as upload, pytest.raises(UploadsFullError):
        await parse_json(text, Document, upload, most_bytes=1 << 30)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "no JSON"),
        (b"\xff", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[]", "object"),
        (b"{}", "`data`"),
        (b'{"data": "text"}', "`data`"),
    ],
)
async def test_what_is_no_such_document_is_told_why(text, says):
    with budget().open() as upload, pytest.raises(InvalidRequestError, match=says) as caught:
        await parse_json(text, Document, upload, most_bytes=1 << 30)
    assert len(str(caught.value)) < 400


def test_base64_with_and_without_a_data_uri():
    assert decode_base64("aGk=") == decode_base64("data:image/png;base64,aGk=") == b"hi"
    for text in ("aGk", "aG k=", "http://host/x", "data:image/png,hi", "data:" + "x" * 300):
        with pytest.raises(InvalidRequestError, match="nothing is fetched") as caught:
            decode_base64(text)
        assert len(str(caught.value)) < 200
