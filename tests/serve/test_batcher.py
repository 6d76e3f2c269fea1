"""The batcher with a device double whose runs the test lets go one by one."""

import asyncio
import gc
import sys
import threading
import weakref
from collections import deque
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serve_doubles import PATIENCE_S

from app.serve.batcher import Batcher, BatcherClosedError, DeadlineExceededError, Outcome
from app.serve.groups import Reason

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


class Device:
    """Doubles payloads; a run waits for `go` while `held`, and fails on what `fails` names."""

    def __init__(self, held=False):
        self.runs = []
        self.threads = set()
        self.fails = {}
        self.began = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.held = held
        self.results = lambda payloads: [payload * 2 for payload in payloads]

    def __call__(self, key, payloads):
        self.runs.append((key, list(payloads)))
        self.threads.add(threading.get_ident())
        self.began.release()
        if self.held:
            assert self.go.acquire(timeout=PATIENCE_S)
        for payload in payloads:
            if payload in self.fails:
                raise self.fails[payload]
        return self.results(payloads)

    async def busy(self):
        assert await asyncio.to_thread(self.began.acquire, timeout=PATIENCE_S)

    def release(self, runs=1):
        self.held = False
        for _ in range(runs):
            self.go.release()


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def pass_by(self, seconds):
        self.now += seconds


@asynccontextmanager
async def batching(device, **options):
    options = {"max_images": 8, "max_pixels": 1000} | options
    batcher = Batcher(device, **options)
    try:
        yield batcher
    finally:
        device.release(100)
        batcher.close()
        assert await batcher.join(PATIENCE_S)


def submit(batcher, payload, key="k", pixels=1, **options):
    return asyncio.create_task(batcher.submit(key, payload, pixels=pixels, **options))


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_result_comes_back_with_its_timings():
    device, clock = Device(held=True), Clock()
    async with batching(device, clock=clock) as batcher:
        first = submit(batcher, 21)
        await device.busy()
        clock.now = 3.0
        second = submit(batcher, 4)
        await settle()
        clock.now = 10.0
        device.release(2)
        outcomes = await asyncio.gather(first, second)
    assert outcomes == [
        Outcome(42, queued_s=0.0, ran_s=10.0, batch_size=1, reason=Reason.IDLE),
        Outcome(8, queued_s=7.0, ran_s=0.0, batch_size=1, reason=Reason.IDLE),
    ]


async def test_batches_form_while_the_device_is_busy_and_only_of_equal_keys():
    device = Device(held=True)
    async with batching(device) as batcher:
        first = submit(batcher, 0)
        await device.busy()
        rest = [submit(batcher, n, key=n % 2) for n in range(1, 7)]
        await settle()
        assert batcher.depth == 6
        device.release(3)
        outcomes = await asyncio.gather(first, *rest)
    assert [outcome.value for outcome in outcomes] == [0, 2, 4, 6, 8, 10, 12]
    assert device.runs == [("k", [0]), (1, [1, 3, 5]), (0, [2, 4, 6])]
    assert len(device.threads) == 1
    assert threading.get_ident() not in device.threads


async def test_an_idle_device_does_not_wait_for_company():
    device = Device()
    async with batching(device) as batcher:
        for n in range(3):
            await batcher.submit("k", n, pixels=1)
    assert [len(payloads) for _, payloads in device.runs] == [1, 1, 1]


async def test_a_delay_gathers_company():
    device = Device()
    async with batching(device, delay_s=3600.0, max_images=2) as batcher:
        both = asyncio.gather(submit(batcher, 1), submit(batcher, 2))
        await asyncio.wait_for(both, PATIENCE_S)
    assert device.runs == [("k", [1, 2])]


async def test_a_lone_item_goes_after_the_delay():
    device = Device()
    async with batching(device, delay_s=0.05) as batcher:
        outcome = await batcher.submit("k", 1, pixels=1)
    assert outcome.queued_s >= 0.05


async def test_one_poisoned_item_fails_alone():
    device = Device(held=True)
    poison = ValueError("poison")
    device.fails = {3: poison}
    async with batching(device) as batcher:
        first = submit(batcher, 0)
        await device.busy()
        rest = [submit(batcher, n) for n in (1, 2, 3, 4)]
        await settle()
        device.release(100)
        results = await asyncio.gather(first, *rest, return_exceptions=True)
    assert [getattr(result, "value", result) for result in results] == [0, 2, 4, poison, 8]


