"""What happens around every request: its id, its headers, its log line, its figures, its 500."""

import logging
import random
import re
import time
from typing import Any, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.serve.errors import INTERNAL_ERROR, problem_response
from app.serve.logs import FIELDS
from app.serve.record import RequestRecord, attach_record
from app.serve.service import Phase, Service
from app.serve.telemetry import UNMATCHED

logger = logging.getLogger(__name__)

_SANE_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class RequestMiddleware:
    """Pure ASGI: Starlette's BaseHTTPMiddleware would hide the client's disconnect."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request; other kinds of connection pass through untouched."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = RequestRecord(_request_id(Headers(scope=scope).get("x-request-id")))
        attach_record(scope, record)

        async def counting_receive() -> Message:
            message = await receive()
            record.bytes_in += len(message.get("body", b""))
            return message

        async def completing_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                self._add_headers(MutableHeaders(scope=message), record)
            else:
                record.bytes_out += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, counting_receive, completing_send)
        except Exception:
            logger.exception("request %s failed", record.id)
            if record.status is not None:
                raise  # too late for another answer; the server closes the connection
            response = problem_response(
                Request(scope),
                INTERNAL_ERROR,
                "The server failed on this request and logged why under its request id; other "
                "requests are not affected.",
            )
            await response(scope, counting_receive, completing_send)
        finally:
            self._conclude(scope, record)

    def _add_headers(self, headers: MutableHeaders, record: RequestRecord) -> None:
        headers["X-Request-ID"] = record.id
        model = record.model or self._service.model_label
        if model is not None:
            headers["X-Model"] = model
        if record.stages_s:
            headers["Server-Timing"] = ", ".join(
                f"{stage};dur={seconds * 1e3:.2f}" for stage, seconds in record.stages_s.items()
            )
        if self._service.phase is Phase.DRAINING:
            headers["Connection"] = "close"

    def _conclude(self, scope: Scope, record: RequestRecord) -> None:
        seconds = time.monotonic() - record.began
        route = getattr(scope.get("route"), "path", UNMATCHED)
        self._service.telemetry.observe_request(route, record, seconds)
        fields: dict[str, Any] = {
            "id": record.id,
            "method": scope["method"],
            # As it came in, percent-encoded: a decoded path could hold a line break.
            "path": scope.get("raw_path", b"").decode("latin-1")[:200] or scope["path"],
            "status": record.status,
            "bytes_in": record.bytes_in,
            "bytes_out": record.bytes_out,
            "total_ms": _milliseconds(seconds),
        }
        if record.model is not None:
            fields["model"] = record.model
        if record.problem is not None:
            fields["problem"] = record.problem
        if record.images:
            fields["images"] = len(record.images)
            fields["failed"] = sum(image.problem is not None for image in record.images)
        if record.image_size is not None:
            fields["size"] = "{}x{}".format(*record.image_size)
        if record.mask_format is not None:
            fields["format"] = record.mask_format
        if record.batch_size is not None:
            fields["batch"] = record.batch_size
            fields["dispatched"] = record.batch_reason
        for stage, stage_s in record.stages_s.items():
            fields[f"{stage}_ms"] = _milliseconds(stage_s)
        logger.info("request", extra={FIELDS: fields})


def _request_id(offered: str | None) -> str:
    if offered is not None and _SANE_ID.fullmatch(offered):
        return offered
    # As long as a UUID, without asking the kernel: it need not be hard to guess.
    return f"{random.getrandbits(128):032x}"


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1e3, 2)
