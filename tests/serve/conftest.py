"""An application around the engine double, in this process."""

import asyncio
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from serve_doubles import PATIENCE_S, EngineDouble

from app.serve.application import create_app
from app.serve.settings import Settings


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch):
    for name in list(os.environ):
        if name.startswith("FCN_"):
            monkeypatch.delenv(name)


@dataclass
class Served:
    """A running application, its engine double and a client."""

    app: Any
    client: httpx.AsyncClient
    engine: EngineDouble
    failures: list[Exception] = field(default_factory=list)

    @property
    def service(self):
        return self.app.state.service

    async def post(self, body, query="", **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(f"/segment{query}", content=body, headers=headers)

    async def metric(self, name):
        """Return the value of a metric, named with its labels as in the exposition."""
        text = (await self.client.get("/metrics")).text
        values = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(name)]
        return float(values[0]) if values else None

    async def device_busy(self):
        assert await asyncio.to_thread(self.engine.began.acquire, timeout=PATIENCE_S)

    async def until(self, condition):
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.001)


@pytest.fixture
def serving():
    """Return a context manager that serves with the given settings."""

    @asynccontextmanager
    async def start(engine=None, *, load=None, ready=True, **settings):
        engine = engine or EngineDouble()
        failures = []
        app = create_app(
            Settings(**settings),
            load=load or (lambda settings, serving: engine),
            on_failure=failures.append,
        )
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        ):
            served = Served(app, client, engine, failures)
            if ready:
                await served.until(lambda: served.service.phase == "ready")
            try:
                yield served
            finally:
                engine.gate.set()

    return start
