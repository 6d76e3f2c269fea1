"""The client for programs without an event loop."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import httpx
import numpy as np
from numpy.typing import NDArray

from app.client.answers import Reply
from app.client.exchange import (
    RETRIES,
    SEND_FAILURES,
    TIMEOUT_S,
    Classes,
    Exchange,
    Send,
    Sleep,
    Steps,
    query,
    resume,
)
from app.client.folder import FolderReport, FolderRun, fetch_in_threads
from app.client.photos import Photo, read_photo
from app.client.results import Health, Model, Segmentation
from app.client.retries import Clock
from app.client.rich_answers import Probabilities

T = TypeVar("T")

_PIECE_BYTES: Final = 65_536
"""A body goes out in pieces of so many bytes, with a look at the clock before each."""


class Client:
    """Asks an FCN service for masks, over connections that are kept and used again.

    Every call ends, with its result or with a `SegmentationError`: within `timeout`, and one last
    wait where a server stops in the middle of its answer. Threads may share a client.

    Args:
        url: Of the service, such as `http://localhost:8000`.
        timeout: Seconds for a call, with all its tries and the waits between them. The server is
            told, and drops work that nobody waits for any more.
        retries: Tries after the first, where another may help: the server is full or restarting,
            or the connection failed. Its Retry-After is honoured.
        http: To send with, where the defaults do not do: headers, proxies, certificates. It is not
            closed with this client.
        clock: Where time and chance come from.

    Raises:
        ValueError: If `url`, `timeout` or `retries` is impossible.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = TIMEOUT_S,
        retries: int = RETRIES,
        http: httpx.Client | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or Clock()
        self._exchange = Exchange(url, timeout_s=timeout, retries=retries, clock=self._clock)
        self._owns_http = http is None
        self._http = http or httpx.Client()

    def __enter__(self) -> Self:
        """Return the client; the block's end closes it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        if self._owns_http:
            self._http.close()

    def segment(
        self,
        photo: Photo,
        classes: Classes | None = None,
        scale: float | None = None,
        scores: bool = False,
    ) -> Segmentation:
        """Segment a photo.

        Args:
            photo: A path, an image file's bytes, an open binary file, a Pillow image, or RGB
                pixels, HxWx3 uint8; the last two are sent without loss.
            classes: Only these, by name or index; None means all.
            scale: At which the network sees the photo, 0.25 to 2; by default that of the model.
                The mask keeps the photo's size.
            scores: Whether to ask for each class's mean probability too.

        Raises:
            OSError: If the photo cannot be read.
            SegmentationError: If there is no mask; its subclasses say why.
            TypeError: If `photo` is none of these.
            ValueError: If an array is not HxWx3 uint8.
        """
        return self._run(self._exchange.segment(read_photo(photo), classes, scale, scores=scores))

    def download(
        self,
        photo: Photo,
        format: str = "png",
        classes: Classes | None = None,
        scale: float | None = None,
        scores: bool = False,
        tolerance: float | None = None,
    ) -> bytes:
        """Segment a photo and return the answer's bytes as they come.

        Args:
            photo: As for `segment`.
            format: png, grey, rle, overlay, zip, or what else the server has.
            classes: As for `segment`.
            scale: As for `segment`.
            scores: As for `segment`; for formats that have them.
            tolerance: How far outlines may be from the pixels' edges, in pixels, for formats that
                have outlines.

        Raises:
            OSError: As `segment`, and so the rest.
            SegmentationError: If there is no answer.
            TypeError: If `photo` is nothing that `segment` takes.
            ValueError: If an array is not HxWx3 uint8.
        """
        params = query(format, classes, scale, scores=scores, tolerance=tolerance)
        return self._run(self._exchange.download(read_photo(photo), params))

    def polygons(
        self,
        photo: Photo,
        classes: Classes | None = None,
        scale: float | None = None,
        tolerance: float = 0.0,
        scores: bool = False,
    ) -> dict[str, Any]:
        """Segment a photo and return the outlines of its classes.

        Returns:
            A GeoJSON FeatureCollection in pixels, x to the right and y down: a feature for each
            class that is there, a MultiPolygon with class, area and fraction as properties.

        Args:
            photo: As for `segment`.
            classes: As for `segment`.
            scale: As for `segment`.
            tolerance: How far outlines may be from the pixels' edges, in pixels; 0 is exact.
            scores: As for `segment`.

        Raises:
            SegmentationError: If there is no answer; and the rest as `segment`.
        """
        params = query("polygons", classes, scale, scores=scores, tolerance=tolerance)
        return self._run(self._exchange.polygons(read_photo(photo), params))

    def probabilities(
        self, photo: Photo, classes: Classes | None = None, scale: float | None = None
    ) -> Probabilities:
        """Return how probable each class is at each pixel of a photo.

        Args:
            photo: As for `segment`.
            classes: As for `segment`.
            scale: As for `segment`.

        Raises:
            SegmentationError: If there is no answer; and the rest as `segment`.
        """
        params = query("probabilities", classes, scale)
        return self._run(self._exchange.probabilities(read_photo(photo), params))

    def confidence(
        self, photo: Photo, classes: Classes | None = None, scale: float | None = None
    ) -> NDArray[np.float32]:
        """Return the probability of the class that each pixel got, HxW, in steps of 1/255.

        Args:
            photo: As for `segment`.
            classes: As for `segment`; where another class is it is 0.
            scale: As for `segment`.

        Raises:
            SegmentationError: If there is no answer; and the rest as `segment`.
        """
        params = query("confidence", classes, scale)
        return self._run(self._exchange.confidence(read_photo(photo), params))

    def model(self) -> Model:
        """Return what is served: classes, architecture, training.

        Raises:
            SegmentationError: If there is no answer.
        """
        return self._run(self._exchange.model())

    def health(self) -> Health:
        """Return what the server is doing.

        Raises:
            SegmentationError: If there is no answer.
        """
        return self._run(self._exchange.health())

    def wait_until_ready(self, timeout: float = TIMEOUT_S) -> None:
        """Return once the server takes work, also if it has not been started yet.

        Raises:
            DeadlineError: If that takes longer than `timeout` seconds.
            SegmentationError: If something else is at the URL.
        """
        self._run(self._exchange.wait_until_ready(timeout))

    def segment_folder(
        self,
        folder: str | Path | Sequence[str | Path],
        out: str | Path,
        format: str = "png",
        *,
        parallel: int = 4,
        overwrite: bool = False,
        progress: bool = True,
        classes: Classes | None = None,
        scale: float | None = None,
        scores: bool = False,
        tolerance: float | None = None,
    ) -> FolderReport:
        """Write the masks of all photos in a folder and its subfolders.

        A mask has its photo's name and place. What `out` holds already is left out, so that a
        second call does what a first one did not reach; a hidden file there tells it what the
        masks were asked for with. A photo that fails does not stop the rest; a server that has gone
        does. Ctrl-C leaves whole files only.

        Args:
            folder: A folder, or several of them and of image files.
            out: Folder for the masks; it is made.
            format: As for `download`.
            parallel: Photos under way at a time.
            overwrite: Whether to make masks again that are there.
            progress: Whether to show it on stderr: a bar on a terminal, lines elsewhere.
            classes: As for `segment`.
            scale: As for `segment`.
            scores: As for `download`.
            tolerance: As for `download`.

        Raises:
            FolderError: If there is nothing to segment, two masks would have one name, or the masks
                that are there were made with other arguments and `overwrite` is false.
            OSError: If a folder cannot be read or a mask cannot be written.
            SegmentationError: If the server does not answer at all.
            ValueError: If `parallel` is below 1.
        """
        params = query(format, classes, scale, scores=scores, tolerance=tolerance)
        run = FolderRun(folder, Path(out), params, parallel=parallel, overwrite=overwrite)
        with run.showing(progress):
            if run.pending:  # one clear error instead of one a photo
                self._run(self._exchange.model(), run.waiting)
            fetch_in_threads(
                run, lambda photo: self._run(self._exchange.download(read_photo(photo), params))
            )
        return run.report()

    def _run(self, steps: Steps[T], waiting: Callable[[str], None] | None = None) -> T:
        outcome: Reply | BaseException | None = None
        try:
            while True:
                step = resume(steps, outcome)
                if isinstance(step, Sleep):
                    if waiting is not None and step.why is not None:
                        waiting(step.why)
                    self._clock.sleep(step.seconds)
                    outcome = None
                    continue
                try:
                    outcome = self._send(step)
                except SEND_FAILURES as error:
                    outcome = error
        except StopIteration as stop:
            result: T = stop.value
            return result

    def _send(self, send: Send) -> Reply:
        # The HTTP client bounds each wait for the network by what was left at the beginning, but
        # not their sum.
        ends = self._clock.monotonic() + send.timeout_s
        headers = dict(send.headers)
        if send.body:
            headers["Content-Length"] = str(len(send.body))  # of an iterator nobody knows it

        def in_time(pieces: Iterable[bytes]) -> Iterator[bytes]:
            for piece in pieces:
                if self._clock.monotonic() > ends:
                    raise TimeoutError
                yield piece

        with self._http.stream(
            send.method,
            send.url,
            params=send.params,
            headers=headers,
            content=in_time(_pieces(send.body)) if send.body else None,
            timeout=send.timeout,
        ) as response:
            body = b"".join(in_time(response.iter_bytes()))
            return Reply(response.status_code, response.headers, body)


def _pieces(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), _PIECE_BYTES):
        yield body[start : start + _PIECE_BYTES]
