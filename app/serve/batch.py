"""One batch through a blocking function: each item gets its outcome, or the error that is its own.

A batch that fails is run again in halves, and the halves that fail in halves of theirs: one
poisoned item fails alone at the price of two runs for each doubling of the batch, and a batch too
large for the device's memory becomes batches that fit.
"""

import asyncio
import logging
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from app.serve.futures import settle
from app.serve.groups import KeyT, Reason

logger = logging.getLogger(__name__)

PayloadT = TypeVar("PayloadT")
ResultT = TypeVar("ResultT")


class BatcherClosedError(RuntimeError):
    """The batcher takes no more work, or stopped before it came to this item."""


class DeadlineExceededError(TimeoutError):
    """The item's deadline passed before its batch began."""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[ResultT]):
    """A result and what it took.

    Attributes:
        value: What the function returned for this item.
        queued_s: From `submit` to the start of its batch, in seconds.
        ran_s: The run of its batch, in seconds.
        batch_size: Items in that batch.
        reason: Why that batch was run when it was.
    """

    value: ResultT
    queued_s: float
    ran_s: float
    batch_size: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class BatchReport(Generic[KeyT]):
    """One run of the function, for metrics.

    Attributes:
        key: What the items had in common.
        images: Items in the batch.
        pixels: Their pixels.
        ran_s: How long the run took, in seconds.
        failed: Whether it raised.
        reason: Why it was run when it was.
    """

    key: KeyT
    images: int
    pixels: int
    ran_s: float
    failed: bool
    reason: Reason


@dataclass(slots=True, eq=False)
class Item(Generic[PayloadT, ResultT]):
    """A payload that waits for its outcome; see `Waiting` for its times."""

    payload: PayloadT
    pixels: int
    arrived: float
    deadline: float
    future: "asyncio.Future[Outcome[ResultT]]"

    @property
    def gone(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.future.done()


@dataclass(slots=True)
class Verdict(Generic[PayloadT, ResultT]):
    """What becomes of one item: its outcome, or `error` as long as there is none."""

    item: Item[PayloadT, ResultT]
    error: Exception
    outcome: Outcome[ResultT] | None = None

    def deliver(self) -> None:
        """Tell the waiter, in its event loop."""
        settle(self.item.future, self.outcome, None if self.outcome else self.error)


class BatchRunner(Generic[KeyT, PayloadT, ResultT]):
    """Runs batches and finds out whose fault it is if one fails.

    Args:
        run: Called as `run(key, payloads)`; returns one result per payload, in order.
        fatal: Errors after which it can never work again.
        clock: Monotonic seconds.
        observe: Called after every run.
        deliver: Called with the verdicts on items, as soon as they are final.
    """

    def __init__(
        self,
        run: Callable[[KeyT, list[PayloadT]], Sequence[ResultT]],
        *,
        fatal: tuple[type[Exception], ...],
        clock: Callable[[], float],
        observe: Callable[[BatchReport[KeyT]], None],
        deliver: Callable[[list[Verdict[PayloadT, ResultT]]], None],
    ) -> None:
        self._run = run
        self._fatal = fatal
        self._clock = clock
        self._observe = observe
        self._deliver = deliver

    def run(self, key: KeyT, batch: list[Item[PayloadT, ResultT]], reason: Reason) -> None:
        """Run a batch, in halves where that fails, and deliver a verdict on every item.

        Raises:
            Exception: One of the fatal errors. Every item has its verdict then, too.
        """
        pending = [[Verdict(item, closed_early()) for item in batch]]
        del batch
        try:
            while pending:
                part = pending[-1]
                if reason is Reason.RETRY:
                    part = self._still_wanted(part)
                failure = self._attempt(key, part, reason) if part else None
                pending.pop()
                if failure is None or len(part) == 1:
                    self._deliver(part)
                    continue
                logger.warning("a batch of %d failed (%r), trying its halves", len(part), failure)
                reason = Reason.RETRY
                middle = (len(part) + 1) // 2
                pending += [part[middle:], part[:middle]]
        finally:
            # After a fatal error, or something that is no Exception.
            self._deliver([verdict for part in pending for verdict in part])
            # An error's traceback leads to this frame: they would keep each other, the photos and
            # the engine until a collection.
            failure, part, pending = None, [], []

    def _still_wanted(
        self, part: list[Verdict[PayloadT, ResultT]]
    ) -> list[Verdict[PayloadT, ResultT]]:
        """Return those that are worth another run, and tell those that come too late."""
        now = self._clock()
        late = [verdict for verdict in part if verdict.item.deadline <= now]
        for verdict in late:
            verdict.error = too_late()
        self._deliver(late)
        return [
            verdict for verdict in part if not verdict.item.gone and verdict.item.deadline > now
        ]

    def _attempt(
        self, key: KeyT, verdicts: list[Verdict[PayloadT, ResultT]], reason: Reason
    ) -> Exception | None:
        """Run the items together and fill in their verdicts; return the error, if any.

        A fatal error is raised.
        """
        began = self._clock()
        failure: Exception | None = None
        try:
            results = self._run(key, [verdict.item.payload for verdict in verdicts])
            if len(results) != len(verdicts):
                raise RuntimeError(f"{len(results)} results for a batch of {len(verdicts)}")
        except Exception as error:
            failure = error
            _let_go(error)
        ran_s = self._clock() - began
        if failure is None:
            _succeed(verdicts, results, began, ran_s, reason)
        else:
            _fail(verdicts, failure)
        pixels = sum(verdict.item.pixels for verdict in verdicts)
        failed = failure is not None
        self._observe(BatchReport(key, len(verdicts), pixels, ran_s, failed, reason))
        try:
            if isinstance(failure, self._fatal):
                raise failure
            return failure
        finally:
            del failure, verdicts  # as in `run`


def _succeed(
    verdicts: Sequence[Verdict[PayloadT, ResultT]],
    results: Sequence[ResultT],
    began: float,
    ran_s: float,
    reason: Reason,
) -> None:
    for verdict, value in zip(verdicts, results, strict=True):
        queued_s = began - verdict.item.arrived
        verdict.outcome = Outcome(value, queued_s, ran_s, len(verdicts), reason)


def _fail(verdicts: Sequence[Verdict[PayloadT, ResultT]], error: Exception) -> None:
    for verdict in verdicts:
        verdict.error = error


def _let_go(error: BaseException | None) -> None:
    """Clear the frames of an error and its causes.

    They hold what the failed run allocated, and the retries need the room.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def closed_early() -> BatcherClosedError:
    """Return the error of an item that the batcher never came to."""
    return BatcherClosedError("the server stopped before it came to this request")


def too_late() -> DeadlineExceededError:
    """Return the error of an item whose deadline passed before its batch began."""
    return DeadlineExceededError("the deadline passed in the queue")
