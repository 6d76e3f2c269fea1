"""Several photos of one request, through the stages side by side."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeVar

ReturnT = TypeVar("ReturnT")

AT_ONCE: Final = 16
"""Photos of one request that are in the pipeline together, so that it leaves room for others."""


async def in_order(
    work: Iterable[Callable[[], Awaitable[ReturnT]]], *, at_once: int = AT_ONCE
) -> list[ReturnT]:
    """Run what is given, `at_once` at a time, and return its results in the same order.

    Raises:
        Exception: What the first to fail raised; the others are cancelled.
    """
    places = asyncio.Semaphore(at_once)

    async def take_turn(begin: Callable[[], Awaitable[ReturnT]]) -> ReturnT:
        async with places:
            return await begin()

    tasks = [asyncio.create_task(take_turn(begin)) for begin in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        tasks.clear()  # an error's traceback leads to this frame, which must not lead back to it
