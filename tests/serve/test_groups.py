"""The order of the queue, on a simulated clock."""

import heapq
import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.serve.groups import GroupQueue, Popped, Reason


@dataclass(eq=False)
class Item:
    key: str = "a"
    pixels: int = 1
    arrived: float = 0.0
    deadline: float = math.inf
    gone: bool = False
    order: int = -1


def queue(max_images=4, max_pixels=100, delay_s=0.0, saving=math.inf, **most_images):
    return GroupQueue(
        max_images=max_images,
        max_pixels=max_pixels,
        delay_s=delay_s,
        saving=lambda key: saving,
        most_images=lambda key: most_images.get(key, 1000),
    )


def push(groups, *items):
    for item in items:
        item.order = groups.push(item.key, item)
    return items


def test_an_empty_queue_has_nothing_due():
    groups = queue()
    assert groups.pop(0.0).batch == []
    assert groups.due_in(0.0) is None


def test_the_last_item_may_leave_while_it_is_looked_at():
    class Leaving(Item):
        @property
        def gone(self):
            self.looks += 1
            return self.looks > 1

        @gone.setter
        def gone(self, value):
            self.looks = 0

    groups = queue()
    push(groups, Leaving())
    assert groups.pop(0.0).batch == []
    assert len(groups) == groups.pixels == groups.batches == 0
    (item,) = push(groups, Item())
    assert groups.pop(0.0).batch == [item]


def test_a_lone_item_is_due_at_once():
    groups = queue()
    (item,) = push(groups, Item())
    popped = groups.pop(0.0)
    assert (popped.key, popped.batch) == ("a", [item])
    assert len(groups) == groups.pixels == 0


def test_only_one_group_is_in_a_batch_and_the_oldest_head_decides_which():
    groups = queue()
    b1, a1, b2, a2 = push(groups, Item("b"), Item("a"), Item("b"), Item("a"))
    assert groups.pop(0.0).batch == [b1, b2]
    assert groups.pop(0.0).batch == [a1, a2]


def test_batches_are_capped_by_count():
    groups = queue(max_images=2)
    items = push(groups, Item(), Item(), Item())
    assert groups.pop(0.0).batch == list(items[:2])
    assert groups.pop(0.0).batch == [items[2]]


def test_batches_are_capped_by_pixels_and_a_larger_item_runs_alone():
    groups = queue(max_pixels=100)
    items = push(groups, Item(pixels=60), Item(pixels=40), Item(pixels=1), Item(pixels=500))
    assert groups.pop(0.0).batch == list(items[:2])
    assert groups.pop(0.0).batch == [items[2]]
    assert groups.pop(0.0).batch == [items[3]]


def test_a_group_may_have_a_smaller_cap_of_its_own_but_always_takes_one():
    groups = queue(max_images=3, a=2, b=0)
    a = push(groups, *(Item("a") for _ in range(3)))
    b = push(groups, *(Item("b") for _ in range(2)))
    c = push(groups, *(Item("c") for _ in range(4)))
    batches = [groups.pop(0.0).batch for _ in range(6)]
    assert batches == [list(a[:2]), [a[2]], [b[0]], [b[1]], list(c[:3]), [c[3]]]


def test_a_group_that_never_empties_is_asked_for_its_cap_again():
    caps = [3, 1, 1]
    groups = GroupQueue(max_images=9, max_pixels=9, most_images=lambda key: caps.pop(0))
    push(groups, *(Item() for _ in range(5)))
    assert [len(groups.pop(0.0).batch) for _ in range(2)] == [3, 1]


@pytest.mark.parametrize(
    ("waiting", "reason"),
    [
        ([Item()], Reason.IDLE),
        ([Item()] * 3, Reason.IDLE),
        ([Item()] * 4, Reason.FULL),
        ([Item()] * 5, Reason.FULL),
        ([Item(pixels=50)], Reason.IDLE),
        ([Item(pixels=51)], Reason.FULL),
        ([Item(pixels=50)] * 2, Reason.FULL),
        ([Item(pixels=30), Item(pixels=90)], Reason.FULL),
        ([Item(key="own")], Reason.IDLE),
        ([Item(key="own")] * 2, Reason.FULL),
    ],
)
def test_a_batch_tells_why_it_goes(waiting, reason):
    groups = queue(max_images=4, max_pixels=100, own=2)
    push(groups, *waiting)
    assert groups.pop(0.0).reason is reason


