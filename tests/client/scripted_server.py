"""A server that does to a client what networks and servers do, and time that stands still.

Without a script it answers as the service does, with a network that labels each pixel by its red
value: 0 to 63 is class 0, 64 to 127 class 1 and so on.
"""

import asyncio
import io
import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from app.client import AsyncClient, Client
from app.client.retries import Clock
from app.inference import masks
from app.inference.engine import Segmentation
from app.inference.entries import mask_entries
from app.inference.render import UnknownClassError, class_ids
from model import ClassInfo

CLASSES = (
    ClassInfo("sky", (128, 128, 128)),
    ClassInfo("road", (128, 64, 128)),
    ClassInfo("car", (64, 0, 128)),
    ClassInfo("tree", (128, 128, 0)),
)
VERSION = "0123456789abcdef" * 4


def label_map_of(photo: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(photo.convert("RGB"))[..., 0] // 64


def photo_of(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the pixels of a photo, HxWx3, that gets these labels."""
    return np.repeat((labels * 64 + 5)[..., None], 3, axis=2).astype(np.uint8)


def png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: httpx.Headers
    body: bytes
    connection: tuple[str, int]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Listener"

    def do_GET(self) -> None:
        self._serve(b"")

    def do_POST(self) -> None:
        self._serve(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def reply(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("X-Request-ID", self.headers["X-Request-ID"])
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def _serve(self, body: bytes) -> None:
        parts = urlsplit(self.path)
        request = Request(
            self.command,
            parts.path,
            dict(parse_qsl(parts.query, keep_blank_values=True)),
            httpx.Headers(self.headers.items()),
            body,
            self.client_address,
        )
        owner = self.server.owner
        with owner.lock:
            owner.requests.append(request)
            scripted = owner.script.pop(0) if owner.script else well_behaved
        try:
            scripted(self, request)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client has gone


Behaviour = Callable[[Handler, Request], None]


def well_behaved(handler: Handler, request: Request) -> None:
    if request.path == "/model":
        handler.reply(200, as_json(model_document()), content_type="application/json")
    elif request.path == "/health":
        document = {
            "status": "ready",
            "version": "0.1.0",
            "uptime_s": 1.5,
            "model": {"name": "double", "version": VERSION},
            "device": "cpu",
            "precision": "fp32",
            "notice": None,
            "queue": {"requests": 3, "pixels": 9, "upload_bytes": 0},
        }
        handler.reply(200, as_json(document), content_type="application/json")
    elif request.path == "/health/ready":
        handler.reply(200, as_json({"status": "ready"}), content_type="application/json")
    else:
        _segment(handler, request)


def _segment(handler: Handler, request: Request) -> None:
    try:
        with Image.open(io.BytesIO(request.body)) as opened:
            photo = ImageOps.exif_transpose(opened).convert("RGB")
    except OSError:
        problem(415, "unknown-image-format", "The bytes are no image.")(handler, request)
        return
    try:
        selected = class_ids(request.query.get("classes"), CLASSES)
    except UnknownClassError as error:
        problem(422, "invalid-parameter", str(error))(handler, request)
        return
    labels = label_map_of(photo)
    wanted = request.query["format"]
    if wanted != "rle":
        kept = masks.select(labels, selected)
        body = {
            "png": lambda: masks.palette_png(kept, CLASSES),
            "grey": lambda: masks.grey_png(kept),
            "overlay": lambda: masks.overlay_png(np.asarray(photo), kept, CLASSES),
            "zip": lambda: masks.zip_of_masks(labels, CLASSES, selected),
        }[wanted]()
        media_type = "application/zip" if wanted == "zip" else "image/png"
        handler.reply(200, body, content_type=media_type)
        return
    document = rle_document(labels, selected, scores=request.query.get("scores") == "true")
    document["request_id"] = request.headers["x-request-id"]
    handler.reply(200, as_json(document), content_type="application/json")


def rle_document(
    labels: NDArray[np.uint8], selected: tuple[int, ...] | None = None, *, scores: bool = False
) -> dict[str, Any]:
    values = np.array([0.5, 0.75, 0.875, 1.0], np.float32) if scores else None
    height, width = labels.shape
    return {
        "request_id": "id",
        "model": {"name": "double", "version": VERSION},
        "image": {"width": width, "height": height},
        "masks": mask_entries(Segmentation(labels, values), CLASSES, selected, compressed=False),
        "timing_ms": {"decode": 1.0, "queue": 0.25, "transfer": 0.0, "forward": 2.0, "encode": 0.5},
    }


def model_document() -> dict[str, Any]:
    return {
        "name": "double",
        "version": VERSION,
        "architecture": {"variant": "fcn8s"},
        "classes": [
            {"index": index, "name": info.name, "color": info.hex_color}
            for index, info in enumerate(CLASSES)
        ],
        "training": {"epochs": 3},
        "temperature": 1.25,
        "scale": 0.5,
        "device": "cpu",
        "precision": "fp32",
    }


def as_json(document: object) -> bytes:
    return json.dumps(document).encode()


def answer(status: int, body: bytes = b"", **headers: str) -> Behaviour:
    return lambda handler, request: handler.reply(status, body, **headers)


def problem(status: int, slug: str, detail: str = "A sentence.", **headers: str) -> Behaviour:
    def behave(handler: Handler, request: Request) -> None:
        document = {
            "type": f"urn:fcn:{slug}",
            "title": slug,
            "status": status,
            "detail": detail,
            "request_id": request.headers["x-request-id"],
        }
        headers["content_type"] = "application/problem+json"
        handler.reply(status, as_json(document), **headers)

    return behave


def busy(retry_after: str | None = None, **headers: str) -> Behaviour:
    if retry_after is not None:
        headers["retry_after"] = retry_after
    return problem(429, "queue-full", "The queue is full.", **headers)


def hang_up(handler: Handler, request: Request) -> None:
    """Close the connection in place of an answer."""
    handler.close_connection = True


def reset(handler: Handler, request: Request) -> None:
    """Send a TCP reset in place of an answer."""
    linger_for_nothing = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_for_nothing)
    handler.connection.close()
    handler.close_connection = True


def break_off(handler: Handler, request: Request) -> None:
    """Close the connection in the middle of an answer."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
    handler.close_connection = True


def speak_gibberish(handler: Handler, request: Request) -> None:
    handler.wfile.write(b"\x00\x01 what?\r\n\r\n")
    handler.close_connection = True


def stall(handler: Handler, request: Request) -> None:
    """Take the request and never answer."""
    handler.server.owner.ended.wait(60)
    handler.close_connection = True


def stall_in_the_middle(handler: Handler, request: Request) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
    stall(handler, request)


def dribble(handler: Handler, request: Request) -> None:
    """Answer with a byte every now and then: each wait is short, together they never end."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while not handler.server.owner.ended.wait(0.02):
        handler.wfile.write(b" ")


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    owner: "ScriptedServer"

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.owner.connections.append(connection)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if not isinstance(error, OSError):  # clients that leave are part of the play
            self.owner.bugs.append(error)


class ScriptedServer:
    """Treats each request as the next entry of `script` says, and well once that is empty."""

    def __init__(self) -> None:
        self.script: list[Behaviour] = []
        self.requests: list[Request] = []
        self.connections: list[socket.socket] = []
        self.bugs: list[BaseException | None] = []
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def posts(self) -> list[Request]:
        return [request for request in self.requests if request.method == "POST"]

    def start(self) -> None:
        """Listen; after `stop`, on the port as before."""
        self._listener = _Listener(("127.0.0.1", self._port), Handler)
        self._listener.owner = self
        self._port = self._listener.server_port
        threading.Thread(
            target=self._listener.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True
        ).start()

    def stop(self) -> None:
        """Stop listening and break every connection, as the end of a process does."""
        self._listener.shutdown()
        self._listener.server_close()
        for connection in self.connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # closed already
        self.connections.clear()

    def end(self) -> None:
        self.ended.set()
        self.stop()
        assert not self.bugs


class StoppedClock:
    """Time that passes only where somebody sleeps, and chance that always comes out the same."""

    def __init__(self, chance: float = 0.5) -> None:
        self.now = 1_000_000_000.0
        self.slept: list[float] = []
        self.chance = chance
        self.on_sleep: Callable[[], None] = lambda: None

    @property
    def clock(self) -> Clock:
        return Clock(
            monotonic=lambda: self.now,
            wall=lambda: self.now,
            chance=lambda: self.chance,
            sleep=self._sleep,
            sleep_async=self._sleep_async,
        )

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        self.on_sleep()

    async def _sleep_async(self, seconds: float) -> None:
        self._sleep(seconds)


class OnLoop:
    """An `AsyncClient` whose calls are made one after another from outside its event loop."""

    def __init__(self, url: str, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncClient(url, **options)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        return lambda *given, **named: self._runner.run(method(*given, **named))

    def close(self) -> None:
        self._runner.run(self._client.aclose())
        self._runner.close()


KINDS: dict[str, Callable[..., Any]] = {"sync": Client, "async": OnLoop}


def until(condition: Callable[[], bool], patience_s: float = 60) -> None:
    give_up = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.005)