@pytest.mark.parametrize("culprit", [1, 6, 16])
async def test_a_culprit_is_found_by_halving(culprit):
    device = Device(held=True)
    device.fails = {culprit: ValueError("poison")}
    async with batching(device, max_images=16) as batcher:
        first = submit(batcher, 0)
        await device.busy()
        rest = [submit(batcher, n) for n in range(1, 17)]
        await settle()
        device.release(100)
        results = await asyncio.gather(first, *rest, return_exceptions=True)
    assert [n for n, result in enumerate(results) if isinstance(result, ValueError)] == [culprit]
    runs = [payloads for _, payloads in device.runs[1:]]
    assert runs[0] == list(range(1, 17))
    assert len(runs) == 1 + 2 * 4
    assert runs.count([culprit]) == 1


async def test_a_batch_that_does_not_fit_is_halved_until_it_does():
    class Small(Device):
        def __call__(self, key, payloads):
            results = super().__call__(key, payloads)
            if len(payloads) > 3:
                raise MemoryError("out of memory")
            return results

    device = Small(held=True)
    async with batching(device, max_images=16) as batcher:
        first = submit(batcher, 0)
        await device.busy()
        rest = [submit(batcher, n) for n in range(1, 11)]
        await settle()
        device.release(100)
        outcomes = await asyncio.gather(first, *rest)
    assert [outcome.value for outcome in outcomes] == [2 * n for n in range(11)]
    assert [len(payloads) for _, payloads in device.runs] == [1, 10, 5, 3, 2, 5, 3, 2]
    assert {outcome.reason for outcome in outcomes[1:]} == {Reason.RETRY}


async def test_healthy_halves_do_not_wait_until_the_culprit_is_found():
    device = Device(held=True)
    device.fails = {3: ValueError("poison")}
    async with batching(device) as batcher:
        first = submit(batcher, 0)
        await device.busy()
        rest = [submit(batcher, n) for n in (1, 2, 3, 4)]
        await settle()
        for _ in range(3):  # the first, the batch of four, its first half
            device.go.release()
        outcomes = await asyncio.wait_for(asyncio.gather(first, *rest[:2]), PATIENCE_S)
        assert [outcome.value for outcome in outcomes] == [0, 2, 4]
        assert not rest[2].done()
        device.release(100)
        await asyncio.gather(*rest, return_exceptions=True)


async def test_what_expires_while_halves_run_is_not_run_again():
    device, clock = Device(held=True), Clock()
    device.fails = {1: ValueError("poison")}
    async with batching(device, clock=clock) as batcher:
        first = submit(batcher, 0)
        await device.busy()
        culprit, live = submit(batcher, 1), submit(batcher, 3)
        late = submit(batcher, 2, deadline=5.0)
        await settle()
        device.go.release()
        await device.busy()
        clock.now = 5.0
        device.release(100)
        results = await asyncio.gather(first, culprit, late, live, return_exceptions=True)
    assert isinstance(results[1], ValueError)
    assert isinstance(results[2], DeadlineExceededError)
    assert results[3].value == 6
    assert [payloads for _, payloads in device.runs] == [[0], [1, 3, 2], [1, 3], [1], [3]]


async def test_a_fatal_error_among_halves_fails_the_rest_and_ends_the_thread():
    device = Device(held=True)
    device.fails = {2: ValueError("poison"), 3: ConnectionError("the device is lost")}
    async with batching(device, fatal=(ConnectionError,)) as batcher:
        first = submit(batcher, 0)
        await device.busy()
        rest = [submit(batcher, n) for n in (1, 2, 3, 4)]
        await settle()
        device.release(100)
        waited = asyncio.gather(first, *rest, return_exceptions=True)
        results = await asyncio.wait_for(waited, PATIENCE_S)
        assert await batcher.join(PATIENCE_S)
        assert not batcher.alive
    assert [getattr(result, "value", result) for result in results[:2]] == [0, 2]
    assert isinstance(results[2], ValueError)
    assert all(isinstance(result, ConnectionError | BatcherClosedError) for result in results[3:])


