"""The order in which waiting items reach the device: FIFO groups of equal shape."""

import heapq
import itertools
import math
import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Generic, Protocol, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)


_BEHIND: Final = 0.5
"""Share of those that wait that are behind an item, on average: they gain what it saves.
tests/serve/test_overtaking.py shows what comes of it: where batches save little, as on two CPU
cores, a shorter p99 for hardly fewer images/s; where they save much, nothing changes."""


class Waiting(Protocol):
    """What the queue must know of an item; times are in seconds of the caller's clock."""

    @property
    def pixels(self) -> int:
        """Its share of a batch's pixel cap."""

    @property
    def arrived(self) -> float:
        """When it was pushed."""

    @property
    def deadline(self) -> float:
        """When its answer is no longer wanted."""

    @property
    def gone(self) -> bool:
        """Whether nobody waits for it any more."""


ItemT = TypeVar("ItemT", bound=Waiting)


class Reason(StrEnum):
    """Why a batch was run, with no more in it than it had."""

    FULL = "full"
    """A cap was reached: on photos, on pixels, or the one that was measured."""
    IDLE = "idle"
    """The device was free, and this was all that waited of the group."""
    DELAY = "delay"
    """The head had waited for company as long as it may."""
    OLDER = "older"
    """More of the group waited, but older items of other groups would have waited for them."""
    SHARED = "shared"
    """More of the group waited, but another part of the device is free for it."""
    RETRY = "retry"
    """It is part of a batch that failed."""


@dataclass(frozen=True, slots=True)
class Popped(Generic[KeyT, ItemT]):
    """What one pop took out of the queue.

    Attributes:
        key: The group the batch came from; None when there is no batch.
        batch: Items to run together, oldest first; empty when nothing is due.
        expired: Items dropped because their deadline has passed. Their owners must be told.
        reason: Why the batch goes now.
    """

    key: KeyT | None = None
    batch: list[ItemT] = field(default_factory=list)
    expired: list[ItemT] = field(default_factory=list)
    reason: Reason = Reason.IDLE


