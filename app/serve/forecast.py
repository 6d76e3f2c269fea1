"""How long a request would wait, and whether its answer could still be ready in time."""

import math
import time
from typing import Any, Final

from app.serve.admission import Admission, OverloadedError
from app.serve.batcher import Batcher
from app.serve.loop_lag import LoopLag
from app.serve.workers import Workers

_CAUTION: Final = 2.0
"""A request is taken if so many times its expected wait still leaves time for its own work.

Photos that come later overtake: they may join a batch whose head is older. If every batch ahead
has room for as many as it already holds, the wait becomes twice what it looked like. And load
itself makes a machine slower than it was when the cost was learnt. In a simulated overload where
both happen, answers come too late with 1.5 and none does with 2 (tests/serve/test_forecast.py)."""


_TURNS: Final = 7
"""How often a request needs the event loop: for its body, and twice after each stage that runs on
threads, to hear of its end and to go on."""


class QueueTooLongError(OverloadedError):
    """The answer would come too late: too much is ahead of this request."""


class Forecast:
    """Expected waits, from what is in each stage and how fast each has been of late.

    Callable from any thread.

    Args:
        admission: Knows how many requests there are, and which are on their way to the device.
        decoders: Read headers and decode.
        batcher: Feeds the device.
        encoders: Encode masks.
        lag: Of the event loop.
    """

    def __init__(
        self,
        admission: Admission,
        decoders: Workers,
        batcher: Batcher[Any, Any, Any],
        encoders: Workers,
        lag: LoopLag,
    ) -> None:
        self._admission = admission
        self._decoders = decoders
        self._batcher = batcher
        self._encoders = encoders
        self._lag = lag

    def wait_s(self) -> float:
        """Expected seconds until a request that comes now is through behind all others."""
        return self._stages_s() + self._lag_s

    def retry_after_s(self) -> int:
        """When a client should come back: after that wait, in whole seconds, at least 1."""
        return max(1, math.ceil(self.wait_s()))

    def check(self, deadline: float) -> None:
        """Refuse a request, before its body is read, that would have to wait too long.

        Args:
            deadline: When its answer is no longer wanted, in seconds of `time.monotonic`.

        Raises:
            QueueTooLongError: If the wait alone, with caution, passes the deadline.
        """
        self._check(self._stages_s(), 0.0, deadline)

    def check_sized(self, input_pixels: int, deadline: float, *, most_images: int = 1) -> None:
        """Refuse a request, before its photo is decoded, whose answer would be too late.

        To be called by the thread that has read the photo's header, before the photo's place is
        taken: what still waits for its header to be read comes behind it.

        Args:
            input_pixels: Pixels that the network would see.
            deadline: As in `check`.
            most_images: Most photos of that size in a batch.

        Raises:
            QueueTooLongError: If the wait, with caution, and its own time pass the deadline.
        """
        admission = self._admission
        ahead = admission.requests - admission.unsized
        if not ahead:
            return
        stages_s = max(
            self._batcher.expected_s(items=admission.decoding, pixels=admission.decoding_pixels),
            self._encoders.wait_behind_s(ahead),
        )
        device_s = self._batcher.cost_s(
            input_pixels, others=admission.decoding, company=most_images - 1
        )
        own_s = self._decoders.task_s + device_s + self._encoders.task_s
        self._check(stages_s, own_s, deadline)

    @property
    def _lag_s(self) -> float:
        return self._lag.seconds * _TURNS

    def _stages_s(self) -> float:
        """Expected seconds until the stages are through with all others; 0 if there are none.

        They work side by side and first come is first served, so it is the stage that has most
        to do for the others that decides.
        """
        admission = self._admission
        if not admission.requests:
            return 0.0
        return max(
            self._decoders.wait_s,
            self._batcher.expected_s(
                items=admission.decoding,
                pixels=admission.decoding_pixels,
                unsized=admission.unsized,
            ),
            self._encoders.wait_behind_s(admission.requests),
        )

    def _check(self, stages_s: float, own_s: float, deadline: float) -> None:
        # One that no stage keeps waiting is never refused for its own time, whatever that may seem
        # to be: how else should it be learnt that the estimate was wrong?
        if not stages_s:
            own_s = 0.0
        wait_s = stages_s + self._lag_s
        left_s = deadline - time.monotonic()
        if left_s <= 0:  # whoever keeps the deadline says so better
            return
        if wait_s > 0 and wait_s * _CAUTION + own_s > left_s:
            own = f", then take {own_s:.1f} itself" if own_s else ""
            raise QueueTooLongError(
                f"The queue is too long for this request: it would wait about {wait_s:.1f} seconds "
                f"behind others{own}, and must be answered within {left_s:.1f}. It is taken only "
                f"if even {_CAUTION:g} times that wait leaves it enough time.",
                max(1, math.ceil(wait_s)),
            )