def test_a_batch_that_waited_for_company_tells_so():
    groups = queue(delay_s=1.0)
    push(groups, Item())
    assert groups.pop(1.0).reason is Reason.DELAY
    push(groups, *(Item(arrived=1.0) for _ in range(4)))
    assert groups.pop(1.0).reason is Reason.FULL


def test_batches_to_come_are_counted_by_the_caps():
    groups = queue(max_images=4, max_pixels=100, own=2)
    assert groups.batches == 0
    push(groups, *(Item("a") for _ in range(5)))
    assert groups.batches == 2
    push(groups, *(Item("own") for _ in range(5)))
    assert groups.batches == 2 + 3
    large = push(groups, *(Item("large", pixels=40) for _ in range(3)))
    assert groups.batches == 2 + 3 + 2
    groups.discard("large", large[1].order)
    assert groups.batches == 2 + 3 + 1
    groups.pop(0.0)
    assert groups.batches == 1 + 3 + 1
    groups.drain()
    assert groups.batches == 0


def test_expired_items_are_handed_back_and_gone_ones_are_forgotten():
    groups = queue()
    expired, gone, live = push(groups, Item(deadline=5.0), Item(gone=True), Item())
    popped = groups.pop(5.0)
    assert popped.batch == [live]
    assert popped.expired == [expired]
    assert gone not in popped.expired
    assert len(groups) == 0


def test_a_dead_head_does_not_lend_its_age_to_its_group():
    groups = queue()
    _, b, a = push(groups, Item("a", gone=True), Item("b"), Item("a"))
    assert groups.pop(0.0).batch == [b]
    assert groups.pop(0.0).batch == [a]


def test_discard_takes_an_item_out_of_the_middle():
    groups = queue()
    first, middle, last = push(groups, Item(), Item(pixels=7), Item())
    assert groups.discard("a", middle.order)
    assert not groups.discard("a", middle.order)
    assert groups.pixels == 2
    assert groups.pop(0.0).batch == [first, last]


def test_a_younger_item_overtakes_only_as_many_older_ones_as_its_saving_is_worth():
    # Ten wait. Half of them gain 0.4 each: as much as two lose that are overtaken.
    groups = queue(max_images=10, saving=0.4)
    a1, a2, b1, a3, b2, a4, b3, a5, b4, b5 = push(groups, *map(Item, "aababababb"))
    popped = groups.pop(0.0)
    assert popped.batch == [a1, a2, a3, a4]
    assert popped.reason is Reason.OLDER
    # Six wait, which is worth one.
    assert groups.pop(0.0).batch == [b1, b2, b3, b4, b5]
    popped = groups.pop(0.0)
    assert popped.batch == [a5]
    assert popped.reason is Reason.IDLE


def test_without_a_saving_none_is_overtaken_but_equals_still_share_a_batch():
    groups = queue(max_images=10, saving=0.0)
    a1, a2, b1, a3 = push(groups, *map(Item, "aaba"))
    assert [groups.pop(0.0).batch for _ in range(3)] == [[a1, a2], [b1], [a3]]


def test_a_full_batch_goes_whole_past_groups_that_still_wait_for_company():
    groups = queue(delay_s=1.0, saving=0.0)
    b1, a1, b2, a2, a3, a4 = push(groups, *map(Item, "babaaa"))
    popped = groups.pop(0.5)
    assert popped.batch == [a1, a2, a3, a4]
    assert popped.reason is Reason.FULL
    assert groups.pop(0.5).batch == []
    assert groups.pop(1.0).batch == [b1, b2]


def test_items_that_have_left_are_not_overtaken():
    groups = queue(max_images=10, saving=0.0)
    a1, b1, a2 = push(groups, *map(Item, "aba"))
    assert groups.discard("b", b1.order)
    assert groups.pop(0.0).batch == [a1, a2]


def test_a_delay_lets_company_come_but_a_full_batch_goes_at_once():
    groups = queue(max_images=2, delay_s=1.0)
    first, lone = push(groups, Item("a", arrived=0.0), Item("b", arrived=0.25))
    assert groups.pop(0.5).batch == []
    assert groups.due_in(0.5) == 0.5
    (second,) = push(groups, Item("a", arrived=0.75))
    assert groups.pop(0.75).batch == [first, second]
    assert groups.pop(1.0).batch == []
    assert groups.pop(1.25).batch == [lone]


def test_no_delay_is_spent_when_the_pixel_cap_allows_no_company():
    groups = queue(max_pixels=100, delay_s=1.0)
    (item,) = push(groups, Item(pixels=60))
    assert groups.pop(0.0).batch == [item]


