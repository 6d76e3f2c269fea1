"""Ctrl-C and SIGTERM end a run between two steps, after its state was saved."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class InterruptedRunError(Exception):
    """The user stopped the run; its state is saved."""


@contextmanager
def stop_requested(say: Callable[[str], None]) -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C or SIGTERM sets; a second one interrupts at once.

    A step is never cut in half: its state would be neither the old nor the new one.

    Args:
        say: Tells the user that the first was heard.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # only the main thread may handle signals
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()
        say("stopping after this step; once more to stop at once")

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def leave_ctrl_c_to_the_main_process(worker: int) -> None:
    """Ignore SIGINT, which a terminal sends to a loader's workers too.

    SIGTERM keeps its effect: it is how the main process ends its workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
