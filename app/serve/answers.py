"""The bound on answers: from when they are made until they are sent.

Those that are larger than their photos (probabilities) count from the photo's header on, and are
not made if there is no room. What the others will take is known only afterwards: they are always
sent, and requests that come while there is no room are refused.
"""

import threading
from collections.abc import Callable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.serve.admission import OverloadedError

_PIECE_BYTES = 1 << 20
"""What is handed to the server at a time: it waits for the client between pieces only."""


class AnswerTooLargeError(Exception):
    """The answer to a photo would be larger than the server gives."""


class AnswersFullError(OverloadedError):
    """Too many bytes of answers are held."""


class AnswerBudget:
    """One bound for the bytes of all answers that are being made or sent.

    Args:
        max_bytes: The bound.
        retry_after: When there should be room again, in whole seconds; called from any thread.

    Attributes:
        held: Bytes held.
    """

    def __init__(self, max_bytes: int, *, retry_after: Callable[[], int]) -> None:
        self._max_bytes = max_bytes
        self._retry_after = retry_after
        self.lock = threading.Lock()
        self.held = 0

    def check_room(self) -> None:
        """Refuse a request before any work is done on it.

        Raises:
            AnswersFullError: If there is no room at all.
        """
        if self.held >= self._max_bytes:
            raise AnswersFullError(
                f"{self.held / 1e6:.0f} MB of answers are being made or sent, the most that this "
                "server holds; it takes new requests when some have been read.",
                self._retry_after(),
            )

    def check(self, more: int) -> None:
        """Refuse an answer that there is no room for.

        Raises:
            AnswerTooLargeError: If there never is.
            AnswersFullError: If there is none now.
        """
        if more > self._max_bytes:
            raise AnswerTooLargeError(
                f"The probabilities of this photo would take {more / 1e6:.0f} MB while they are "
                f"written, and at most {self._max_bytes / 1e6:.0f} MB are held. Ask for fewer "
                "`classes` or send a smaller photo."
            )
        if self.held + more > self._max_bytes:
            raise AnswersFullError(
                f"{self.held / 1e6:.0f} MB of answers are being made or sent, and the "
                f"{more / 1e6:.0f} MB of this photo's probabilities would pass the bound of "
                f"{self._max_bytes / 1e6:.0f} MB.",
                self._retry_after(),
            )


class AnswerShare:
    """One request's part of the budget. Thread-safe.

    Args:
        budget: Where it is counted.

    Attributes:
        handed_over: Whether a response has it, and releases it.
    """

    def __init__(self, budget: AnswerBudget) -> None:
        self.handed_over = False
        self._budget = budget
        self._held = 0
        self._released = False

    def take(self, more: int) -> None:
        """Count bytes of an answer before it is made; raises what `AnswerBudget.check` raises."""
        with self._budget.lock:
            # A thread may come this far after its request was given up.
            if self._released or not more:
                return
            self._budget.check(more)
            self._budget.held += more
            self._held += more

    def keep(self, made: int) -> None:
        """Count bytes of an answer that is made, whether or not there is room."""
        with self._budget.lock:
            if not self._released:
                self._budget.held += made
                self._held += made

    def cover(self, made: int) -> None:
        """Count a whole answer, of which parts may be counted already."""
        with self._budget.lock:
            if not self._released and made > self._held:
                self._budget.held += made - self._held
                self._held = made

    def release(self) -> None:
        """Give the share back, for good."""
        with self._budget.lock:
            self._budget.held -= self._held
            self._held = 0
            self._released = True


class SharedResponse(Response):
    """A response that holds a share of the budget until it is sent.

    Its body is sent in pieces, so that at most one of them lies in the server's buffer while the
    share is given back.

    Args:
        content: The body.
        media_type: Its type.
        share: What is released at the end.
    """

    def __init__(self, content: bytes, media_type: str, share: AnswerShare) -> None:
        super().__init__(content, media_type=media_type)
        self._share = share
        share.handed_over = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            size = len(self.body)
            for start in range(0, size or 1, _PIECE_BYTES):
                end = start + _PIECE_BYTES
                # A copy: a view would keep the whole body as long as the server has its last piece.
                piece = self.body[start:end]
                await send({"type": "http.response.body", "body": piece, "more_body": end < size})
        finally:
            self._share.release()