@dataclass(slots=True, eq=False)
class _Group(Generic[ItemT]):
    """One group: its items by order of arrival, what they weigh, how many go together."""

    most_images: int
    items: OrderedDict[int, ItemT] = field(default_factory=OrderedDict)
    pixels: int = 0

    @property
    def head(self) -> tuple[int, ItemT]:
        return next(iter(self.items.items()))

    def batches(self, max_pixels: int) -> int:
        """How many batches it makes, if its items are about of a size."""
        count = len(self.items)
        per_batch = max(1, min(self.most_images, max_pixels * count // max(1, self.pixels)))
        return -(-count // per_batch)


class GroupQueue(Generic[KeyT, ItemT]):
    """FIFO groups; the group whose head has waited longest goes first.

    Only items of one group share a batch. Choosing by the oldest head keeps every group
    moving: whatever arrives after an item, no batch with a younger head overtakes it, unless
    the item still sits out a `delay_s`. A batch takes younger items of its group along only
    where that saves those who wait more time than it costs the ones that are overtaken.

    Holds no clock and no lock: callers pass the time and serialise the calls.

    Args:
        max_images: Most items in a batch.
        max_pixels: Most pixels in a batch; an item larger than this runs alone.
        most_images: A group's own cap on items, beside the two others. Asked when the group
            appears and after each of its batches; by default there is none.
        saving: The time that an item of a group saves by joining a batch instead of running
            alone, as a multiple of the time by which it makes the batch longer. Infinite by
            default: then it may overtake whatever waits.
        delay_s: How long a head waits for company before a batch that is not full becomes
            due. With 0 whatever waits is due at once, so an idle device never waits.
    """

    def __init__(
        self,
        *,
        max_images: int,
        max_pixels: int,
        most_images: Callable[[KeyT], int] = lambda key: sys.maxsize,
        saving: Callable[[KeyT], float] = lambda key: math.inf,
        delay_s: float = 0.0,
    ) -> None:
        self._max_images = max_images
        self._max_pixels = max_pixels
        self._most_images = most_images
        self._saving = saving
        self._delay_s = delay_s
        self._order = itertools.count()
        # Keyed by order of arrival, over all groups: an item can leave from the middle in
        # constant time, and heads compare exactly even when their clock readings are equal.
        self._groups: dict[KeyT, _Group[ItemT]] = {}
        self._pixels = 0
        self._length = 0
        self._batches = 0

    def __len__(self) -> int:
        return self._length

    @property
    def pixels(self) -> int:
        """Pixels of all waiting items."""
        return self._pixels

    @property
    def batches(self) -> int:
        """How many batches the waiting items make if nothing joins or leaves them."""
        return self._batches

    def push(self, key: KeyT, item: ItemT) -> int:
        """Append an item to its group and return the ticket with which `discard` finds it."""
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(self._cap(key))
        else:
            self._batches -= group.batches(self._max_pixels)
        ticket = next(self._order)
        group.items[ticket] = item
        group.pixels += item.pixels
        self._pixels += item.pixels
        self._length += 1
        self._batches += group.batches(self._max_pixels)
        return ticket

    def discard(self, key: KeyT, ticket: int) -> bool:
        """Take an item out, wherever it stands; False if it has left already."""
        group = self._groups.get(key)
        if group is None or ticket not in group.items:
            return False
        self._take(key, group, ticket)
        return True

    def pop(self, now: float, *, room: float = math.inf, lanes: int = 1) -> Popped[KeyT, ItemT]:
        """Take the next batch that is due, dropping what has expired or is gone on the way.

        Args:
            now: Seconds.
            room: Most pixels of the batch, even of a single item. If the item whose turn it is
                has more, nothing is taken: no other overtakes it.
            lanes: Batches that could begin now. Where fewer wait, a group is divided among them.
        """
        expired = self._drop_dead_heads(now)
        key = self._turn(now)
        if key is None:
            return Popped(expired=expired)
        batch, reason = self._take_batch(key, now, expired, room, lanes)
        if not batch:  # no room, or the last who waited have gone since the look at the heads
            return Popped(expired=expired)
        self._ask_again(key)
        return Popped(key, batch, expired, reason)

    def next_pixels(self, now: float) -> int | None:
        """Pixels of the item whose turn it is; None if nothing is due."""
        key = self._turn(now)
        return None if key is None else self._groups[key].head[1].pixels

    def due_in(self, now: float) -> float | None:
        """Seconds until something becomes due, by company, delay or deadline; None if empty."""
        moments = [
            now if self._due(group, now) else min(head.arrived + self._delay_s, head.deadline)
            for group in self._groups.values()
            for _, head in [group.head]
        ]
        return max(0.0, min(moments) - now) if moments else None

    def drain(self) -> list[ItemT]:
        """Take everything out, in order of arrival."""
        items = [entry for group in self._groups.values() for entry in group.items.items()]
        self._groups.clear()
        self._pixels = self._length = self._batches = 0
        return [item for _, item in sorted(items, key=lambda entry: entry[0])]

    def _turn(self, now: float) -> KeyT | None:
        """Return the group whose turn it is; None if none is due."""
        due = [(group.head[0], key) for key, group in self._groups.items() if self._due(group, now)]
        return min(due, key=lambda head: head[0])[1] if due else None

    def _cap(self, key: KeyT) -> int:
        return max(1, min(self._max_images, self._most_images(key)))

    def _take_batch(
        self, key: KeyT, now: float, expired: list[ItemT], room: float, lanes: int
    ) -> tuple[list[ItemT], Reason]:
        """Take what goes together from the head of a group, and say why it is no more."""
        group = self._groups[key]
        others_batches = self._batches - group.batches(self._max_pixels)
        fair = -(-len(group.items) // max(1, lanes - others_batches))
        most_older = self._saving(key) * _BEHIND * self._length
        # A group that still waits for company could not run now: it is not overtaken.
        others = heapq.merge(
            *(
                other.items
                for name, other in self._groups.items()
                if name != key and self._due(other, now)
            )
        )
        older, next_other = 0, next(others, None)
        batch: list[ItemT] = []
        pixels = 0
        while group.items:
            ticket, item = group.head
            if item.gone or item.deadline <= now:
                self._take(key, group, ticket)
                if not item.gone:
                    expired.append(item)
                continue
            if pixels + item.pixels > room or (
                batch and not self._fits(group, len(batch), pixels + item.pixels)
            ):
                return batch, Reason.FULL
            if len(batch) == fair:
                return batch, Reason.SHARED
            while next_other is not None and next_other < ticket:
                older, next_other = older + 1, next(others, None)
            if batch and older > most_older:
                return batch, Reason.OLDER
            self._take(key, group, ticket)
            batch.append(item)
            pixels += item.pixels
        if batch and not self._fits(group, len(batch), pixels + batch[-1].pixels):
            return batch, Reason.FULL  # none is left behind, but none like it could have joined
        return batch, Reason.DELAY if self._delay_s else Reason.IDLE

    def _ask_again(self, key: KeyT) -> None:
        group = self._groups.get(key)
        if group:
            self._batches -= group.batches(self._max_pixels)
            group.most_images = self._cap(key)
            self._batches += group.batches(self._max_pixels)

    def _fits(self, group: _Group[ItemT], images: int, pixels: int) -> bool:
        """Whether one more may join so many items, if they then have so many pixels."""
        return images < group.most_images and pixels <= self._max_pixels

    def _due(self, group: _Group[ItemT], now: float) -> bool:
        return group.head[1].arrived + self._delay_s <= now or self._full(group)

    def _full(self, group: _Group[ItemT]) -> bool:
        """Whether another item like the last could not join the group's next batch."""
        pixels = 0
        for count, item in enumerate(group.items.values(), start=1):
            pixels += item.pixels
            if not self._fits(group, count, pixels + item.pixels):
                return True
        return False

    def _drop_dead_heads(self, now: float) -> list[ItemT]:
        """Make every head a live one, so that heads can be compared by age."""
        expired: list[ItemT] = []
        for key, group in list(self._groups.items()):
            while group.items:
                ticket, head = group.head
                if not head.gone and head.deadline > now:
                    break
                self._take(key, group, ticket)
                if not head.gone:
                    expired.append(head)
        return expired

    def _take(self, key: KeyT, group: _Group[ItemT], ticket: int) -> None:
        self._batches -= group.batches(self._max_pixels)
        item = group.items.pop(ticket)
        group.pixels -= item.pixels
        self._pixels -= item.pixels
        self._length -= 1
        if group.items:
            self._batches += group.batches(self._max_pixels)
        else:
            del self._groups[key]
