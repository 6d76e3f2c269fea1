"""Threads of one stage: what they run, and the wait they foretell."""

import asyncio
import threading
import weakref

import pytest
from serve_doubles import PATIENCE_S, StoppedTime

from app.serve import workers as module
from app.serve.workers import Workers

pytestmark = pytest.mark.anyio


@pytest.fixture
def workers():
    pool = Workers("test", 2)
    yield pool
    pool.shutdown()


@pytest.fixture
def clock(monkeypatch):
    time = StoppedTime()
    monkeypatch.setattr(module, "time", time)
    return time


async def until(condition):
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.001)


async def take(workers, clock, seconds):
    await workers.run(lambda: setattr(clock, "now", clock.now + seconds))


async def test_results_and_errors_come_back(workers):
    assert await workers.run(lambda: 6 * 7) == 42
    with pytest.raises(ZeroDivisionError):
        await workers.run(lambda: 1 / 0)


async def test_the_wait_grows_with_what_is_ahead_and_ends_with_it(workers, clock):
    assert workers.task_s == workers.wait_behind_s(1000) == 0
    await take(workers, clock, 4.0)
    assert workers.task_s == 4
    gate = threading.Event()
    tasks = []
    for wait in (0, 0, 2, 4, 6):
        assert workers.wait_s == wait
        tasks.append(asyncio.create_task(workers.run(lambda: gate.wait(PATIENCE_S))))
        await asyncio.sleep(0)
    tasks.pop().cancel()  # it leaves the queue
    await until(lambda: workers.wait_s == 6)
    gate.set()
    assert all(await asyncio.gather(*tasks))
    await until(lambda: workers.wait_s == 0)


async def test_one_stall_is_left_out_and_failures_count(workers, clock):
    for seconds in (1.0, 100.0, 3.0):
        await take(workers, clock, seconds)
    assert workers.task_s == 2

    def fail():
        clock.now += 5
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        await workers.run(fail)
    assert workers.task_s == 3


async def test_tasks_that_were_done_elsewhere_are_learnt_from(workers, clock):
    await take(workers, clock, 8.0)
    for _ in range(100):
        workers.learn(0.5)
    assert workers.task_s == 0.5
    assert workers.wait_s == 0


async def test_after_the_shutdown_nothing_is_taken_and_nothing_is_counted(workers, clock):
    await take(workers, clock, 1.0)
    workers.shutdown()
    for _ in range(5):
        with pytest.raises(RuntimeError):
            await workers.run(lambda: None)
    assert workers.wait_s == 0


async def test_an_error_that_no_future_holds_comes_as_another(workers):
    with pytest.raises(RuntimeError, match="StopIteration"):
        await workers.run(lambda: next(iter(())))


async def test_what_was_given_up_in_the_queue_is_let_go_of_and_never_run(workers):
    gate = threading.Event()
    busy = [asyncio.create_task(workers.run(lambda: gate.wait(PATIENCE_S))) for _ in range(2)]
    await asyncio.sleep(0)
    photo = type("Photo", (), {"__call__": lambda self: ran.append(self)})()
    ran = []
    waiting = asyncio.create_task(workers.run(photo))
    await asyncio.sleep(0)
    held = weakref.ref(photo)
    del photo
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    del waiting  # its error leads to the call, and that to the function
    assert held() is None
    gate.set()
    assert all(await asyncio.gather(*busy))
    assert await workers.run(lambda: 1) == 1
    assert ran == []