async def test_a_failing_run_does_not_stop_the_next():
    device = Device()
    device.fails = {1: MemoryError("no")}
    async with batching(device) as batcher:
        with pytest.raises(MemoryError):
            await batcher.submit("k", 1, pixels=1)
        assert (await batcher.submit("k", 2, pixels=1)).value == 4


async def test_even_an_error_that_no_future_can_hold_is_delivered():
    device = Device()
    device.fails = {1: StopIteration()}
    async with batching(device) as batcher:
        with pytest.raises(RuntimeError, match="StopIteration"):
            await asyncio.wait_for(batcher.submit("k", 1, pixels=1), PATIENCE_S)


async def test_a_run_that_returns_too_little_fails_its_items():
    device = Device()
    device.results = lambda payloads: []
    async with batching(device) as batcher:
        with pytest.raises(RuntimeError, match="0 results for a batch of 1"):
            await asyncio.wait_for(batcher.submit("k", 1, pixels=1), PATIENCE_S)


async def test_what_expires_in_the_queue_is_dropped_before_compute():
    device, clock = Device(held=True), Clock()
    async with batching(device, clock=clock) as batcher:
        first = submit(batcher, 0)
        await device.busy()
        late = submit(batcher, 1, deadline=5.0)
        live = submit(batcher, 2)
        await settle()
        clock.now = 5.0
        device.release(2)
        assert (await live).value == 4
        with pytest.raises(DeadlineExceededError):
            await late
        await first
    assert device.runs == [("k", [0]), ("k", [2])]


async def test_an_idle_thread_holds_nothing_that_expired():
    class Payload:
        pass

    clock = Clock()
    async with batching(Device(), clock=clock) as batcher:
        payload = Payload()
        gone = weakref.ref(payload)
        too_late = submit(batcher, payload, deadline=-1)
        del payload
        (error,) = await asyncio.gather(too_late, return_exceptions=True)
        assert isinstance(error, DeadlineExceededError)
        del error, too_late
        async with asyncio.timeout(PATIENCE_S):
            while gone() is not None:
                gc.collect()  # the error's own frames
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("items", [1, 3])
async def test_a_failed_batch_is_let_go_of_without_a_collection(items):
    class Payload:
        poisoned = False

    def run(payloads):
        if any(payload.poisoned for payload in payloads):
            try:
                raise MemoryError
            except MemoryError as error:
                raise ValueError from error
        return payloads

    gc.disable()
    try:
        device = Device()
        device.results = run
        device.runs = deque(maxlen=0)
        async with batching(device) as batcher:
            payloads = [Payload() for _ in range(items)]
            payloads[0].poisoned = True
            held = [weakref.ref(payload) for payload in payloads]
            tasks = [submit(batcher, payload) for payload in payloads]
            await asyncio.wait(tasks)
            assert isinstance(tasks[0].exception(), ValueError)
            del payloads, tasks
            async with asyncio.timeout(PATIENCE_S):
                while any(reference() is not None for reference in held):
                    await asyncio.sleep(0.001)
    finally:
        gc.enable()


async def test_a_cancelled_item_leaves_the_queue_at_once():
    device = Device(held=True)
    async with batching(device) as batcher:
        first = submit(batcher, 0)
        await device.busy()
        leaver, stayer = submit(batcher, 1), submit(batcher, 2)
        await settle()
        leaver.cancel()
        await settle()
        assert batcher.depth == 1
        device.release(2)
        assert (await stayer).value == 4
        await first
    assert device.runs == [("k", [0]), ("k", [2])]


async def test_an_item_cancelled_while_it_runs_harms_nobody():
    device = Device(held=True)
    async with batching(device) as batcher:
        leaver = submit(batcher, 0)
        await device.busy()
        leaver.cancel()
        await settle()
        device.release()
        assert (await batcher.submit("k", 5, pixels=1)).value == 10


