"""One photo through the stages: decode, queue, transfer, forward, encode.

Decoding and encoding run on threads of their own beside the event loop (but for what is encoded
sooner than it is handed over), the forward on the batcher's, so the stages of different requests
overlap. What is held between them is bounded by the admission. Knows no HTTP.
"""

import functools
import time
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from app.inference.decode import open_photo, resize, scaled_size
from app.inference.device import take_share_of_threads
from app.inference.engine import DeviceLostError, Engine, Segmentation
from app.inference.network import Extras
from app.serve.admission import Admission, Place
from app.serve.answers import AnswerBudget, AnswerShare
from app.serve.batcher import Batcher, BatchReport
from app.serve.errors import InputTooLargeError
from app.serve.forecast import Forecast
from app.serve.loop_lag import LoopLag
from app.serve.record import RequestRecord
from app.serve.render import Encode, Rendered, Wanted, is_quick, render
from app.serve.settings import Settings
from app.serve.telemetry import Telemetry
from app.serve.upload_budget import Upload, UploadBudget
from app.serve.workers import Workers

Photo = npt.NDArray[np.uint8]

_LAST_BATCH_S: Final = 1.0
"""How long closing waits for a forward that is running, in seconds; nobody wants its result."""


class BatchKey(NamedTuple):
    """Photos share a forward only if all of this is equal.

    Attributes:
        engine: The engine that the photo's request began with.
        input_size: Height and width that the network sees.
        mask_size: Height and width of the masks.
        extras: What is computed besides label maps.
    """

    engine: Engine
    input_size: tuple[int, int]
    mask_size: tuple[int, int]
    extras: Extras


class _Decoded(NamedTuple):
    """A photo on its way to the network: what the network sees, and what the answer shows."""

    network_input: Photo
    photo: Photo | None
    mask_size: tuple[int, int]


class _Segmented(NamedTuple):
    """A photo after its forward, and how long its batch took to get to the device."""

    segmentation: Segmentation
    transfer_s: float


