"""The project under Docker Compose, in a folder, with a name and on a port of its own."""

import json
import os
import shutil
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]
IMAGE = "fcn-service-proof"
REVISION = "0123456789abcdef0123456789abcdef01234567"

# What the image is built from and compose mounts; a clone has no more.
PARTS = (
    *("Dockerfile", ".dockerignore", "docker-compose.yml", "docker-compose.gpu.yml"),
    *("requirements.lock", "pyproject.toml", "LICENSE", "README.md"),
    *("app", "model", "checkpoints", "deploy"),
)

_began = time.monotonic()


def say(text: str) -> None:
    """Print a line with the seconds since the start."""
    print(f"[{time.monotonic() - _began:6.1f} s] {text}", flush=True)


@contextmanager
def step(name: str) -> Iterator[None]:
    """Say when a step is done and how long it took."""
    began = time.monotonic()
    yield
    say(f"{name}: {time.monotonic() - began:.1f} s")


class Stack:
    """A copy of the project and its containers.

    Args:
        folder: Where the copy goes; must be empty.
    """

    def __init__(self, folder: Path) -> None:
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        for part in PARTS:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, folder / part, ignore=ignored)
            else:
                shutil.copy(ROOT / part, folder / part)
        self.folder = folder
        self.name = f"fcnproof{os.getpid()}"
        self.address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{self.address}"
        # Containers read them as another user, and temporary folders are closed to others.
        self.data = folder / "data"
        self.data.mkdir()
        self.data.chmod(0o755)
        kept = {name: value for name, value in os.environ.items() if name[:4] != "FCN_"}
        kept.pop("COMPOSE_FILE", None)
        self.environment = kept | {
            "FCN_IMAGE": IMAGE,
            "FCN_PUBLISH": self.address,
            "FCN_DATA": str(self.data),
            "FCN_REVISION": REVISION,
        }

    def run(
        self, *command: str, check: bool = True, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the project's folder.

        Args:
            *command: It.
            check: Whether to fail if it does.
            **settings: Environment variables in place of the stack's own.
        """
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment | settings,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(
                f"{' '.join(command)}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
            )
        return done

    def compose(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run `docker compose` for this stack."""
        return self.run("docker", "compose", "--project-name", self.name, *words, **options)

    def up(self) -> None:
        """Start the server and wait until it is healthy."""
        self.compose("up", "--detach", "--wait", "--wait-timeout", "300")

    def python(self, code: str) -> str:
        """Run Python inside the server's container and return what it printed."""
        return self.compose("exec", "-T", "serve", "python", "-c", code).stdout

    def inspect(self) -> dict[str, Any]:
        """Return what the engine knows of the server's container."""
        identity = self.compose("ps", "--all", "--quiet", "serve").stdout.strip()
        document: list[dict[str, Any]] = json.loads(self.run("docker", "inspect", identity).stdout)
        return document[0]

    def image(self) -> dict[str, Any]:
        """Return what the engine knows of the image."""
        document: list[dict[str, Any]] = json.loads(
            self.run("docker", "image", "inspect", IMAGE).stdout
        )
        return document[0]

    def log(self) -> str:
        """Return the server's log."""
        text = self.compose("logs", "--no-log-prefix", "serve").stdout
        # Some versions of Compose clear the line before each one, also where no terminal is.
        return text.replace("\x1b[2K", "")

    def model(self) -> dict[str, Any]:
        """Return `GET /model`."""
        document: dict[str, Any] = httpx.get(
            f"{self.url}/model", timeout=60, trust_env=False
        ).json()
        return document

    def post(self, photo: bytes, **query: str) -> httpx.Response:
        """Post a photo on a connection of its own."""
        identity = {"X-Request-ID": uuid.uuid4().hex}
        return httpx.post(
            f"{self.url}/segment",
            params=query,
            files={"image": photo},
            headers=identity,
            timeout=120,
            trust_env=False,
        )

    def reload(self) -> None:
        """Send SIGHUP as docs/deployment.md says."""
        self.compose("kill", "--signal", "HUP", "serve")

    def publish(self, checkpoint: str) -> None:
        """Put a checkpoint of the volume into the place that is served."""
        self.compose("run", "--rm", "publish", checkpoint)

    def remove(self) -> None:
        """Remove containers, network, volumes and image."""
        self.compose("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "10")
        self.run("docker", "image", "rm", "--force", IMAGE, check=False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(condition: Any, what: str, patience_s: float = 300) -> None:
    """Wait for what must happen; only a failure takes long."""
    give_up = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < give_up, f"waited {patience_s:g} s for {what}"
        time.sleep(0.2)


@dataclass
class Load:
    """Requests that were sent while a block ran.

    Attributes:
        answers: Those that were answered.
        unanswered: What became of the others.
    """

    answers: list[httpx.Response]
    unanswered: list[httpx.TransportError]


@contextmanager
def load(stack: Stack, photo: bytes, clients: int) -> Iterator[Load]:
    """Post a photo again and again while the block runs, each time on a new connection."""
    sent = Load([], [])
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                sent.answers.append(stack.post(photo, format="grey"))
            except httpx.TransportError as error:
                sent.unanswered.append(error)
                time.sleep(0.05)

    with ThreadPoolExecutor(clients) as pool:
        asking = [pool.submit(ask) for _ in range(clients)]
        try:
            until(lambda: len(sent.answers) >= clients, "the first answers")
            yield sent
        finally:
            over.set()
    for task in asking:
        task.result()
