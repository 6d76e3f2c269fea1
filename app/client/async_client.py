"""The client for programs on an event loop."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

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
from app.client.folder import FolderReport, FolderRun, fetch_in_tasks
from app.client.photos import Photo, read_photo
from app.client.results import Health, Model, Segmentation
from app.client.retries import Clock
from app.client.rich_answers import Probabilities

T = TypeVar("T")


class AsyncClient:
    """`Client` for asyncio: the same calls with the same arguments, results and errors.

    A call that is cancelled ends at once and leaves the client as usable as before; the server
    notices and drops the work.

    Args:
        url: As for `Client`, and so the rest.
        timeout: Seconds for a call with all its tries.
        retries: Tries after the first.
        http: To send with, where the defaults do not do; not closed with this client.
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
        http: httpx.AsyncClient | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or Clock()
        self._exchange = Exchange(url, timeout_s=timeout, retries=retries, clock=self._clock)
        self._owns_http = http is None
        self._http = http or httpx.AsyncClient()

    async def __aenter__(self) -> Self:
        """Return the client; the block's end closes it."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        if self._owns_http:
            await self._http.aclose()

    async def segment(
        self,
        photo: Photo,
        classes: Classes | None = None,
        scale: float | None = None,
        scores: bool = False,
    ) -> Segmentation:
        """Segment a photo; see `Client.segment`."""
        data = await asyncio.to_thread(read_photo, photo)
        return await self._run(self._exchange.segment(data, classes, scale, scores=scores))

    async def download(
        self,
        photo: Photo,
        format: str = "png",
        classes: Classes | None = None,
        scale: float | None = None,
        scores: bool = False,
        tolerance: float | None = None,
    ) -> bytes:
        """Segment a photo and return the answer's bytes; see `Client.download`."""
        params = query(format, classes, scale, scores=scores, tolerance=tolerance)
        return await self._download(photo, params)

    async def polygons(
        self,
        photo: Photo,
        classes: Classes | None = None,
        scale: float | None = None,
        tolerance: float = 0.0,
        scores: bool = False,
    ) -> dict[str, Any]:
        """Segment a photo and return outlines; see `Client.polygons`."""
        data = await asyncio.to_thread(read_photo, photo)
        params = query("polygons", classes, scale, scores=scores, tolerance=tolerance)
        return await self._run(self._exchange.polygons(data, params))

    async def probabilities(
        self, photo: Photo, classes: Classes | None = None, scale: float | None = None
    ) -> Probabilities:
        """Return how probable each class is at each pixel; see `Client.probabilities`."""
        data = await asyncio.to_thread(read_photo, photo)
        params = query("probabilities", classes, scale)
        return await self._run(self._exchange.probabilities(data, params))

    async def confidence(
        self, photo: Photo, classes: Classes | None = None, scale: float | None = None
    ) -> NDArray[np.float32]:
        """Return how sure the network is at each pixel; see `Client.confidence`."""
        data = await asyncio.to_thread(read_photo, photo)
        params = query("confidence", classes, scale)
        return await self._run(self._exchange.confidence(data, params))

    async def model(self) -> Model:
        """Return what is served; see `Client.model`."""
        return await self._run(self._exchange.model())

    async def health(self) -> Health:
        """Return what the server is doing; see `Client.health`."""
        return await self._run(self._exchange.health())

    async def wait_until_ready(self, timeout: float = TIMEOUT_S) -> None:
        """Return once the server takes work; see `Client.wait_until_ready`."""
        await self._run(self._exchange.wait_until_ready(timeout))

    async def segment_folder(
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
        """Write the masks of all photos in a folder; see `Client.segment_folder`."""
        params = query(format, classes, scale, scores=scores, tolerance=tolerance)
        run = FolderRun(folder, Path(out), params, parallel=parallel, overwrite=overwrite)
        with run.showing(progress):
            if run.pending:
                await self._run(self._exchange.model(), run.waiting)
            await fetch_in_tasks(run, lambda photo: self._download(photo, params))
        return run.report()

    async def _download(self, photo: Photo, params: Mapping[str, str]) -> bytes:
        data = await asyncio.to_thread(read_photo, photo)
        return await self._run(self._exchange.download(data, params))

    async def _run(self, steps: Steps[T], waiting: Callable[[str], None] | None = None) -> T:
        outcome: Reply | BaseException | None = None
        try:
            while True:
                step = resume(steps, outcome)
                if isinstance(step, Sleep):
                    if waiting is not None and step.why is not None:
                        waiting(step.why)
                    await self._clock.sleep_async(step.seconds)
                    outcome = None
                    continue
                try:
                    outcome = await self._send(step)
                except SEND_FAILURES as error:
                    outcome = error
        except StopIteration as stop:
            result: T = stop.value
            return result

    async def _send(self, send: Send) -> Reply:
        async with asyncio.timeout(send.timeout_s):
            response = await self._http.request(
                send.method,
                send.url,
                params=send.params,
                headers=send.headers,
                content=send.body,
                timeout=send.timeout,
            )
        return Reply(response.status_code, response.headers, response.content)
