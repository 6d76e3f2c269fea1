"""uvicorn's server with a shutdown that loses nothing.

Bare uvicorn closes its listener at the first signal and lets the signal's default action end
the process (exit code 143). Here the listener stays open for a while, so that a load balancer
notices from `/health/ready` and whoever comes too late gets an answer; requests that were taken
are finished; and the exit code is 0. SIGHUP reloads the checkpoint.
"""

import asyncio
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

import uvicorn
from uvicorn.server import HANDLED_SIGNALS

from app.serve.service import Service

logger = logging.getLogger(__name__)

_LAST_ANSWERS_S: Final = 2
"""For writing the answers of requests that were given up, in seconds."""


class DrainingServer(uvicorn.Server):
    """Serves until a signal comes, then drains.

    Args:
        config: uvicorn's configuration, with the application.
        service: The state of that application.

    Attributes:
        exit_code: What the process should exit with after `run`.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._signalled_at: float | None = None
        self.exit_code = 0

    def fail(self, exit_code: int) -> None:
        """Stop at once, without grace: there never was anything to serve."""
        self.exit_code = exit_code
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle the signals while serving, without raising them again afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()

        # Signals come in the middle of a callback: what they change is left to one of its own.
        def drain(sig: int, frame: FrameType | None) -> None:
            self.handle_exit(sig, frame)
            loop.call_soon_threadsafe(self._service.drain)

        before = {number: signal.signal(number, drain) for number in HANDLED_SIGNALS}
        if sys.platform != "win32":  # which has no SIGHUP

            def reload(sig: int, frame: FrameType | None) -> None:
                loop.call_soon_threadsafe(self._service.reload)

            before[signal.SIGHUP] = signal.signal(signal.SIGHUP, reload)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end on the first signal, end the process on the second."""
        if self._signalled_at is not None:
            os._exit(128 + sig)
        self._signalled_at = time.monotonic()
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what was taken, then close."""
        if self._signalled_at is not None:
            settings = self._service.settings
            logger.info(
                "draining: new work gets 503, requests in progress have %g s; a second signal "
                "stops at once",
                settings.drain_s,
            )
            await asyncio.sleep(self._signalled_at + settings.drain_grace_s - time.monotonic())
            self._service.refuse_unfinished_uploads()
            left_s = max(0.0, self._signalled_at + settings.drain_s - time.monotonic())
            asyncio.get_running_loop().call_later(left_s, self._give_up)
            self.config.timeout_graceful_shutdown = math.ceil(left_s) + _LAST_ANSWERS_S
        await super().shutdown(sockets)
        # Those that are idle were closed at the start; whoever is left has not read its answer.
        if self._signalled_at is not None and (cut := len(self.server_state.connections)):
            logger.error("%d answers were not read within FCN_DRAIN_S", cut)
            self.exit_code = 1

    def _give_up(self) -> None:
        if lost := self._service.give_up():
            logger.error("%d requests were not answered within FCN_DRAIN_S", lost)
            self.exit_code = 1