def test_waiting_for_company_ends_at_the_deadline():
    groups = queue(delay_s=10.0)
    (item,) = push(groups, Item(arrived=0.0, deadline=3.0))
    assert groups.due_in(1.0) == 2.0
    assert groups.pop(3.0).expired == [item]


def test_drain_returns_everything_in_order_of_arrival():
    groups = queue()
    items = push(groups, Item("a"), Item("b"), Item("a"))
    assert groups.drain() == list(items)
    assert len(groups) == groups.pixels == 0
    assert groups.pop(0.0).batch == []


@dataclass
class Simulation:
    """One device that runs batches from a queue while items arrive, leave and expire."""

    groups: GroupQueue
    max_images: int
    max_pixels: int
    most_images: dict[str, int]
    cost: dict[str, float]
    saving: float
    ran: list[Item] = field(default_factory=list)
    expired: list[Item] = field(default_factory=list)

    def run(self, arrivals: list[Item], leaving: dict[int, float]) -> None:
        idle_at = now = 0.0
        pending = [(item.arrived, index, item) for index, item in enumerate(arrivals)]
        heapq.heapify(pending)
        waiting: list[Item] = []
        while pending or len(self.groups):
            if not len(self.groups):
                now = max(now, pending[0][0])
            now = max(now, idle_at)
            while pending and pending[0][0] <= now:
                item = heapq.heappop(pending)[2]
                push(self.groups, item)
                waiting.append(item)
            for item in waiting:
                item.gone |= leaving.get(id(item), math.inf) <= now
            popped = self.groups.pop(now)
            self.check(popped, waiting, now)
            for item in popped.batch + popped.expired:
                waiting.remove(item)
            self.ran += popped.batch
            self.expired += popped.expired
            if popped.batch:
                idle_at = now + self.cost[popped.key]

    def check(self, popped: Popped, waiting: list[Item], now: float) -> None:
        batch = popped.batch
        live = [item for item in waiting if not item.gone and item.deadline > now]
        # Work-conserving: with anything live in the queue the device is given something.
        assert bool(batch) == bool(live)
        if not batch:
            return
        # Fair: the head is the oldest of all, so nothing is overtaken by a younger head.
        assert batch[0] is min(live, key=lambda item: item.order)
        assert len({item.key for item in batch}) == 1
        most = max(1, min(self.max_images, self.most_images[popped.key]))
        assert len(batch) <= most
        assert len(batch) == 1 or sum(item.pixels for item in batch) <= self.max_pixels
        assert all(item in live for item in batch)
        # FIFO within the group, and no company left behind that would have fitted and was worth
        # it to those that it overtakes.
        mates = [item for item in live if item.key == batch[0].key]
        assert batch == mates[: len(batch)]
        assert overtaken(batch[-1], live) <= self.saving * len(waiting) / 2
        if len(batch) < len(mates):
            left = mates[len(batch)]
            too_many = len(batch) == most
            too_large = sum(item.pixels for item in [*batch, left]) > self.max_pixels
            too_late = overtaken(left, waiting) > self.saving * len(live) / 2
            assert too_many or too_large or too_late
            assert popped.reason is (Reason.FULL if too_many or too_large else Reason.OLDER)


def overtaken(younger: Item, waiting: list[Item]) -> int:
    """How many items of other groups are older."""
    return sum(item.key != younger.key and item.order < younger.order for item in waiting)


keys = st.sampled_from("abcde")
moments = st.integers(0, 40).map(float)


@settings(max_examples=120, deadline=None)
@given(
    arrivals=st.lists(
        st.builds(
            Item,
            key=keys,
            pixels=st.integers(1, 60),
            arrived=moments,
            deadline=moments.map(lambda at: at + 1) | st.just(math.inf),
        ),
        max_size=40,
    ),
    patience=st.lists(moments | st.just(math.inf), min_size=40, max_size=40),
    costs=st.fixed_dictionaries({key: st.integers(0, 10).map(float) for key in "abcde"}),
    max_images=st.integers(1, 5),
    max_pixels=st.integers(1, 100),
    most_images=st.fixed_dictionaries({key: st.integers(0, 6) for key in "abcde"}),
    saving=st.sampled_from([0.0, 0.2, 0.5, 2.0, math.inf]),
)
def test_nothing_is_lost_starved_or_mixed(
    arrivals, patience, costs, max_images, max_pixels, most_images, saving
):
    groups = queue(max_images, max_pixels, saving=saving, **most_images)
    simulation = Simulation(groups, max_images, max_pixels, most_images, costs, saving)
    leaving = {id(item): at for item, at in zip(arrivals, patience, strict=False)}
    simulation.run(arrivals, leaving)
    accounted = simulation.ran + simulation.expired
    assert len({id(item) for item in accounted}) == len(accounted)
    assert all(item.gone or item in accounted for item in arrivals)
    assert all(item.deadline < math.inf for item in simulation.expired)
    assert groups.pixels == groups.batches == len(groups) == 0


