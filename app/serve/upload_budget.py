"""What uploads hold in memory until they are decoded, counted and bounded together."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from app.serve.admission import OverloadedError
from app.serve.image_form import Received

OVERHEAD_BYTES: Final = 65_536
"""What an upload costs besides its own bytes: uvicorn buffers that much of a body before it
stops reading the socket (`uvicorn.protocols.http.flow_control.HIGH_WATER_LIMIT`)."""


class UploadsFullError(OverloadedError):
    """Too many bytes of uploads are held."""


class Upload:
    """One upload's bytes and its share of the budget.

    Attributes:
        data: The photo's bytes, once received.
        name: Its file name, without folders, if it has one.
    """

    def __init__(self, budget: "UploadBudget") -> None:
        self._budget = budget
        self._held = 0
        self.data = b""
        self.name: str | None = None

    def count(self, arrived: int) -> None:
        """Count bytes that have arrived.

        Raises:
            UploadsFullError: If the budget has no room for them.
        """
        self._budget.check(arrived)
        self._budget.held += arrived
        self._held += arrived

    def divide(self, images: Sequence["Received"]) -> "list[Upload]":
        """Return an upload for each image, which can be released by itself.

        What is held besides the images goes to the first.
        """
        parts = []
        for image in images:
            part = Upload(self._budget)
            part.data, part.name = image.data, image.name
            part._held = len(image.data)
            self._held -= part._held
            parts.append(part)
        parts[0]._held += self._held
        self._held = 0
        return parts

    def release(self) -> None:
        """Let go of the bytes and give their share back."""
        self.data = b""
        self._budget.held -= self._held
        self._held = 0


class UploadBudget:
    """One bound for the bytes of all uploads that are held and not yet decoded.

    What counts is what has arrived, not what is announced, so a client that stalls holds
    little. Each upload also counts `OVERHEAD_BYTES`, which bounds their number.

    Args:
        max_bytes: The bound.
        retry_after: When there should be room again, in whole seconds.
    """

    def __init__(self, max_bytes: int, *, retry_after: Callable[[], int]) -> None:
        self._max_bytes = max_bytes
        self._retry_after = retry_after
        self.held = 0

    @contextmanager
    def open(self, announced: int = 0) -> Iterator[Upload]:
        """Begin an upload; at the end of the block it is released.

        Args:
            announced: The body's declared length in bytes, 0 if unknown.

        Raises:
            UploadsFullError: If that much would not fit now.
        """
        self.check(OVERHEAD_BYTES + announced)
        upload = Upload(self)
        upload.count(OVERHEAD_BYTES)
        try:
            yield upload
        finally:
            upload.release()

    def check(self, more: int) -> None:
        """Raise UploadsFullError if `more` bytes would pass the bound."""
        if self.held + more > self._max_bytes:
            raise UploadsFullError(
                "The server is receiving too many uploads at once: "
                f"{self.held / 1e6:.1f} MB of at most {self._max_bytes / 1e6:.1f} MB are held.",
                self._retry_after(),
            )