class Pipeline:
    """The stages around one device, whichever engine a request runs on.

    Must be made inside a running event loop, and closed.

    Args:
        settings: Bounds and caps.
        telemetry: Where figures go.
        lanes: Most batches that run at a time on the device.
    """

    def __init__(self, settings: Settings, telemetry: Telemetry, *, lanes: int = 1) -> None:
        self._max_pixels = settings.max_pixels
        self._max_images = settings.batch_images
        self._telemetry = telemetry
        self._decoders = Workers("decode", settings.decode_threads)
        self._encoders = Workers("encode", settings.encode_threads)
        self._batcher: Batcher[BatchKey, Photo, _Segmented] = Batcher(
            _forward,
            max_images=settings.batch_images,
            max_pixels=settings.batch_pixels,
            most_images=_most_images,
            saving=_saving,
            delay_s=settings.batch_delay_s,
            lanes=lanes,
            take_share=take_share_of_threads,
            fatal=(DeviceLostError,),
            observe=self._observe,
        )
        self.admission = Admission(
            max_requests=settings.queue_requests,
            max_pixels=settings.queue_pixels,
            retry_after=self.retry_after_s,
        )
        self._lag = LoopLag()
        self._forecast = Forecast(
            self.admission, self._decoders, self._batcher, self._encoders, self._lag
        )
        self.uploads = UploadBudget(settings.upload_bytes, retry_after=self.retry_after_s)
        self.answers = AnswerBudget(settings.answer_bytes, retry_after=self.retry_after_s)

    @property
    def alive(self) -> bool:
        """Whether the device's threads are there to do work."""
        return self._batcher.alive

    @property
    def depth(self) -> int:
        """Photos that wait for the device."""
        return self._batcher.depth

    @property
    def expected_wait_s(self) -> float:
        """How long a request that came now would wait behind others, in seconds."""
        return self._forecast.wait_s()

    def retry_after_s(self) -> int:
        """When a client that is refused now should come back, in whole seconds, at least 1."""
        return self._forecast.retry_after_s()

    def check(self, deadline: float) -> None:
        """Refuse before any work is done, even the receiving of a body, on a request in vain.

        Args:
            deadline: When its answer is no longer wanted, in seconds of `time.monotonic`.

        Raises:
            QueueFullError: If there is no room for another request.
            AnswersFullError: If there is none for its answer.
            QueueTooLongError: If it would have to wait too long.
        """
        self.admission.check()
        self.answers.check_room()
        self._forecast.check(deadline)

    async def segment(
        self,
        upload: Upload,
        wanted: Wanted,
        engine: Engine,
        *,
        deadline: float,
        record: RequestRecord,
        share: AnswerShare,
        encode: Encode,
    ) -> Rendered:
        """Turn an upload into an answer; the upload is released once it is decoded.

        Args:
            upload: A photo's bytes.
            wanted: What to answer with.
            engine: Makes the label map; `wanted` speaks of its classes.
            deadline: When the answer is no longer wanted, in seconds of `time.monotonic`.
            record: Gets the photo's size and the seconds of each stage.
            share: Where the answer is counted, if it is a large one; whoever sends it releases it.
            encode: Makes the answer; runs in a thread, unless it is `render` and quick.

        Raises:
            ImageError: If the bytes are no image, broken, or too large; see `decode`.
            InputTooLargeError: If the photo is too large at the wanted scale.
            QueueFullError: If there is no room for the photo.
            AnswerTooLargeError: If there never is room for its answer.
            AnswersFullError: If there is none now.
            QueueTooLongError: If its answer would come too late.
            PhotoDoesNotFitError: If the device's memory is too small for the photo.
            DeadlineExceededError: If the deadline passes in the queue.
            BatcherClosedError: If the pipeline is closed meanwhile.
        """
        began = time.monotonic()
        with self.admission.place() as place:
            decode_upload = functools.partial(
                self._decode, upload, wanted, engine, place, share, deadline
            )
            network_input, photo, mask_size = await self._decoders.run(decode_upload)
            del decode_upload
            upload.release()
            record.image_size = mask_size[1], mask_size[0]
            record.stages_s["decode"] = time.monotonic() - began

            input_size = (network_input.shape[0], network_input.shape[1])
            place.queued()
            outcome = await self._batcher.submit(
                BatchKey(engine, input_size, mask_size, wanted.extras(engine.card.classes)),
                network_input,
                pixels=input_size[0] * input_size[1],
                deadline=deadline,
            )
            del network_input
            segmentation, transfer_s = outcome.value
            record.stages_s["queue"] = outcome.queued_s
            record.stages_s["transfer"] = transfer_s
            record.stages_s["forward"] = max(0.0, outcome.ran_s - transfer_s)
            record.batch_size = outcome.batch_size
            record.batch_reason = outcome.reason

            began = time.monotonic()
            encode_answer = functools.partial(
                encode,
                segmentation,
                photo,
                wanted,
                engine,
                request_id=record.id,
                stages_s=dict(record.stages_s),
            )
            if encode is render and is_quick(segmentation, wanted):
                rendered = encode_answer()
                # Or it would be learnt only from slow answers how long one takes.
                self._encoders.learn(time.monotonic() - began)
            else:
                rendered = await self._encoders.run(encode_answer)
            record.stages_s["encode"] = time.monotonic() - began
            return rendered

    def abandon(self) -> None:
        """Take no more work, because the device can do none any more; `alive` becomes false."""
        self._batcher.close()

    async def close(self) -> bool:
        """Stop: fail what waits, give a running forward a moment to finish.

        Returns:
            Whether the device's threads have ended.
        """
        self._lag.close()
        self._batcher.close()
        self._decoders.shutdown()
        self._encoders.shutdown()
        return await self._batcher.join(_LAST_BATCH_S)

    def _decode(
        self,
        upload: Upload,
        wanted: Wanted,
        engine: Engine,
        place: Place,
        share: AnswerShare,
        deadline: float,
    ) -> _Decoded:
        """Decode and scale a photo once its header has found a place for it; in a thread.

        Takes the upload, not its bytes: work that waits for a thread must not hold on to the
        bytes of a request that was given up meanwhile and has released them.
        """
        opened = open_photo(upload.data, max_pixels=self._max_pixels)
        header = opened.header
        scale = engine.card.scale if wanted.scale is None else wanted.scale
        height, width = scaled_size(header.height, header.width, scale)
        if height * width > self._max_pixels:
            raise InputTooLargeError(
                f"At scale {scale:g} this photo has {width} x {height} pixels; at most "
                f"{self._max_pixels:,} are accepted. Ask for a smaller `scale`."
            )
        most_images = min(self._max_images, engine.caps.images(height * width))
        self._forecast.check_sized(height * width, deadline, most_images=most_images)
        place.take(max(header.pixels, height * width), height * width)
        share.take(wanted.large_bytes(header.pixels, engine.card.classes))
        photo = opened.decode()
        mask_size = (photo.shape[0], photo.shape[1])
        network_input = resize(photo, scaled_size(*mask_size, scale))
        return _Decoded(network_input, photo if wanted.needs_photo else None, mask_size)

    def _observe(self, report: BatchReport[BatchKey], device_s: float) -> None:
        self._telemetry.observe_batch(report, report.key.input_size, device_s)


def _most_images(key: BatchKey) -> int:
    """How many photos of a group share a forward to advantage, as measured at warm-up."""
    height, width = key.input_size
    return key.engine.caps.images(height * width)


def _saving(key: BatchKey) -> float:
    """What a photo of a group saves by sharing a forward, as measured at warm-up."""
    height, width = key.input_size
    return key.engine.caps.saving(height * width)


def _forward(key: BatchKey, photos: list[Photo]) -> list[_Segmented]:
    began = time.monotonic()
    batch = key.engine.upload(photos)
    transfer_s = time.monotonic() - began
    segmentations = key.engine.segment_batch(batch, size=key.mask_size, extras=key.extras)
    return [_Segmented(segmentation, transfer_s) for segmentation in segmentations]
