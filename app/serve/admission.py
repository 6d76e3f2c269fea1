"""The bound on photos held in memory, and what a client is told when there is no room."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class OverloadedError(Exception):
    """There is no room for this request now.

    Attributes:
        retry_after_s: When there should be, in whole seconds, at least 1.
    """

    def __init__(self, detail: str, retry_after_s: int) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class QueueFullError(OverloadedError):
    """Too many photos wait for their masks."""


class Admission:
    """One bound for all requests whose photo is held, from before its decoding to its answer.

    A request that is given up (its client gone, its deadline passed) leaves at once. What a
    thread or the device is busy with at that moment is not counted any more but held until
    the step ends: at most one photo per decoding or encoding thread, and one batch.

    Args:
        max_requests: Requests held at once.
        max_pixels: Pixels of their photos together.
        retry_after: When there should be room again, in whole seconds; called from any thread.
    """

    def __init__(
        self, *, max_requests: int, max_pixels: int, retry_after: Callable[[], int]
    ) -> None:
        self._max_requests = max_requests
        self._max_pixels = max_pixels
        self._retry_after = retry_after
        self._lock = threading.Lock()
        self.requests = 0
        self.pixels = 0

    def check(self) -> None:
        """Refuse before any work is done on a request that would find no room.

        Raises:
            QueueFullError: If the bound on requests is reached.
        """
        if self.requests >= self._max_requests:
            raise QueueFullError(
                f"The queue is full: {self.requests} requests are waiting for their masks.",
                self._retry_after(),
            )

    @contextmanager
    def place(self) -> Iterator["Place"]:
        """Return a place that is still to be taken, and given back when the block ends."""
        place = Place(self)
        try:
            yield place
        finally:
            place.leave()

    def enter(self, pixels: int) -> None:
        """Count a request in; see `Place.take`."""
        with self._lock:
            self.check()
            if self.pixels + pixels > self._max_pixels:
                raise QueueFullError(
                    f"The queue is full: {self.pixels / 1e6:.1f} megapixels are waiting for "
                    f"their masks, and the {pixels / 1e6:.1f} of this photo would pass the bound "
                    f"of {self._max_pixels / 1e6:.1f}.",
                    self._retry_after(),
                )
            self.requests += 1
            self.pixels += pixels

    def leave(self, pixels: int) -> None:
        """Count a request out."""
        with self._lock:
            self.requests -= 1
            self.pixels -= pixels


class Place:
    """One request's place. Thread-safe: the thread that reads the header takes it."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._lock = threading.Lock()
        self._pixels: int | None = None
        self._left = False

    def take(self, pixels: int) -> None:
        """Take the place for a photo of that many pixels.

        Raises:
            QueueFullError: If there is no room.
        """
        with self._lock:
            # A thread may come this far after its request was given up.
            if not self._left:
                self._admission.enter(pixels)
                self._pixels = pixels

    def leave(self) -> None:
        """Give the place back."""
        with self._lock:
            if self._pixels is not None and not self._left:
                self._admission.leave(self._pixels)
            self._left = True
