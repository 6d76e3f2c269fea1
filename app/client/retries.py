"""Whether to try again, and when.

Segmenting a photo changes nothing on the server, so a request may be sent again after anything; it
is done only where the next try may end differently.
"""

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final

from app.client.errors import (
    BusyError,
    ConnectionFailedError,
    SegmentationError,
    UnavailableError,
)

MAY_PASS: Final = (BusyError, UnavailableError, ConnectionFailedError)
"""Errors that the next try may not meet."""

FIRST_CEILING_S: Final = 0.5
LONGEST_CEILING_S: Final = 10.0
"""The wait before the n-th retry is drawn between 0 and the first ceiling doubled n - 1 times, up
to the longest: "full jitter", of those compared in
https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/ the one with the least
work for the server."""

MAX_DOUBLINGS: Final = math.ceil(math.log2(LONGEST_CEILING_S / FIRST_CEILING_S))
"""That reach the longest ceiling; those of a thousand tries would leave the range of a float."""


@dataclass(frozen=True)
class Clock:
    """Where time and chance come from; tests bring their own.

    Attributes:
        monotonic: Seconds that never go back.
        wall: Seconds since 1970.
        chance: A number from 0 up to 1.
        sleep: Waits some seconds.
        sleep_async: The same on an event loop.
    """

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    chance: Callable[[], float] = random.random
    sleep: Callable[[float], None] = time.sleep
    sleep_async: Callable[[float], Awaitable[None]] = asyncio.sleep


class Deadline:
    """When a call must have ended, all its tries and waits included.

    Args:
        seconds: From now.
        clock: Whose seconds.
    """

    def __init__(self, seconds: float, clock: Clock) -> None:
        self.seconds = seconds
        self._clock = clock
        self._end = clock.monotonic() + seconds

    def left_s(self) -> float:
        """Return what is left, in seconds; below zero if it has passed."""
        return self._end - self._clock.monotonic()


def wait_s(failure: SegmentationError, tries: int, deadline: Deadline, clock: Clock) -> float:
    """Return how long to wait before the next try, in seconds.

    What the server asked for with Retry-After is the least; a part of a second is drawn on top, so
    that all it sent away do not come back in the same moment.

    Args:
        failure: What the last try ended with.
        tries: How many there have been, at least 1.
        deadline: Of the call.
        clock: Where chance comes from.

    Raises:
        SegmentationError: `failure` itself, if there is no point in trying again: it will not
            pass, or not within the deadline.
    """
    if not isinstance(failure, MAY_PASS):
        raise failure
    if failure.retry_after_s is not None:
        wait = failure.retry_after_s + FIRST_CEILING_S * clock.chance()
    else:
        doublings = min(tries - 1, MAX_DOUBLINGS)
        wait = min(FIRST_CEILING_S * 2**doublings, LONGEST_CEILING_S) * clock.chance()
    if wait >= deadline.left_s():
        raise failure
    return wait


def retry_after_s(headers: Mapping[str, str], clock: Clock) -> float | None:
    """Return what Retry-After asks for, in seconds from now; None if it says nothing usable.

    It is a number of seconds or a date (RFC 9110, section 10.2.3). A date is read against the
    answer's own Date, if there is one: the server's clock may differ from ours.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdecimal():
        return float(value)
    when = _timestamp(value)
    if when is None:
        return None
    now = _timestamp(headers.get("date", ""))
    return max(0.0, when - (clock.wall() if now is None else now))


def _timestamp(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None  # no date: the header says nothing, which is not worth failing for
