"""The batcher with a device double whose runs the test lets go one by one."""

import asyncio
import gc
import sys
import threading
import weakref
from contextlib import asynccontextmanager

import pytest
from serve_doubles import PATIENCE_S

from app.serve.batcher import Batcher, BatcherClosedError, DeadlineExceededError, Outcome

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

    def __call__(self, key, payloads):
        self.runs.append((key, list(payloads)))
        self.threads.add(threading.get_ident())
        self.began.release()
        if self.held:
            assert self.go.acquire(timeout=PATIENCE_S)
        for payload in payloads:
            if payload in self.fails:
                raise self.fails[payload]
        return [payload * 2 for payload in payloads]

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
        Outcome(42, queued_s=0.0, ran_s=10.0, batch_size=1),
        Outcome(8, queued_s=7.0, ran_s=0.0, batch_size=1),
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
    async with batching(Device()) as batcher:
        batcher._run = lambda key, payloads: []
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
    reports = []
    async with batching(device, observe=reports.append) as batcher:
        tasks = [submit(batcher, 0, pixels=10)]
        await device.busy()
        tasks += [submit(batcher, n, pixels=n) for n in (2, 3)]
        await settle()
        device.release(10)
        await asyncio.gather(*tasks, return_exceptions=True)
        await settle()
    assert [(r.images, r.pixels, r.failed) for r in reports] == [
        (1, 10, False),
        (2, 5, True),
        (1, 2, False),
        (1, 3, True),
    ]


async def test_the_backlog_is_estimated_from_recent_runs():
    device = Device()
    async with batching(device, clock=lambda: 2.0 * len(device.runs)) as batcher:
        assert batcher.backlog_s == 0
        await batcher.submit("k", 1, pixels=100)  # 2 s for 100 pixels
        await device.busy()
        device.held = True
        running = submit(batcher, 1, pixels=100)
        await device.busy()
        waiting = submit(batcher, 2, key="other", pixels=400)
        await settle()
        assert batcher.backlog_s == 10
        device.release(2)
        await asyncio.gather(running, waiting)
        assert batcher.backlog_s == 0


@pytest.fixture
def _hasty_threads():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_hasty_threads")
async def test_the_backlog_can_be_read_from_any_thread_while_batches_finish():
    done = threading.Event()

    def read():
        while not done.is_set():
            assert batcher.backlog_s >= 0

    async with batching(Device()) as batcher:
        reader = asyncio.create_task(asyncio.to_thread(read))
        try:
            for n in range(2000):
                await batcher.submit("k", n, pixels=1)
        finally:
            done.set()
        await reader
