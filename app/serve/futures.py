"""What a thread found out, told to whoever waits for it in an event loop."""

import asyncio
from typing import TypeVar

ResultT = TypeVar("ResultT")


def settle(
    future: "asyncio.Future[ResultT]", result: ResultT | None, error: BaseException | None
) -> None:
    """Resolve a future in its event loop, unless nobody waits for it any more.

    Args:
        future: May be cancelled: its waiter left.
        result: What it resolves to.
        error: What it fails with instead, if anything. StopIteration, which futures refuse to
            hold, becomes a RuntimeError.
    """
    if future.done():
        return
    if error is None:
        future.set_result(result)  # type: ignore[arg-type]  # a result may be None
    elif isinstance(error, StopIteration):
        future.set_exception(RuntimeError(repr(error)))
    else:
        future.set_exception(error)