async def test_closing_fails_what_waits_and_finishes_what_runs():
    device = Device(held=True)
    async with batching(device) as batcher:
        running = submit(batcher, 1)
        await device.busy()
        waiting = submit(batcher, 2)
        await settle()
        batcher.close()
        with pytest.raises(BatcherClosedError):
            await waiting
        with pytest.raises(BatcherClosedError):
            await batcher.submit("k", 3, pixels=1)
        device.release()
        assert (await running).value == 2
        assert await batcher.join(PATIENCE_S)
        assert not batcher.alive


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_nobody_waits_for_a_thread_that_died():
    device = Device(held=True)
    device.fails = {1: SystemExit()}
    async with batching(device) as batcher:
        killer = submit(batcher, 1)
        await device.busy()
        waiting = submit(batcher, 2, key="other")
        await settle()
        device.release()
        for task in (killer, waiting):
            with pytest.raises(BatcherClosedError):
                await asyncio.wait_for(task, PATIENCE_S)
        assert await batcher.join(PATIENCE_S)
        assert not batcher.alive


async def test_runs_are_reported():
    device = Device(held=True)
    device.fails = {3: ValueError()}
    reports, shares = [], []

    def observe(report, device_s):
        reports.append(report)
        shares.append(device_s / report.ran_s)

    async with batching(device, observe=observe) as batcher:
        tasks = [submit(batcher, 0, pixels=10)]
        await device.busy()
        tasks += [submit(batcher, n, pixels=n) for n in (2, 3)]
        await settle()
        device.release(10)
        await asyncio.gather(*tasks, return_exceptions=True)
        await settle()
    assert [(r.key, r.images, r.pixels, r.failed, r.reason) for r in reports] == [
        ("k", 1, 10, False, "idle"),
        ("k", 2, 5, True, "idle"),
        ("k", 1, 2, False, "retry"),
        ("k", 1, 3, True, "retry"),
    ]
    assert shares == [1, 1, 1, 1]


async def test_the_wait_is_estimated_from_recent_runs():
    device, clock = Device(), Clock()
    device.results = lambda payloads: clock.pass_by(2.0) or payloads
    async with batching(device, clock=clock, max_pixels=400) as batcher:
        assert batcher.expected_s() == batcher.cost_s(100) == 0
        await batcher.submit("k", 1, pixels=100)  # 2 s for 100 pixels
        await device.busy()
        assert batcher.expected_s() == 0
        assert batcher.cost_s(50) == pytest.approx(1)
        device.held = True
        running = submit(batcher, 1, pixels=100)
        await device.busy()
        waiting = submit(batcher, 2, key="other", pixels=400)
        await settle()
        clock.pass_by(0.5)
        assert batcher.expected_s() == pytest.approx(1.5 + 8)
        assert batcher.expected_s(items=2, pixels=100) == pytest.approx(1.5 + 8 + 2)
        assert batcher.expected_s(unsized=3) == pytest.approx(1.5 + 8 + 3 * 2)
        clock.pass_by(60)  # what runs takes longer than it should: nobody knows how much
        assert batcher.expected_s() == pytest.approx(8)
        device.release(2)
        await asyncio.gather(running, waiting)
        await settle()
        assert batcher.expected_s() == 0


async def test_a_batch_alone_has_the_whole_device_and_several_share_it():
    device = Device(held=True)
    shares = []
    async with batching(device, lanes=2, take_share=shares.append) as batcher:
        first = submit(batcher, 0)
        await device.busy()
        rest = [submit(batcher, n, key=n) for n in (1, 2, 3)]
        await settle()
        assert len(device.runs) == 1  # the first has all of it
        device.go.release()
        await device.busy()
        await device.busy()
        assert device.runs == [("k", [0]), (1, [1]), (2, [2])]
        device.go.release()  # one part is free now, and the third takes it
        await device.busy()
        device.release(2)
        await asyncio.gather(first, *rest)
    assert shares == [1, 1 / 2, 1 / 2, 1 / 2]
    assert len(device.threads) == 2


async def test_what_comes_while_a_part_is_free_begins_at_once():
    device = Device(held=True)
    async with batching(device, lanes=2) as batcher:
        first = submit(batcher, 0)
        await device.busy()
        pair = [submit(batcher, n, key=n) for n in (1, 2)]
        await settle()
        device.go.release()
        await device.busy()
        await device.busy()
        device.go.release()
        await asyncio.wait(pair, timeout=PATIENCE_S, return_when="FIRST_COMPLETED")
        assert [task.done() for task in pair].count(True) == 1
        late = submit(batcher, 3)
        await device.busy()
        assert device.runs[-1] == ("k", [3])
        assert not all(task.done() for task in pair)
        device.release(2)
        await asyncio.gather(first, *pair, late)


