"""What routes are given."""

from typing import Annotated

from fastapi import Depends, Request

from app.serve.service import Service


def service_of(request: Request) -> Service:
    """Return what `create_app` put behind the routes."""
    service: Service = request.app.state.service
    return service


async def _service(request: Request) -> Service:  # not async, it would cost a thread hop
    return service_of(request)


ServiceDependency = Annotated[Service, Depends(_service)]
