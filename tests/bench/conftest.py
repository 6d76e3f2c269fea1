"""A server in a thread that answers as a test wants, and remembers what was posted."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

PATIENCE_S = 120
"""How long tests wait for what must happen, in seconds: only a failure takes that long."""


@dataclass
class Reply:
    """What the server sends back; without status it closes the connection."""

    status: int | None = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"mask"


class FakeServer:
    """Calls `answer(number, body)` for each POST, in a thread of its own; GETs get `pages`."""

    def __init__(self, answer: Callable[[int, bytes], Reply]) -> None:
        self.answer = answer
        self.pages: dict[str, Reply] = {}
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.at_once = 0
        self.most_at_once = 0
        self.connections = 0
        self.changed = threading.Condition()
        self.port = 0

    def until(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE_S)


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


@pytest.fixture
def fake_server() -> Callable[..., AbstractContextManager[FakeServer]]:
    @contextmanager
    def start(
        answer: Callable[[int, bytes], Reply] = lambda number, body: Reply(),
    ) -> Iterator[FakeServer]:
        fake = FakeServer(answer)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                with fake.changed:
                    fake.connections += 1

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with fake.changed:
                    number = len(fake.requests)
                    fake.requests.append((dict(self.headers), body))
                    fake.at_once += 1
                    fake.most_at_once = max(fake.most_at_once, fake.at_once)
                    fake.changed.notify_all()
                reply = fake.answer(number, body)
                with fake.changed:
                    fake.at_once -= 1
                self.send(reply)

            def do_GET(self) -> None:
                self.send(fake.pages.get(self.path, Reply(404)))

            def send(self, reply: Reply) -> None:
                if reply.status is None:
                    self.close_connection = True
                    return
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        http = _Http(("127.0.0.1", 0), Handler)
        fake.port = http.server_port
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield fake
        finally:
            http.shutdown()
            thread.join()
            http.server_close()

    return start


@pytest.fixture
def reply() -> type[Reply]:
    return Reply
