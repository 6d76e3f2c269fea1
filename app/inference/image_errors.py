"""What can be wrong with an image that somebody sent."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_MAX_REASON: Final = 120
"""Characters of a decoder's own message that are passed on; some quote the file."""


class ImageError(ValueError):
    """The image cannot be used; `str(error)` is a sentence that the sender can act on."""


class UnknownFormat(ImageError):  # noqa: N818 - named after what is wrong, as HTTP statuses are
    """The bytes begin like no image format that is read here."""


class BrokenImage(ImageError):  # noqa: N818
    """The format is known, but the file is damaged, cut short, or of a kind nobody can show."""


class TooManyPixels(ImageError):  # noqa: N818
    """The header announces more pixels than are accepted; nothing was decoded.

    Attributes:
        width: In pixels.
        height: In pixels.
        limit: The most pixels that are accepted.
    """

    def __init__(self, width: int, height: int, limit: int) -> None:
        super().__init__(
            f"The image has {width} x {height} = {width * height:,} pixels; "
            f"at most {limit:,} are accepted."
        )
        self.width = width
        self.height = height
        self.limit = limit


@contextmanager
def reading(format_: str) -> Iterator[None]:
    """Report whatever the enclosed calls into Pillow raise as `BrokenImage`.

    Over damaged or hostile files Pillow's plugins raise nearly every built-in exception, among
    them SyntaxError, TypeError, KeyError, AttributeError, OverflowError, EOFError, struct.error
    and zlib.error; no list of them would be complete, or stay so. So the line is drawn by place
    instead of by type: only calls in which Pillow interprets bytes of the file stand inside, and
    what our own code does before and after is not covered, so that its bugs show as what they are.
    A MemoryError passes: within the limit on pixels, it tells about this machine, not the file.

    Raises:
        BrokenImage: A call raised.
    """
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:_MAX_REASON]
        detail = f" ({reason})" if reason else ""
        raise BrokenImage(
            f"The {format_} file is damaged, cut short or of an unsupported kind{detail}."
        ) from error
