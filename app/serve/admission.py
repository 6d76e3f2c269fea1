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
    """One bound for all requests that were taken, from the end of their upload to their answer.

    A request counts as soon as its body is there, before a thread is free to read its header:
    those that wait for one are as much a queue as those that wait for the device. Its pixels
    follow when the header tells them, before it is decoded.

    A request that is given up (its client gone, its deadline passed) leaves at once. What a
    thread or the device is busy with at that moment is not counted any more but held until
    the step ends: at most one photo per decoding or encoding thread, and one batch.

    Args:
        max_requests: Requests held at once.
        max_pixels: Pixels of their photos together.
        retry_after: When there should be room again, in whole seconds; called from any thread.

    Attributes:
        requests: Requests held.
        pixels: Pixels of those whose header has been read.
        unsized: Requests whose header has not been read.
        decoding: Requests whose header has been read and that do not wait for the device yet.
        decoding_pixels: Pixels of those, as the network will see them.
    """

    def __init__(
        self, *, max_requests: int, max_pixels: int, retry_after: Callable[[], int]
    ) -> None:
        self._max_requests = max_requests
        self._max_pixels = max_pixels
        self._retry_after = retry_after
        self.lock = threading.Lock()
        self.requests = 0
        self.pixels = 0
        self.unsized = 0
        self.decoding = 0
        self.decoding_pixels = 0

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

    def check_pixels(self, more: int) -> None:
        """Raise QueueFullError if so many more pixels would pass the bound."""
        if self.pixels + more > self._max_pixels:
            raise QueueFullError(
                f"The queue is full: {self.pixels / 1e6:.1f} megapixels are waiting for "
                f"their masks, and the {more / 1e6:.1f} of this photo would pass the bound "
                f"of {self._max_pixels / 1e6:.1f}.",
                self._retry_after(),
            )

    @contextmanager
    def place(self) -> Iterator["Place"]:
        """Take a place, which is given back when the block ends.

        Raises:
            QueueFullError: If the bound on requests is reached.
        """
        place = Place(self)
        try:
            yield place
        finally:
            place.leave()


class Place:
    """One request's place. Thread-safe: the thread that reads the header calls `take`.

    Args:
        admission: Where it is counted.

    Raises:
        QueueFullError: If the bound on requests is reached.
    """

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._pixels = 0
        self._input_pixels: int | None = None
        self._queued = False
        self._left = False
        with admission.lock:
            admission.check()
            admission.requests += 1
            admission.unsized += 1

    def take(self, pixels: int, input_pixels: int) -> None:
        """Count the photo's pixels, once its header has told them.

        Args:
            pixels: What it takes up, at its own size or the network's.
            input_pixels: What the network will see.

        Raises:
            QueueFullError: If there is no room for so many.
        """
        admission = self._admission
        with admission.lock:
            # A thread may come this far after its request was given up.
            if self._left:
                return
            admission.check_pixels(pixels)
            self._pixels = pixels
            self._input_pixels = input_pixels
            admission.pixels += pixels
            admission.unsized -= 1
            admission.decoding += 1
            admission.decoding_pixels += input_pixels

    def queued(self) -> None:
        """Note that the photo waits for the device from now on."""
        with self._admission.lock:
            self._leave_decoding()
            self._queued = True

    def leave(self) -> None:
        """Give the place back."""
        admission = self._admission
        with admission.lock:
            if self._left:
                return
            self._leave_decoding()
            admission.requests -= 1
            admission.pixels -= self._pixels
            self._left = True

    def _leave_decoding(self) -> None:
        if self._queued:
            return
        if self._input_pixels is None:
            self._admission.unsized -= 1
        else:
            self._admission.decoding -= 1
            self._admission.decoding_pixels -= self._input_pixels
