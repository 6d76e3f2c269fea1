"""Both clients, and a server that follows a script."""

import functools
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from scripted_server import KINDS, ScriptedServer, StoppedClock


@pytest.fixture(scope="session", autouse=True)
def one_list_of_authorities() -> Iterator[None]:
    """Read the certificate authorities once, not for each client: nothing here speaks TLS."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", functools.cache(ssl.create_default_context))
        yield


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    yield server
    server.end()


@pytest.fixture
def stopped() -> StoppedClock:
    return StoppedClock()


@pytest.fixture(params=list(KINDS))
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Makes a client, of either kind."""
    clients: list[Any] = []

    def make(url: str, **options: Any) -> Any:
        clients.append(KINDS[request.param](url, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()
