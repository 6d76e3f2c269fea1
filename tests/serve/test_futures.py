import asyncio

import pytest

from app.serve.futures import settle

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


async def future():
    return asyncio.get_running_loop().create_future()


async def test_a_result_may_be_none():
    waiting = await future()
    settle(waiting, None, None)
    assert await waiting is None


async def test_an_error_reaches_the_waiter():
    waiting = await future()
    settle(waiting, None, KeyError("x"))
    with pytest.raises(KeyError):
        await waiting


async def test_stop_iteration_does_so_as_another():
    waiting = await future()
    settle(waiting, None, StopIteration(7))
    with pytest.raises(RuntimeError, match=r"StopIteration\(7\)"):
        await waiting


async def test_nobody_waits_any_more():
    waiting = await future()
    waiting.cancel()
    settle(waiting, 1, None)
    settle(waiting, None, ValueError())
    assert waiting.cancelled()
