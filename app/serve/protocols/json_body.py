"""JSON documents that carry images, parsed beside the event loop and within the uploads' budget.

A JSON document can become thirty times its size in memory: `[],[],[]` spends three bytes on an
object of 56 and its place in a list. So what it becomes is bounded from its punctuation before
anything is parsed, and counted like the bytes of an upload.
"""

import asyncio
import base64
import binascii
import re
from collections.abc import Callable
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from app.serve.protocols.errors import InvalidRequestError, JsonTooLargeError
from app.serve.upload_budget import Upload

ModelT = TypeVar("ModelT", bound=BaseModel)
ReturnT = TypeVar("ReturnT")

_SHORT_BYTES: Final = 65_536
"""What takes less time to parse than it takes to get to a thread and back."""

# Sizes on 64-bit CPython: sys.getsizeof of an empty list, of a dictionary with up to five entries,
# of a string without its characters, and of a float with its place in a list, which grows by an
# eighth more than it needs, and in the list's copy that has been checked.
_LIST_BYTES: Final = 56
_DICT_BYTES: Final = 184
_STRING_BYTES: Final = 76
_VALUE_BYTES: Final = 24 + 9 + 9

_WIDEST_CHARACTER: Final = 4
"""One character outside Latin-1 makes every character of its string wider."""

_DATA_URI: Final = re.compile(r"data:[^,]{0,200}?;base64,", re.IGNORECASE)


async def parse_json(
    data: bytes, model: type[ModelT], upload: Upload, *, most_bytes: int
) -> ModelT:
    """Parse a JSON document that is part of an upload.

    Args:
        data: The document.
        model: What it must be.
        upload: Also counts the memory of what is made of it.
        most_bytes: The most memory it may take.

    Raises:
        JsonTooLargeError: If it would take more.
        UploadsFullError: If the budget of all uploads has no room for it.
        InvalidRequestError: If it is no such document.
    """
    cost = await beside_the_loop(lambda: _parsed_bytes(data), len(data))
    if cost > most_bytes:
        raise JsonTooLargeError(
            f"This JSON document of {len(data):,} bytes holds more values than the server takes "
            "from text; send images as encoded files, or tensors in binary form."
        )
    upload.count(cost)
    return await beside_the_loop(lambda: _parse(data, model), len(data))


async def beside_the_loop(function: Callable[[], ReturnT], size: int) -> ReturnT:
    """Run a function that goes through `size` bytes: in a thread, unless they are few."""
    if size <= _SHORT_BYTES:
        return function()
    return await asyncio.to_thread(function)


def decode_base64(text: str) -> bytes:
    """Decode an image in base64, which may begin like a data URI.

    Raises:
        InvalidRequestError: If it is no base64.
    """
    prefix = _DATA_URI.match(text)
    encoded = text[prefix.end() :] if prefix else text
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        shown = text[:40] + ("..." if len(text) > 40 else "")
        raise InvalidRequestError(
            f"The image must be given in base64, or as a data URI of it, not as {shown!r}; "
            "nothing is fetched from elsewhere."
        ) from None


def _parsed_bytes(data: bytes) -> int:
    """Bound the memory of a parsed document from above, in bytes."""
    narrow = data.isascii() and b"\\u" not in data
    values = data.count(b",") + data.count(b"[") + data.count(b"{") + 1
    return (
        len(data) * (1 if narrow else _WIDEST_CHARACTER)
        + values * _VALUE_BYTES
        + data.count(b"[") * _LIST_BYTES
        + data.count(b"{") * _DICT_BYTES
        + data.count(b'"') // 2 * _STRING_BYTES
    )


def _parse(data: bytes, model: type[ModelT]) -> ModelT:
    try:
        # Not by `model_validate_json`: on the way to Python's objects that makes others, several
        # times their size.
        document = from_json(data)
    except ValueError as error:
        raise InvalidRequestError(f"The body is no JSON: {str(error)[:100]}.") from None
    try:
        return model.model_validate(document, strict=True)  # `false` is no threshold of 0
    except ValidationError as error:
        # Without what was given: that may be megabytes.
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(step)[:60] for step in first["loc"])
        # The model's name, which that message has, says nothing to a client.
        wrong_kind = first["type"] == "model_type"
        message = "Input should be an object" if wrong_kind else str(first["msg"])[:200]
        raise InvalidRequestError(f"`{where}`: {message}." if where else f"{message}.") from None