@settings(max_examples=100, deadline=None)
@given(
    items=st.lists(st.tuples(keys, st.integers(1, 60)), max_size=30),
    leaving=st.lists(st.booleans(), min_size=30, max_size=30),
    max_images=st.integers(1, 5),
    max_pixels=st.integers(1, 100),
)
def test_the_batches_counted_are_those_that_come(items, leaving, max_images, max_pixels):
    groups = queue(max_images, max_pixels)
    # The count takes the items of a group for equals, which photos of one shape are.
    pixels = dict(items)
    pushed = push(groups, *(Item(key, pixels[key]) for key, _ in items))
    for item, leaves in zip(pushed, leaving, strict=False):
        if leaves:
            assert groups.discard(item.key, item.order)
    while len(groups):
        expected = groups.batches
        assert groups.pop(0.0).batch
        assert groups.batches == expected - 1
    assert groups.batches == 0


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.integers(1, 12),
    flood=st.lists(st.integers(0, 11), min_size=1, max_size=60),
    max_images=st.integers(1, 8),
)
def test_the_wait_is_bounded_by_what_was_there_before(sizes, flood, max_images):
    """Whatever is sent later, it can only fill the batches that were ahead already."""
    groups = queue(max_images=max_images, max_pixels=10**9)
    push(groups, *(Item(f"size {index % sizes}") for index in flood))
    ahead = groups.batches
    (rare,) = push(groups, Item("rare"))
    batches = 0
    while rare not in groups.pop(0.0).batch:
        batches += 1
        push(groups, *(Item(f"size {index % sizes}") for index in flood))
    assert batches <= ahead


@pytest.mark.parametrize("sizes", [2, 500])
def test_a_rare_shape_is_not_starved_by_a_flood_of_others(sizes):
    groups = queue(max_images=8, max_pixels=10**9)
    push(groups, *(Item(f"flood{index % sizes}") for index in range(64)))
    (rare,) = push(groups, Item("rare"))
    ahead = 0
    while rare not in (batch := groups.pop(0.0).batch):
        ahead += len(batch)
        push(groups, *(Item(f"flood{index % sizes}") for index in range(8)))
    assert ahead <= 64 + 8 * sizes


def test_a_group_alone_is_divided_among_what_could_run_it():
    groups = queue()
    items = push(groups, *(Item() for _ in range(5)))
    first = groups.pop(0.0, lanes=2)
    assert (first.batch, first.reason) == (list(items[:3]), Reason.SHARED)
    second = groups.pop(0.0, lanes=1)
    assert (second.batch, second.reason) == (list(items[3:]), Reason.IDLE)


def test_a_group_is_not_divided_if_others_use_what_is_free():
    groups = queue()
    a1, a2, _ = push(groups, Item("a"), Item("a"), Item("b"))
    assert groups.pop(0.0, lanes=2).batch == [a1, a2]


def test_dividing_passes_no_cap():
    groups = queue(max_images=2)
    items = push(groups, *(Item() for _ in range(9)))
    popped = groups.pop(0.0, lanes=2)
    assert (popped.batch, popped.reason) == (list(items[:2]), Reason.FULL)


def test_a_batch_is_no_larger_than_the_room():
    groups = queue()
    a1, a2, a3 = push(groups, *(Item(pixels=30) for _ in range(3)))
    assert groups.next_pixels(0.0) == 30
    assert groups.pop(0.0, room=70).batch == [a1, a2]
    assert groups.pop(0.0, room=29).batch == []
    assert groups.pop(0.0, room=30).batch == [a3]
    assert groups.next_pixels(0.0) is None


def test_what_has_no_room_is_not_overtaken():
    groups = queue()
    large, small = push(groups, Item("large", pixels=90), Item("small"))
    assert groups.pop(0.0, room=50).batch == []
    assert groups.pop(0.0).batch == [large]
    assert groups.pop(0.0, room=50).batch == [small]
