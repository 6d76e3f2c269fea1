"""A request that carries a photo, from its deadline to its answer: what all such routes share.

The cheap checks come first, so that a request that must fail costs little. From the first of them
to the answer the request sees one engine: classes may change with the next.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from app.inference.engine import Engine
from app.serve.answers import AnswerShare, SharedResponse
from app.serve.deadline import RequestScope
from app.serve.errors import NotReadyError
from app.serve.parameters import timeout_s
from app.serve.pipeline import Pipeline
from app.serve.record import RequestRecord, record_of
from app.serve.render import Encode, Rendered, Wanted, render
from app.serve.service import Phase, Service
from app.serve.upload_budget import Upload
from app.serve.uploads import announced_length, discard_body, receive_images
from app.serve.versions import model_label

_DISCARD_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Intake:
    """One request while it is worked on; made by `taking_photos`.

    Attributes:
        engine: Makes its label maps, whatever is loaded meanwhile.
        record: What is known of it, for log and metrics.
    """

    engine: Engine
    record: RequestRecord
    _request: Request
    _pipeline: Pipeline
    _scope: RequestScope
    _share: AnswerShare
    _max_bytes: int
    _max_images: int

    @asynccontextmanager
    async def upload(self, content_type: str | None) -> AsyncIterator[Upload]:
        """Receive the body; its bytes, or those of a form's image, count until released.

        Args:
            content_type: Of the body; None takes it as it is, also if it is a form.

        Raises:
            QueueFullError: If there is no room for another request.
            QueueTooLongError: If its answer would come too late.
            TooManyBytesError: If the body is too large.
            UploadsFullError: If all uploads together are.
            MissingImageError: If it holds no image.
            TooManyImagesError: If it holds several.
        """
        async with self._receiving(content_type, most=1) as (upload,):
            yield upload

    @asynccontextmanager
    async def uploads(self, content_type: str | None) -> AsyncIterator[list[Upload]]:
        """Receive the body, a form that may have several images; as `upload` otherwise.

        Each image counts until it is released.
        """
        async with self._receiving(content_type, most=self._max_images) as uploads:
            yield uploads

    @asynccontextmanager
    async def _receiving(
        self, content_type: str | None, *, most: int
    ) -> AsyncIterator[list[Upload]]:
        self._pipeline.check(self._scope.deadline)
        length = self._request.headers.get("content-length")
        announced = announced_length(length, limit=self._max_bytes)
        with self._pipeline.uploads.open(announced) as whole:
            receive = self._request.receive
            images = await receive_images(
                receive, content_type, whole, limit=self._max_bytes, most=most
            )
            self._scope.watch(receive)
            with ExitStack() as held:
                uploads = whole.divide(images)
                del images  # released images shall not live on here
                for upload in uploads:
                    held.callback(upload.release)
                yield uploads

    @contextmanager
    def part(self) -> Iterator[Upload]:
        """Hold one photo of a body that has several; it counts like an upload until released.

        Raises:
            UploadsFullError: If there is no room for another.
        """
        with self._pipeline.uploads.open() as upload:
            yield upload

    async def segment(
        self,
        upload: Upload,
        wanted: Wanted,
        *,
        encode: Encode | None = None,
        record: RequestRecord | None = None,
    ) -> Rendered:
        """Turn the photo in `upload.data` into an answer; raises what `Pipeline.segment` raises.

        Without `encode` it is the answer of `POST /segment`.

        Args:
            upload: The photo.
            wanted: What to answer with.
            encode: Makes the answer.
            record: Of this image, where the request has several; see `RequestRecord.add_image`.
        """
        self.record.mask_format = wanted.format
        rendered = await self._pipeline.segment(
            upload,
            wanted,
            self.engine,
            deadline=self._scope.deadline,
            record=record or self.record,
            share=self._share,
            encode=encode or render,
        )
        if not wanted.is_large:  # those count from the photo's header on
            self._share.keep(len(rendered.body) + rendered.kept)
        return rendered

    def response(self, rendered: Rendered) -> Response:
        """Return the response with an answer; it holds the answer's share until it is sent."""
        self._share.cover(len(rendered.body))
        return SharedResponse(rendered.body, rendered.media_type, self._share)


@asynccontextmanager
async def taking_photos(request: Request, service: Service) -> AsyncIterator[Intake]:
    """Work on a request in this block until its deadline, its client's leave or a shutdown.

    Raises:
        InvalidParameterError: If `X-Request-Timeout` is no number above 0.
        NotReadyError: If the process is starting or draining.
        ModelDeadError: If it can never work again.
        DeadlineExceededError: From the block's end, if the deadline passed in it.
        ClientDisconnect: If the client left.
    """
    record = record_of(request)
    limit_s = timeout_s(
        request.headers.get("x-request-timeout"), limit_s=service.settings.request_timeout_s
    )
    scope = RequestScope(record.began + limit_s, limit_s)
    settings = service.settings
    with ExitStack() as held:
        with service.working_on(scope):
            async with scope:
                pipeline = await _pipeline(request, service)
                share = AnswerShare(pipeline.answers)
                held.callback(share.release)
                with service.versions.in_use() as engine:
                    record.model = model_label(engine)
                    yield Intake(
                        engine,
                        record,
                        request,
                        pipeline,
                        scope,
                        share,
                        settings.max_bytes,
                        settings.request_images,
                    )
        if share.handed_over:
            held.pop_all()


async def _pipeline(request: Request, service: Service) -> Pipeline:
    try:
        return service.pipeline()
    except NotReadyError:
        if service.phase is Phase.DRAINING:  # the connection is closed after this answer
            await discard_body(
                request.receive, limit=service.settings.max_bytes, seconds=_DISCARD_S
            )
        raise
