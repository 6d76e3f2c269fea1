"""What routes are given."""

from typing import Annotated

from fastapi import Depends, Request

from app.serve.service import Service


async def _service(request: Request) -> Service:  # not async, it would cost a thread hop
    service: Service = request.app.state.service
    return service


ServiceDependency = Annotated[Service, Depends(_service)]
