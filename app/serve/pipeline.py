"""One photo through the stages: decode, queue, forward, encode.

Decoding and encoding run on threads of their own beside the event loop, the forward on the
batcher's, so the stages of different requests overlap. What is held between them is bounded by
the admission. Knows no HTTP.
"""

import asyncio
import functools
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from app.inference.decode import decode, read_header, resize, scaled_size
from app.inference.engine import DeviceLostError, Engine, Segmentation
from app.serve.admission import Admission, Place
from app.serve.batcher import Batcher
from app.serve.errors import InputTooLargeError
from app.serve.record import RequestRecord
from app.serve.render import Rendered, Wanted, render
from app.serve.settings import Settings
from app.serve.telemetry import Telemetry
from app.serve.uploads import Upload, UploadBudget

Photo = npt.NDArray[np.uint8]
ReturnT = TypeVar("ReturnT")

_LAST_BATCH_S: Final = 1.0
"""How long closing waits for a forward that is running, in seconds; nobody wants its result."""


class BatchKey(NamedTuple):
    """Photos share a forward only if all of this is equal.

    Attributes:
        engine: The engine that the photo's request began with.
        input_size: Height and width that the network sees.
        mask_size: Height and width of the masks.
        scores: Whether scores are computed.
    """

    engine: Engine
    input_size: tuple[int, int]
    mask_size: tuple[int, int]
    scores: bool


class _Decoded(NamedTuple):
    """A photo on its way to the network: what the network sees, and what the answer shows."""

    network_input: Photo
    photo: Photo | None
    mask_size: tuple[int, int]


class Pipeline:
    """The stages around one device, whichever engine a request runs on.

    Must be made inside a running event loop, and closed.

    Args:
        device_type: `cpu` or `cuda`.
        settings: Bounds and caps.
        telemetry: Where figures go.
    """

    def __init__(self, device_type: str, settings: Settings, telemetry: Telemetry) -> None:
        self._max_pixels = settings.max_pixels
        self._decoders = ThreadPoolExecutor(settings.decode_threads, "decode")
        self._encoders = ThreadPoolExecutor(settings.encode_threads, "encode")
        self._batcher: Batcher[BatchKey, Photo, Segmentation] = Batcher(
            self._forward,
            max_images=settings.batch_images,
            max_pixels=settings.batch_pixels_on(device_type),
            delay_s=settings.batch_delay_s,
            fatal=(DeviceLostError,),
            observe=telemetry.observe_batch,
        )
        self.admission = Admission(
            max_requests=settings.queue_requests,
            max_pixels=settings.queue_pixels,
            retry_after=self.retry_after_s,
        )
        self.uploads = UploadBudget(settings.upload_bytes, retry_after=self.retry_after_s)

    @property
    def alive(self) -> bool:
        """Whether the device's thread is there to do work."""
        return self._batcher.alive

    @property
    def depth(self) -> int:
        """Photos that wait for the device."""
        return self._batcher.depth

    def retry_after_s(self) -> int:
        """Seconds until what is queued now should have run, at the recent speed; at least 1."""
        return max(1, math.ceil(self._batcher.backlog_s))

    async def segment(
        self,
        upload: Upload,
        wanted: Wanted,
        engine: Engine,
        *,
        deadline: float,
        record: RequestRecord,
    ) -> Rendered:
        """Turn an upload into an answer; the upload is released once it is decoded.

        Args:
            upload: A photo's bytes.
            wanted: What to answer with.
            engine: Makes the label map; `wanted` speaks of its classes.
            deadline: When the answer is no longer wanted, in seconds of `time.monotonic`.
            record: Gets the photo's size and the seconds of each stage.

        Raises:
            ImageError: If the bytes are no image, broken, or too large; see `decode`.
            InputTooLargeError: If the photo is too large at the wanted scale.
            QueueFullError: If there is no room for the photo.
            DeadlineExceededError: If the deadline passes in the queue.
            BatcherClosedError: If the pipeline is closed meanwhile.
        """
        began = time.monotonic()
        with self.admission.place() as place:
            decode_upload = functools.partial(self._decode, upload, wanted, place)
            network_input, photo, mask_size = await _on(self._decoders, decode_upload)
            del decode_upload
            upload.release()
            record.image_size = mask_size[1], mask_size[0]
            record.stages_s["decode"] = time.monotonic() - began

            input_size = (network_input.shape[0], network_input.shape[1])
            outcome = await self._batcher.submit(
                BatchKey(engine, input_size, mask_size, wanted.needs_scores),
                network_input,
                pixels=input_size[0] * input_size[1],
                deadline=deadline,
            )
            del network_input
            record.stages_s["queue"] = outcome.queued_s
            record.stages_s["forward"] = outcome.ran_s
            record.batch_size = outcome.batch_size

            began = time.monotonic()
            encode = functools.partial(
                render,
                outcome.value,
                photo,
                wanted,
                engine,
                request_id=record.id,
                stages_s=dict(record.stages_s),
            )
            rendered = await _on(self._encoders, encode)
            record.stages_s["encode"] = time.monotonic() - began
            return rendered

    def abandon(self) -> None:
        """Take no more work, because the device can do none any more; `alive` becomes false."""
        self._batcher.close()

    async def close(self) -> bool:
        """Stop: fail what waits, give a running forward a moment to finish.

        Returns:
            Whether the device's thread has ended.
        """
        self._batcher.close()
        self._decoders.shutdown(wait=False, cancel_futures=True)
        self._encoders.shutdown(wait=False, cancel_futures=True)
        return await self._batcher.join(_LAST_BATCH_S)

    def _decode(self, upload: Upload, wanted: Wanted, place: Place) -> _Decoded:
        """Decode and scale a photo once its header has found a place for it; in a thread.

        Takes the upload, not its bytes: work that waits for a thread must not hold on to the
        bytes of a request that was given up meanwhile and has released them.
        """
        data = upload.data
        header = read_header(data, max_pixels=self._max_pixels)
        height, width = scaled_size(header.height, header.width, wanted.scale)
        if height * width > self._max_pixels:
            raise InputTooLargeError(
                f"At scale {wanted.scale:g} this photo has {width} x {height} pixels; at most "
                f"{self._max_pixels:,} are accepted. Ask for a smaller `scale`."
            )
        place.take(max(header.pixels, height * width))
        photo = decode(data, max_pixels=self._max_pixels)
        mask_size = (photo.shape[0], photo.shape[1])
        network_input = resize(photo, scaled_size(*mask_size, wanted.scale))
        return _Decoded(network_input, photo if wanted.needs_photo else None, mask_size)

    def _forward(self, key: BatchKey, photos: Sequence[Photo]) -> list[Segmentation]:
        return key.engine.segment(photos, size=key.mask_size, scores=key.scores)


async def _on(pool: ThreadPoolExecutor, function: Callable[[], ReturnT]) -> ReturnT:
    return await asyncio.get_running_loop().run_in_executor(pool, function)
