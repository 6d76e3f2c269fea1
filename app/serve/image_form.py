"""The images of a multipart form, as its bytes arrive."""

from typing import TYPE_CHECKING, Final, NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

IMAGE_FIELD: Final = "image"

EMPTY_IMAGE: Final = f"The field `{IMAGE_FIELD}` is empty."

_MOST_PARTS: Final = 64
"""Parts of a form that are looked through for images, besides these."""

_MOST_NAME: Final = 200
"""Letters kept of a file name: even four bytes each, it fits into a zip and a log line."""


class MissingImageError(Exception):
    """The request holds no usable image part; the message says why."""


class TooManyImagesError(Exception):
    """The form holds more images than a request may."""


class Received(NamedTuple):
    """An image of a request.

    Attributes:
        data: Its bytes; none at all for an empty part of a form that has several images.
        name: Its file name, without folders, if it has one.
    """

    data: bytes
    name: str | None


class ImageForm:
    """Keeps the parts called `image` of a multipart form, in memory, and nothing else.

    Args:
        boundary: What separates the parts.
        most: Most images.
    """

    def __init__(self, boundary: bytes | None, most: int) -> None:
        if not boundary:
            raise MissingImageError("The multipart content type has no boundary.")
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._on_part_begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_end": self._on_end,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)
        except FormParserError as error:
            raise MissingImageError(f"The multipart form is broken: {error}.") from error
        self._most = most
        self._others: list[str] = []
        self._images: list[tuple[str | None, list[bytes]]] = []
        self._header = bytearray()
        self._value = bytearray()
        self._disposition = b""
        self._keep = False
        self._ended = False

    def write(self, chunk: bytes) -> None:
        """Parse a chunk of the body; raises MissingImageError if it cannot be one."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise MissingImageError(f"The multipart form is broken: {error}.") from error

    def images(self) -> list[Received]:
        """Return the images after the end of the body; raises MissingImageError."""
        if not self._ended:
            raise MissingImageError("The multipart form ends before its closing boundary.")
        if not self._images:
            fields = ", ".join(f"`{name[:40]}`" for name in self._others[:5]) or "none"
            raise MissingImageError(f"The form has no field `{IMAGE_FIELD}`; its fields: {fields}.")
        images = [Received(b"".join(chunks), name) for name, chunks in self._images]
        if len(images) == 1 and not images[0].data:
            raise MissingImageError(EMPTY_IMAGE)
        return images

    def _on_part_begin(self) -> None:
        self._disposition = b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        self._keep = name == IMAGE_FIELD
        if self._keep:
            if len(self._images) == self._most:
                raise TooManyImagesError(
                    f"The form has more than {self._most} fields `{IMAGE_FIELD}`, the most that "
                    "one request may have; send several requests."
                )
            self._images.append((_base_name(options.get(b"filename")), []))
        else:
            self._others.append(name)
            if len(self._others) > _MOST_PARTS:
                raise MissingImageError(f"The form has more than {_MOST_PARTS} parts.")

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._keep:
            self._images[-1][1].append(data[start:end])

    def _on_end(self) -> None:
        self._ended = True


def _base_name(file_name: bytes | None) -> str | None:
    """Return a client's file name without folders and what cannot be printed; None if none is left.

    It comes back in answers only and never becomes a path here.
    """
    text = (file_name or b"").decode("utf-8", "replace").replace("\\", "/").rpartition("/")[2]
    name = "".join(letter for letter in text if letter.isprintable())[:_MOST_NAME].strip(". ")
    return name or None