async def test_all_that_run_at_a_time_are_held_to_the_bound_on_pixels():
    device = Device(held=True)
    shares = []
    options = {"lanes": 2, "max_pixels": 100, "take_share": shares.append}
    async with batching(device, **options) as batcher:
        first = submit(batcher, 0, pixels=1)
        await device.busy()
        rest = [
            submit(batcher, n, key=n, pixels=pixels)
            for n, pixels in enumerate((60, 60, 500, 10, 10), start=1)
        ]
        await settle()
        for _ in range(3):  # none of them leaves room for the next
            device.go.release()
            await device.busy()
        await settle()
        assert device.runs == [("k", [0]), (1, [1]), (2, [2]), (3, [3])]
        device.go.release()
        await device.busy()
        await device.busy()
        device.release(2)
        await asyncio.gather(first, *rest)
    assert shares == [1, 1, 1, 1, 1 / 2, 1 / 2]


async def test_a_share_of_the_device_costs_its_share_of_the_time():
    device, clock, observed = Device(held=True), Clock(), []
    options = {"lanes": 2, "observe": lambda *seen: observed.append(seen)}
    async with batching(device, clock=clock, **options) as batcher:
        first = submit(batcher, 0, pixels=100)
        await device.busy()
        pair = [submit(batcher, n, key=n, pixels=100) for n in (1, 2)]
        await settle()
        clock.pass_by(1.0)  # the whole device for 100 pixels
        device.go.release()
        await device.busy()
        await device.busy()
        await first
        assert batcher.expected_s() == pytest.approx(2.0)
        assert batcher.cost_s(100) == pytest.approx(2.0)  # beside others
        assert batcher.cost_s(1000) == pytest.approx(10.0)  # no other fits beside that
        assert [seconds for _, seconds in observed] == [pytest.approx(1.0)]
        clock.pass_by(2.0)
        assert batcher.expected_s() == pytest.approx(0)
        device.release(2)
        await asyncio.gather(*pair)
        while batcher.expected_s() or batcher.cost_s(100) > 1.5:  # until their lanes are idle
            await asyncio.sleep(0.001)
        assert batcher.cost_s(100) == pytest.approx(1.0)  # alone it has all of the device
        assert batcher.cost_s(100, others=5) == pytest.approx(2.0)
        # With two others in its batch, half of the device takes three times as long.
        assert batcher.cost_s(100, others=5, company=2) == pytest.approx(2 * 3.0)
        assert [seconds for _, seconds in observed] == [pytest.approx(1.0)] * 3


async def test_who_leaves_makes_way_for_others_at_once():
    device = Device(held=True)
    async with batching(device, lanes=2, max_pixels=100) as batcher:
        first = submit(batcher, 0, pixels=40)
        await device.busy()
        pair = [submit(batcher, n, key=n, pixels=40) for n in (1, 2)]
        large = submit(batcher, 3, key=3, pixels=90)
        small = submit(batcher, 4, key=4, pixels=10)
        await settle()
        device.go.release()
        for _ in pair:
            await device.busy()
        device.go.release()
        await asyncio.wait(pair, return_when=asyncio.FIRST_COMPLETED)
        await settle()
        assert len(device.runs) == 3  # there is no room for the large one beside the other
        large.cancel()
        await device.busy()
        assert device.runs[3:] == [(4, [4])]
        device.release(2)
        await asyncio.gather(first, *pair, small)


async def test_a_share_that_cannot_be_taken_fails_its_batch_and_no_other():
    device, refused = Device(), [RuntimeError("no more threads")]

    def take_share(share):
        if refused:
            raise refused.pop()

    async with batching(device, take_share=take_share) as batcher:
        with pytest.raises(RuntimeError, match="no more threads"):
            await asyncio.wait_for(submit(batcher, 1), PATIENCE_S)
        assert (await batcher.submit("k", 2, pixels=1)).value == 4


async def test_a_fatal_error_in_one_part_ends_all():
    device = Device(held=True)
    device.fails = {1: ConnectionError("the device is lost")}
    async with batching(device, lanes=2, fatal=(ConnectionError,)) as batcher:
        first = submit(batcher, 0)
        await device.busy()
        rest = [submit(batcher, n, key=n) for n in (1, 2, 3, 4)]
        await settle()
        device.release(10)
        waited = asyncio.gather(first, *rest, return_exceptions=True)
        results = await asyncio.wait_for(waited, PATIENCE_S)
        assert await batcher.join(PATIENCE_S)
        assert not batcher.alive
    assert results[0].value == 0
    assert isinstance(results[1], ConnectionError)
    for n, result in enumerate(results[2:], start=2):
        assert isinstance(result, BatcherClosedError) or result.value == 2 * n


