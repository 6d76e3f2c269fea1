"""`python -m app.serve.healthcheck`: what Docker asks every few seconds, inside the container.

Exit code 0 if new work is taken, 1 if not. Docker restarts a container whose process ends but never
one that is merely unhealthy, so a server that says of itself that it must be restarted is told to
stop. Imports little: it runs often, beside the server.
"""

import http.client
import os
import signal
import sys
from typing import Final

PORT: Final = 8000
"""The port inside the image, whatever it is published as."""

CONTAINER_PROCESS: Final = 1
"""A container's first process: the server, in this image."""

_TIMEOUT_S: Final = 3


def status(path: str, port: int) -> int | None:
    """Return the status of a GET on loopback; None if there was no answer.

    A bare connection: proxies that the environment names have no business here.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def check(port: int = PORT, server: int = CONTAINER_PROCESS) -> int:
    """Return the exit code; stop the server if it can never work again.

    Args:
        port: Where it listens.
        server: Its process.
    """
    if status("/health/ready", port) == http.client.OK:
        return 0
    if status("/health/live", port) == http.client.SERVICE_UNAVAILABLE:
        print("the server must be restarted: stopping it", file=sys.stderr)
        os.kill(server, signal.SIGTERM)
    return 1


if __name__ == "__main__":
    sys.exit(check())
