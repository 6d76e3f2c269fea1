"""What one process is doing: starting, ready, draining or failed, and the pipeline it runs."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Final

import torch

from app.inference.device import take_share_of_threads, usual_lanes
from app.inference.engine import DeviceLostError, Engine
from app.inference.host_gpu import unused_gpu
from app.serve.deadline import RequestScope
from app.serve.errors import ModelDeadError, NotReadyError
from app.serve.pipeline import Pipeline
from app.serve.settings import Settings
from app.serve.telemetry import Telemetry
from app.serve.versions import Versions, model_label

logger = logging.getLogger(__name__)

_STARTING_RETRY_S: Final = 2
_DRAINING_RETRY_S: Final = 1

LoadEngine = Callable[[Settings, Engine | None], Engine]
"""Makes an engine from the settings and the engine that serves meanwhile, None if none does."""


class Phase(StrEnum):
    """What the process is doing, in the order it goes through."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


def load_engine(settings: Settings, serving: Engine | None = None) -> Engine:
    """Load the checkpoint, warm it up and find its batch caps; blocking, takes seconds.

    Args:
        settings: How to serve.
        serving: An engine that may be at work meanwhile. If it is as fast, its caps are taken
            over: what is timed beside it would be its load.

    Raises:
        CheckpointError: If the file is no usable checkpoint.
        OSError: If it cannot be read.
        ValueError: If the device or precision is not to be had.
    """
    engine = Engine.load(settings.checkpoint, device=settings.device, precision=settings.precision)
    take_share_of_threads(1.0)  # a new thread would begin with the share that another took last
    if settings.warm_up_sizes:
        engine.warm_up(settings.warm_up_sizes)
        if serving is None or not engine.adopt_caps(serving):
            engine.measure_caps(
                most_images=settings.batch_images,
                most_pixels=settings.batch_pixels,
                lanes=lanes_of(settings, engine),
            )
    return engine


def lanes_of(settings: Settings, engine: Engine) -> int:
    """Return how many batches may run at a time on an engine's device."""
    return min(settings.lanes or usual_lanes(engine.most_lanes), engine.most_lanes)


class Service:
    """The state behind the routes.

    Args:
        settings: How to serve.
        telemetry: Where figures go.
        load: Makes an engine; called in a thread of its own.
        on_failure: Called in the event loop if the first engine cannot be made. It must end the
            process: one that never becomes ready helps nobody.

    Attributes:
        versions: The engine that serves, and the one that takes its place.
        stuck: Whether a thread was still in torch when the service had stopped.
        notice: What people should know about how it runs: a GPU that lies idle; None if nothing.
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
        self.versions = Versions(
            self._load_engine, on_loaded=self._on_loaded, on_failed=self._on_load_failed
        )
        self.stuck = False
        self.notice: str | None = None
        self._pipeline: Pipeline | None = None
        self._load = load
        self._on_failure = on_failure
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
    def engine(self) -> Engine | None:
        """The engine for new requests, once there is one."""
        return self.versions.engine

    @property
    def model_label(self) -> str | None:
        """Which model serves, as `X-Model` says it."""
        return model_label(self.engine) if self.engine else None

    def pipeline(self) -> Pipeline:
        """Return the pipeline for new work.

        Raises:
            NotReadyError: If the process is starting or draining.
            ModelDeadError: If it can never work again.
        """
        self.check_ready()
        assert self._pipeline is not None  # check_ready saw to it
        return self._pipeline

    def check_alive(self) -> None:
        """Raise ModelDeadError if only a restart helps."""
        if not self.alive:
            raise ModelDeadError("The model cannot run any more; this process must be restarted.")

    def check_ready(self) -> None:
        """Raise NotReadyError or ModelDeadError unless new work can be taken."""
        self.check_alive()
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
        self.versions.load()

    def reload(self) -> None:
        """Load the checkpoint again; once warm it takes the place of the one that serves.

        Returns at once. While a checkpoint is being loaded the wish is kept and followed once.
        If the file is bad, what serves goes on serving.
        """
        if self.phase in (Phase.DRAINING, Phase.FAILED) or not self.alive:
            state = self.phase if self.phase is not Phase.READY else "dead"
            logger.warning("not reloading: the server is %s", state)
        else:
            self.versions.load()

    def drain(self) -> None:
        """Take no new work from now on; what was taken goes on."""
        self.phase = Phase.DRAINING
        self.versions.close()

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
        self.drain()
        closed = self._pipeline is None or await self._pipeline.close()
        self.stuck = self.versions.busy or not closed

    def _load_engine(self) -> Engine:
        if self.engine is not None:
            path = self.settings.checkpoint
            logger.info("reloading %s; %s serves meanwhile", path, self.model_label)
        return self._load(self.settings, self.engine)

    def _on_loaded(self, engine: Engine, before: Engine | None) -> None:
        if before is None:
            self._become_ready(engine)
            return
        self._show_model(engine)
        self.telemetry.count_reload("succeeded")
        logger.info("reloaded: %s -> %s", model_label(before), model_label(engine))

    def _on_load_failed(self, error: Exception) -> None:
        if self._pipeline is None:
            self._fail(error)
            return
        self.telemetry.count_reload("failed")
        if isinstance(error, DeviceLostError):
            # Lost for the engine that serves too, and nobody has noticed if there is no work.
            logger.critical("reload failed, no more work can be done: %s", error)
            self._pipeline.abandon()
            return
        expected = isinstance(error, ValueError | OSError | MemoryError | torch.OutOfMemoryError)
        logger.error(
            "reload failed, %s goes on serving: %s",
            self.model_label,
            str(error) or repr(error),
            exc_info=None if expected else error,
        )

    def _become_ready(self, engine: Engine) -> None:
        try:
            self._pipeline = Pipeline(
                self.settings, self.telemetry, lanes=lanes_of(self.settings, engine)
            )
            self._show_model(engine)
            self._export_state(self._pipeline, engine.device)
        except Exception as error:
            # The loop would only log it, and the process stay "starting" for ever.
            self._fail(error)
            return
        self.phase = Phase.READY
        logger.info(
            "ready: %s (%s; at most %d batches at a time)",
            self.model_label,
            engine.reason,
            lanes_of(self.settings, engine),
        )
        if engine.device.type == "cpu" and self.settings.device == "auto":
            self.notice = unused_gpu()
            if self.notice is not None:
                logger.warning(self.notice)

    def _fail(self, error: Exception) -> None:
        self.phase = Phase.FAILED
        self.versions.close()
        self._on_failure(error)

    def _show_model(self, engine: Engine) -> None:
        self.telemetry.show_model(
            name=engine.card.name,
            version=engine.version,
            device=str(engine.device),
            precision=engine.precision,
        )

    def _export_state(self, pipeline: Pipeline, device: torch.device) -> None:
        telemetry = self.telemetry
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
            "fcn_expected_wait_seconds",
            "How long a request that came now would wait behind others.",
            lambda: pipeline.expected_wait_s,
        )
        telemetry.show(
            "fcn_upload_bytes",
            "Bytes of uploads held and not yet decoded, with 64 KiB for each.",
            lambda: pipeline.uploads.held,
        )
        telemetry.show(
            "fcn_answer_bytes",
            "Bytes of answers that are being made or sent.",
            lambda: pipeline.answers.held,
        )
        if device.type == "cuda":
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
