"""The engine that serves and the one that takes its place: at most two at a time.

And for a moment one more: that of a forward which nobody waits for any longer.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from app.inference.engine import Engine


def model_label(engine: Engine) -> str:
    """Which model it runs, as `X-Model` says it: its name and the start of its version."""
    return f"{engine.card.name}@{engine.version[:12]}"


@dataclass(slots=True, eq=False)
class _Version:
    """An engine and the number of requests that keep it."""

    engine: Engine
    requests: int = 0


class Versions:
    """The engine for new requests, and the one before it for as long as a request keeps that.

    The first engine is loaded like all that follow. One is loaded at a time, and none while
    both of these are there: the memory of a third is never needed. A request keeps an engine
    for `FCN_REQUEST_TIMEOUT_S` at most, so the wait for it is bounded too.

    Everything but the loading itself happens in the event loop.

    Args:
        load: Makes an engine; blocking, called in a thread of its own.
        on_loaded: Called with an engine that serves from now on, and the one it replaces.
        on_failed: Called with the error if none could be made; what serves goes on serving.
    """

    def __init__(
        self,
        load: Callable[[], Engine],
        *,
        on_loaded: Callable[[Engine, Engine | None], None],
        on_failed: Callable[[Exception], None],
    ) -> None:
        self._load = load
        self._on_loaded = on_loaded
        self._on_failed = on_failed
        self._current: _Version | None = None
        self._replaced: _Version | None = None
        self._wanted = False
        self._loading = False
        self._closed = False
        self._thread: threading.Thread | None = None

    @property
    def engine(self) -> Engine | None:
        """The engine for new requests; None until the first is loaded."""
        return self._current.engine if self._current else None

    @property
    def busy(self) -> bool:
        """Whether a thread is at work on an engine."""
        return self._thread is not None and self._thread.is_alive()

    @contextmanager
    def in_use(self) -> Iterator[Engine]:
        """Keep the engine that serves now until the block ends, whatever replaces it meanwhile.

        Raises:
            RuntimeError: If there is none yet.
        """
        version = self._current
        if version is None:
            raise RuntimeError("no engine is loaded")
        version.requests += 1
        try:
            yield version.engine
        finally:
            version.requests -= 1
            if version is self._replaced and not version.requests:
                self._replaced = None
                self._proceed()

    def load(self) -> None:
        """Load an engine and let it serve; returns at once.

        If that must wait, for another load or for requests that keep the replaced engine, it
        follows then, and only once however often it was called: a load that begins after the
        last call sees what all of them meant.
        """
        self._wanted = not self._closed
        self._proceed()

    def close(self) -> None:
        """Load nothing more; what is being loaded now will not serve."""
        self._closed = True
        self._wanted = False

    def _proceed(self) -> None:
        if not self._wanted or self._loading or self._replaced is not None:
            return
        self._wanted = False
        # A daemon, so that a process told to stop need not wait for a checkpoint to load.
        self._thread = threading.Thread(
            target=self._work, args=(asyncio.get_running_loop(),), name="load", daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError as error:  # the system has no thread left
            self._on_failed(error)
        else:
            self._loading = True

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make an engine and hand it to the event loop; runs in the thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: there is nobody to serve
            try:
                engine = self._load()
            except Exception as error:
                loop.call_soon_threadsafe(self._failed, error)
            else:
                loop.call_soon_threadsafe(self._loaded, engine)

    def _loaded(self, engine: Engine) -> None:
        self._loading = False
        if self._closed:
            return
        before, self._current = self._current, _Version(engine)
        self._replaced = before if before and before.requests else None
        self._on_loaded(engine, before.engine if before else None)
        self._proceed()

    def _failed(self, error: Exception) -> None:
        self._loading = False
        if self._closed:
            return
        self._on_failed(error)
        self._proceed()
