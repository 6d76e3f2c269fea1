"""Servers as processes: on a free port, stopped without a trace, frozen while others run."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Final
from urllib.parse import urlsplit

import httpx
from prometheus_client.parser import text_string_to_metric_families

from app.errors import UsageError

START_S: Final = 300.0
"""Longest time from start to ready, in seconds: large checkpoints, slow disks."""

ANSWER_S: Final = 120.0
"""How long an answer may take, in seconds; on a CPU a large photo takes many."""

STOP_S: Final = 10.0
"""How long a server may need to end after SIGTERM, in seconds; then it is killed."""

INTERRUPTS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end this command, in order."""

_URL_FORM: Final = "the URL of a server looks like http://localhost:8000"
_POLL_S: Final = 0.05
_TAIL_BYTES: Final = 8192


@dataclass(frozen=True)
class Command:
    """How to start a server.

    Attributes:
        name: What tables call it.
        module: Run as `python -m MODULE --port PORT`.
        arguments: More arguments.
        ready: Path that answers 200 when it is ready.
        environment: Variables that are added to this process's.
    """

    name: str
    module: str
    arguments: Sequence[str]
    ready: str
    environment: Mapping[str, str]


class Server:
    """A server under test.

    Args:
        name: What tables call it.
        url: Without a path.
        process: It, if it was started here; the leader of a session of its own.
        log: Its output.

    Attributes:
        name: What tables call it.
        host: Name or address.
        port: TCP port.
        address: Both, as in the `Host` header.
        client: For single requests.

    Raises:
        UsageError: If the URL is none of a plain HTTP server.
    """

    def __init__(
        self,
        name: str,
        url: str,
        process: "subprocess.Popen[bytes] | None" = None,
        log: IO[bytes] | None = None,
    ) -> None:
        try:
            parts, base_url = urlsplit(url), httpx.URL(url)
            port = parts.port
        except (ValueError, httpx.InvalidURL) as error:
            raise UsageError(f"{url}: {error}; {_URL_FORM}") from None
        if parts.scheme != "http" or not parts.hostname or parts.path.strip("/"):
            raise UsageError(f"{url}: {_URL_FORM}")
        self.name = name
        self.host = parts.hostname
        self.port = port or 80
        self.address = parts.netloc
        # No proxy stands between this machine and itself.
        self.client = httpx.Client(
            base_url=base_url,
            timeout=ANSWER_S,
            trust_env=False,
            # A thawed server may be about to close a connection that idled meanwhile.
            limits=httpx.Limits(max_keepalive_connections=0),
        )
        self._process = process
        self._log = log

    def wait_until_ready(self, path: str) -> None:
        """Wait until `path` answers 200.

        Raises:
            UsageError: If the server ends, or is not ready in time.
        """
        give_up = time.monotonic() + START_S
        while time.monotonic() < give_up:
            self.check()
            with contextlib.suppress(httpx.TransportError):
                if self.client.get(path).status_code == 200:
                    return
            time.sleep(_POLL_S)
        raise UsageError(f"{self.name} was not ready after {START_S:g} s: {self._last_words()}")

    def check(self) -> None:
        """Raise UsageError if the server has ended."""
        if self._process is not None and self._process.poll() is not None:
            raise UsageError(
                f"{self.name} ended with exit code {self._process.returncode}: {self._last_words()}"
            )

    def freeze(self) -> None:
        """Keep the process, if it is ours, from running until it is thawed.

        A server that is idle need not be quiet: LitServe polls its queues all the time.
        """
        self._signal(signal.SIGSTOP)

    @contextmanager
    def thawed(self) -> Iterator[None]:
        """Let a frozen process run in this block."""
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.freeze()

    def metrics(self) -> dict[str, float]:
        """Return the samples without labels of `/metrics`; empty if there is no such thing."""
        try:
            answer = self.client.get("/metrics")
        except httpx.TransportError:
            return {}
        if answer.status_code != 200:
            return {}
        return {
            sample.name: sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
            if not sample.labels
        }

    def stop(self) -> None:
        """End the process, if it is ours, and all it has started."""
        self.client.close()
        if self._process is None:
            return
        try:
            self._signal(signal.SIGCONT)
            self._signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S)
        finally:
            self._signal(signal.SIGKILL)  # its children too, if it left any
            self._process.wait()

    def _signal(self, number: int) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _last_words(self) -> str:
        if self._log is None:
            return "it says nothing"
        # Not by seeking: the server writes at the offset that this file descriptor shares with it.
        size = os.fstat(self._log.fileno()).st_size
        tail = os.pread(self._log.fileno(), _TAIL_BYTES, max(0, size - _TAIL_BYTES))
        lines = [line for line in tail.decode(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else "it said nothing"


@contextmanager
def started(command: Command) -> Iterator[Server]:
    """Start a server, wait until it is ready, and stop it at the end of the block.

    In a session of its own: Ctrl-C reaches this process only, which then stops it in order.

    Raises:
        UsageError: If it ends before it is ready.
    """
    port = _free_port()
    words = [sys.executable, "-m", command.module, "--port", str(port), *command.arguments]
    with tempfile.TemporaryFile() as log:
        server = None
        try:
            with _interrupts_held():
                process = subprocess.Popen(
                    words,
                    env={**os.environ, **command.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                server = Server(command.name, f"http://127.0.0.1:{port}", process, log)
            server.wait_until_ready(command.ready)
            yield server
        finally:
            if server is not None:
                server.stop()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let Ctrl-C and its kin take effect at the end of this block only.

    A process that is interrupted while it forks would forget its child. Signals are not blocked,
    because the child would inherit that.
    """
    held: list[int] = []
    before = {
        number: signal.signal(number, lambda number, frame: held.append(number))
        for number in INTERRUPTS
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if held:
        signal.raise_signal(held[0])


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
