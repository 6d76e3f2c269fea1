"""What one process is doing: starting, ready, draining or failed, and the pipeline it runs."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Final

import torch

from app.inference.engine import Engine
from app.serve.deadline import RequestScope
from app.serve.errors import ModelDeadError, NotReadyError
from app.serve.pipeline import Pipeline
from app.serve.settings import Settings
from app.serve.telemetry import Telemetry

logger = logging.getLogger(__name__)

_STARTING_RETRY_S: Final = 2
_DRAINING_RETRY_S: Final = 1

LoadEngine = Callable[[Settings], Engine]


class Phase(StrEnum):
    """What the process is doing, in the order it goes through."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


def load_engine(settings: Settings) -> Engine:
    """Load the checkpoint and warm it up; blocking, takes seconds.

    Raises:
        CheckpointError: If the file is no usable checkpoint.
        OSError: If it cannot be read.
        ValueError: If the device or precision is not to be had.
    """
    engine = Engine.load(settings.checkpoint, device=settings.device, precision=settings.precision)
    if settings.warm_up_sizes:
        engine.warm_up(settings.warm_up_sizes)
    return engine


class Service:
    """The state behind the routes.

    Args:
        settings: How to serve.
        telemetry: Where figures go.
        load: Makes the engine; called in a thread of its own.
        on_failure: Called in the event loop if the engine cannot be made. It must end the
            process: one that never becomes ready helps nobody.
    """

    def __init__(
        self,
        settings: Settings,
        telemetry: Telemetry,
        *,
        load: LoadEngine,
        on_failure: Callable[[Exception], None],
    ) -> None:
        self.settings = settings
        self.telemetry = telemetry
        self.phase = Phase.STARTING
        self.engine: Engine | None = None
        self.stuck = False
        self._pipeline: Pipeline | None = None
        self._load = load
        self._on_failure = on_failure
        # A daemon, so that a process told to stop need not wait for a checkpoint to load.
        self._loader = threading.Thread(target=self._load_in_thread, name="load", daemon=True)
        self._began = time.monotonic()
        self._scopes: set[RequestScope] = set()

    @property
    def uptime_s(self) -> float:
        """Seconds since the service was made."""
        return time.monotonic() - self._began

    @property
    def alive(self) -> bool:
        """Whether the process works, or may work later."""
        if self.phase is Phase.FAILED:
            return False
        return self._pipeline is None or self._pipeline.alive or self.phase is Phase.DRAINING

    @property
    def running_pipeline(self) -> Pipeline | None:
        """The pipeline, once there is one, whatever the phase."""
        return self._pipeline

    @property
    def model_label(self) -> str | None:
        """Which model serves, as `X-Model` says it: its name and the start of its version."""
        return f"{self.engine.card.name}@{self.engine.version[:12]}" if self.engine else None

    def pipeline(self) -> Pipeline:
        """Return the pipeline for new work.

        Raises:
            NotReadyError: If the process is starting or draining.
            ModelDeadError: If it can never work again.
        """
        self.check_ready()
        assert self._pipeline is not None  # check_ready saw to it
        return self._pipeline

    def check_ready(self) -> None:
        """Raise NotReadyError or ModelDeadError unless new work can be taken."""
        if not self.alive:
            raise ModelDeadError("The model cannot run any more; this process must be restarted.")
        if self.phase is Phase.DRAINING:
            raise NotReadyError(
                "The server is shutting down and takes no new work; send this to another one.",
                _DRAINING_RETRY_S,
            )
        self.loaded_engine()

    def loaded_engine(self) -> Engine:
        """Return the engine; raises NotReadyError while it is being loaded."""
        if self.engine is None:
            raise NotReadyError("The server is loading its checkpoint.", _STARTING_RETRY_S)
        return self.engine

    @contextmanager
    def working_on(self, scope: RequestScope) -> Iterator[None]:
        """Let a shutdown reach the request in this block."""
        self._scopes.add(scope)
        try:
            yield
        finally:
            self._scopes.discard(scope)

    def start(self) -> None:
        """Begin to load the engine; returns at once. Needs a running event loop."""
        self._loop = asyncio.get_running_loop()
        self._loader.start()

    def drain(self) -> None:
        """Take no new work from now on; what was taken goes on."""
        self.phase = Phase.DRAINING

    def refuse_unfinished_uploads(self) -> int:
        """Answer requests that are still being received with 503; return how many there were.

        They were never taken, and a shutdown does not wait for slow senders.
        """
        return self._abort([scope for scope in self._scopes if not scope.received])

    def give_up(self) -> int:
        """Answer every request in progress with 503; return how many there were."""
        return self._abort(list(self._scopes))

    def _abort(self, scopes: list[RequestScope]) -> int:
        for scope in scopes:
            scope.abort(
                NotReadyError(
                    "The server shut down before it could answer; send this to another one.",
                    _DRAINING_RETRY_S,
                )
            )
        return len(scopes)

    async def stop(self) -> None:
        """Close the pipeline; notes in `stuck` if a thread is still in torch after that."""
        self.phase = Phase.DRAINING
        self.stuck = self._loader.is_alive()
        if self._pipeline is not None:
            self.stuck = not await self._pipeline.close()

    def _load_in_thread(self) -> None:
        try:
            engine = self._load(self.settings)
        except Exception as error:
            self._loop.call_soon_threadsafe(self._fail, error)
        else:
            self._loop.call_soon_threadsafe(self._become_ready, engine)

    def _become_ready(self, engine: Engine) -> None:
        if self.phase is not Phase.STARTING:
            return  # told to stop while it loaded
        try:
            self.engine = engine
            self._pipeline = Pipeline(engine, self.settings, self.telemetry)
            self._export_state(engine, self._pipeline)
        except Exception as error:
            # The loop would only log it, and the process stay "starting" for ever.
            self._fail(error)
            return
        self.phase = Phase.READY
        logger.info("ready: %s (%s)", self.model_label, engine.reason)

    def _fail(self, error: Exception) -> None:
        self.phase = Phase.FAILED
        self._on_failure(error)

    def _export_state(self, engine: Engine, pipeline: Pipeline) -> None:
        telemetry = self.telemetry
        telemetry.show_model(
            name=engine.card.name,
            version=engine.version,
            device=str(engine.device),
            precision=engine.precision,
        )
        telemetry.show(
            "fcn_queue_depth", "Photos that wait for the device.", lambda: pipeline.depth
        )
        telemetry.show(
            "fcn_admitted_requests",
            "Requests admitted and not yet answered.",
            lambda: pipeline.admission.requests,
        )
        telemetry.show(
            "fcn_admitted_pixels",
            "Pixels of the photos admitted and not yet answered.",
            lambda: pipeline.admission.pixels,
        )
        telemetry.show(
            "fcn_upload_bytes",
            "Bytes of uploads held and not yet decoded, with 64 KiB for each.",
            lambda: pipeline.uploads.held,
        )
        if engine.device.type == "cuda":
            device = engine.device
            telemetry.show(
                "fcn_device_memory_allocated_bytes",
                "Device memory in use by tensors.",
                lambda: torch.cuda.memory_allocated(device),
            )
            telemetry.show(
                "fcn_device_memory_reserved_bytes",
                "Device memory held by torch's allocator.",
                lambda: torch.cuda.memory_reserved(device),
            )
