"""The order in which waiting items reach the device: FIFO groups of equal shape."""

import itertools
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)


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


@dataclass(frozen=True, slots=True)
class Popped(Generic[KeyT, ItemT]):
    """What one pop took out of the queue.

    Attributes:
        key: The group the batch came from; None when there is no batch.
        batch: Items to run together, oldest first; empty when nothing is due.
        expired: Items dropped because their deadline has passed. Their owners must be told.
    """

    key: KeyT | None = None
    batch: list[ItemT] = field(default_factory=list)
    expired: list[ItemT] = field(default_factory=list)


class GroupQueue(Generic[KeyT, ItemT]):
    """FIFO groups; the group whose head has waited longest goes first.

    Only items of one group share a batch. Choosing by the oldest head keeps every group
    moving: whatever arrives after an item, no batch with a younger head overtakes it, unless
    the item still sits out a `delay_s`.

    Holds no clock and no lock: callers pass the time and serialise the calls.

    Args:
        max_images: Most items in a batch.
        max_pixels: Most pixels in a batch; an item larger than this runs alone.
        delay_s: How long a head waits for company before a batch that is not full becomes
            due. With 0 whatever waits is due at once, so an idle device never waits.
    """

    def __init__(self, *, max_images: int, max_pixels: int, delay_s: float = 0.0) -> None:
        self._max_images = max_images
        self._max_pixels = max_pixels
        self._delay_s = delay_s
        self._order = itertools.count()
        # Keyed by order of arrival, over all groups: an item can leave from the middle in
        # constant time, and heads compare exactly even when their clock readings are equal.
        self._groups: dict[KeyT, OrderedDict[int, ItemT]] = {}
        self._pixels = 0
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def pixels(self) -> int:
        """Pixels of all waiting items."""
        return self._pixels

    def push(self, key: KeyT, item: ItemT) -> int:
        """Append an item to its group and return the ticket with which `discard` finds it."""
        ticket = next(self._order)
        self._groups.setdefault(key, OrderedDict())[ticket] = item
        self._pixels += item.pixels
        self._length += 1
        return ticket

    def discard(self, key: KeyT, ticket: int) -> bool:
        """Take an item out, wherever it stands; False if it has left already."""
        group = self._groups.get(key)
        if group is None or ticket not in group:
            return False
        self._take(key, group, ticket)
        return True

    def pop(self, now: float) -> Popped[KeyT, ItemT]:
        """Take the next batch that is due, dropping what has expired or is gone on the way."""
        expired = self._drop_dead_heads(now)
        due = [
            (next(iter(group)), key) for key, group in self._groups.items() if self._due(group, now)
        ]
        if not due:
            return Popped(expired=expired)
        _, key = min(due, key=lambda head: head[0])
        group = self._groups[key]
        batch: list[ItemT] = []
        pixels = 0
        while group and len(batch) < self._max_images:
            ticket, item = next(iter(group.items()))
            if item.gone or item.deadline <= now:
                self._take(key, group, ticket)
                if not item.gone:
                    expired.append(item)
                continue
            if batch and pixels + item.pixels > self._max_pixels:
                break
            self._take(key, group, ticket)
            batch.append(item)
            pixels += item.pixels
        return Popped(key, batch, expired)

    def due_in(self, now: float) -> float | None:
        """Seconds until something becomes due, by company, delay or deadline; None if empty."""
        moments = [
            now if self._due(group, now) else min(head.arrived + self._delay_s, head.deadline)
            for group in self._groups.values()
            for head in [next(iter(group.values()))]
        ]
        return max(0.0, min(moments) - now) if moments else None

    def drain(self) -> list[ItemT]:
        """Take everything out, in order of arrival."""
        items = [entry for group in self._groups.values() for entry in group.items()]
        self._groups.clear()
        self._pixels = self._length = 0
        return [item for _, item in sorted(items, key=lambda entry: entry[0])]

    def _due(self, group: OrderedDict[int, ItemT], now: float) -> bool:
        head = next(iter(group.values()))
        return head.arrived + self._delay_s <= now or self._full(group)

    def _full(self, group: OrderedDict[int, ItemT]) -> bool:
        """Whether another item like the last could not join the group's next batch."""
        pixels = 0
        for count, item in enumerate(group.values(), start=1):
            pixels += item.pixels
            if count >= self._max_images or pixels + item.pixels > self._max_pixels:
                return True
        return False

    def _drop_dead_heads(self, now: float) -> list[ItemT]:
        """Make every head a live one, so that heads can be compared by age."""
        expired: list[ItemT] = []
        for key, group in list(self._groups.items()):
            while group:
                ticket, head = next(iter(group.items()))
                if not head.gone and head.deadline > now:
                    break
                self._take(key, group, ticket)
                if not head.gone:
                    expired.append(head)
        return expired

    def _take(self, key: KeyT, group: OrderedDict[int, ItemT], ticket: int) -> None:
        item = group.pop(ticket)
        self._pixels -= item.pixels
        self._length -= 1
        if not group:
            del self._groups[key]