class Faulty(Device):
    """Takes a second of a simulated clock for a run; fails on odd payloads and large batches."""

    def __init__(self, clock, most):
        super().__init__(held=True)
        self.clock = clock
        self.most = most

    def __call__(self, key, payloads):
        assert len({payload[0] for payload in payloads}) == 1
        self.runs.append((key, list(payloads)))
        self.began.release()
        if self.held:
            assert self.go.acquire(timeout=PATIENCE_S)
        self.clock.pass_by(1.0)
        if len(payloads) > self.most:
            raise MemoryError
        if any(payload[1] % 7 == 1 for payload in payloads):
            raise ValueError("poison")
        return payloads


submissions = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.integers(1, 40),
        st.integers(1, 12) | st.none(),
        st.sampled_from(["wait", "wait", "wait", "leave"]),
    ),
    min_size=1,
    max_size=24,
)


@settings(max_examples=50, deadline=None)
@given(
    submissions=submissions,
    most=st.integers(1, 8),
    max_images=st.integers(1, 8),
    caps=st.fixed_dictionaries({key: st.integers(1, 8) for key in "abc"}),
    lanes=st.integers(1, 3),
    close=st.booleans(),
)
def test_every_item_is_resolved_exactly_once_whatever_happens(
    submissions, most, max_images, caps, lanes, close
):
    """Poisoned items, batches that do not fit, deadlines, clients that leave, an early end."""

    async def scenario():
        clock = Clock()
        device = Faulty(clock, most)
        options = {"max_images": max_images, "max_pixels": 100, "most_images": caps.__getitem__}
        options["lanes"] = lanes
        async with batching(device, clock=clock, **options) as batcher:
            tasks = [
                submit(
                    batcher,
                    (key, n),
                    key=key,
                    pixels=pixels,
                    deadline=float("inf") if deadline is None else deadline,
                )
                for n, (key, pixels, deadline, _) in enumerate(submissions)
            ]
            await device.busy()
            await settle()
            for task, (*_, ending) in zip(tasks, submissions, strict=True):
                if ending == "leave":
                    task.cancel()
            await settle()
            if close:
                batcher.close()
            device.release(1000)
            async with asyncio.timeout(PATIENCE_S):
                results = await asyncio.gather(*tasks, return_exceptions=True)
            await settle()
            assert batcher.depth == 0
        return device, results

    device, results = asyncio.run(scenario())
    pixels = {(key, n): pixels for n, (key, pixels, *_) in enumerate(submissions)}
    for key, payloads in device.runs:
        assert len(payloads) <= min(max_images, caps[key])
        assert len(payloads) == 1 or sum(pixels[payload] for payload in payloads) <= 100
    for n, (result, (key, _, deadline, ending)) in enumerate(
        zip(results, submissions, strict=True)
    ):
        runs = [payloads for _, payloads in device.runs if (key, n) in payloads]
        if isinstance(result, Outcome):
            assert result.value == (key, n)
            assert len(runs[-1]) == result.batch_size <= most
        elif isinstance(result, ValueError):
            assert n % 7 == 1
            assert runs[-1] == [(key, n)]
        elif isinstance(result, DeadlineExceededError):
            assert deadline is not None
        elif isinstance(result, BatcherClosedError):
            assert close
            assert not runs
        else:
            assert isinstance(result, asyncio.CancelledError)
            assert ending == "leave"


@pytest.fixture
def _hasty_threads():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_hasty_threads")
async def test_the_wait_can_be_read_from_any_thread_while_batches_finish():
    done = threading.Event()

    def read():
        while not done.is_set():
            assert batcher.expected_s(unsized=1) >= 0

    async with batching(Device()) as batcher:
        reader = asyncio.create_task(asyncio.to_thread(read))
        try:
            for n in range(800):
                await batcher.submit("k", n, pixels=1)
        finally:
            done.set()
        await reader
