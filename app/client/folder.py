"""Folders of photos -> folders of masks: a run, and what became of each photo."""

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from app.client.errors import INVALID_PARAMETER, SegmentationError
from app.client.files import write_bytes
from app.client.note import Note
from app.client.plan import Job, plan
from app.client.retries import MAY_PASS
from app.progress import Progress

GONE_AFTER: Final = 3
"""Photos in a row that no server was there for, or only a full one, after which the rest is not
tried: the next would fare no better, and one alone may be what breaks its connection."""

LOOK_S: Final = 0.5
"""How long to wait for an outcome before looking whether Ctrl-C was pressed, in seconds: a signal
that comes just before a wait begins does not end it."""


@dataclass(frozen=True)
class Failure:
    """A photo without a mask, and why."""

    photo: Path
    error: SegmentationError | OSError

    def __str__(self) -> str:
        if isinstance(self.error, SegmentationError):
            return f"{self.photo}: {self.error.detail}"
        return f"{self.photo}: {self.error.strerror or self.error}"


@dataclass(frozen=True)
class FolderReport:
    """What became of a folder.

    Attributes:
        written: Masks.
        skipped: Masks that were there before.
        failures: Photos without a mask, and why.
        untried: Photos that were not sent any more, as the last failure would have been theirs too.
    """

    written: tuple[Path, ...]
    skipped: tuple[Path, ...]
    failures: tuple[Failure, ...]
    untried: tuple[Path, ...]

    @property
    def complete(self) -> bool:
        """Whether every photo has its mask."""
        return not self.failures and not self.untried


class FolderRun:
    """The state of one run over a folder: what is left, what has become of the rest.

    Args:
        folder: A folder, or several of them and of image files.
        out: Folder for the masks.
        parameters: Query of `POST /segment` that masks are asked for with.
        parallel: Photos under way at a time.
        overwrite: Whether masks that are there are made again.

    Attributes:
        pending: What has not been taken yet.
        parallel: Photos under way at a time.

    Raises:
        FolderError: As `plan` and `Note`.
        OSError: As `plan` and `Note`.
        ValueError: If `parallel` is below 1.
    """

    def __init__(
        self,
        folder: str | Path | Sequence[str | Path],
        out: Path,
        parameters: Mapping[str, str],
        *,
        parallel: int,
        overwrite: bool,
    ) -> None:
        if parallel < 1:
            raise ValueError(f"parallel is {parallel}, below 1")
        sources = [folder] if isinstance(folder, str | Path) else folder
        jobs = plan([Path(source) for source in sources], out, parameters["format"])
        self._note = Note(out, parameters, [job.photo for job in jobs], overwrite=overwrite)
        self.parallel = parallel
        self._skipped = [] if overwrite else [job.output for job in jobs if job.output.exists()]
        present = set(self._skipped)
        self.pending = [job for job in reversed(jobs) if job.output not in present]
        self._written: list[Path] = []
        self._failures: list[Failure] = []
        self._untried: list[Path] = []
        self._gone = 0
        self._said_waiting = False
        self._progress = self._make_progress(shown=False)

    @contextmanager
    def showing(self, shown: bool) -> Iterator[None]:
        """Show progress while the block runs, if `shown`."""
        with self._make_progress(shown=shown) as self._progress:
            yield

    def _make_progress(self, *, shown: bool) -> Progress:
        console = Console(stderr=True) if shown else None
        return Progress(len(self.pending), "segmenting", console)

    def waiting(self, why: str) -> None:
        """Say, once, that the server is waited for: a wrong address looks like one that is down."""
        if not self._said_waiting:
            self._progress.say(f"waiting for the server: {why}")
        self._said_waiting = True

    def take(self) -> Job | None:
        """Return the next job, None if there is none left."""
        return self.pending.pop() if self.pending else None

    def write(self, job: Job, mask: bytes) -> None:
        """Keep an answer.

        Raises:
            OSError: If it cannot be written.
        """
        job.output.parent.mkdir(parents=True, exist_ok=True)
        self._note.keep()
        write_bytes(job.output, mask)
        self._note.made(job.output)
        self._written.append(job.output)
        self._gone = 0
        self._progress.advance()

    def fail(self, job: Job, error: SegmentationError | OSError) -> None:
        """Note that a photo has no mask; leave the rest untried if they would fail just so."""
        failure = Failure(job.photo, error)
        self._failures.append(failure)
        self._progress.advance()
        self._progress.say(f"error: {failure}")
        self._gone = self._gone + 1 if isinstance(error, MAY_PASS) else 0
        refused = isinstance(error, SegmentationError) and error.type == INVALID_PARAMETER
        if refused or self._gone >= GONE_AFTER:
            self._untried += [left.photo for left in reversed(self.pending)]
            self.pending.clear()

    def report(self) -> FolderReport:
        """Return what has become of the photos, each list in order of the names."""
        return FolderReport(
            written=tuple(sorted(self._written)),
            skipped=tuple(sorted(self._skipped)),
            failures=tuple(sorted(self._failures, key=lambda failure: failure.photo)),
            untried=tuple(sorted(self._untried)),
        )


def fetch_in_threads(run: FolderRun, fetch: Callable[[Path], bytes]) -> None:
    """Do all jobs of a run, several at a time.

    Files are written by the calling thread alone, which is the one that Ctrl-C interrupts: the
    others are daemons that hold nothing but an answer, so it need not wait for them.

    Args:
        run: Whose jobs.
        fetch: Returns the mask of a photo; raises SegmentationError or OSError.

    Raises:
        OSError: If a mask cannot be written.
    """
    jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
    outcomes: queue.SimpleQueue[tuple[Job, bytes | Exception]] = queue.SimpleQueue()

    def work() -> None:
        while (job := jobs.get()) is not None:
            try:
                outcomes.put((job, fetch(job.photo)))
            except Exception as error:  # raised again, or noted, by the thread that waits for it
                outcomes.put((job, error))

    workers = min(run.parallel, len(run.pending))
    for _ in range(workers):
        threading.Thread(target=work, daemon=True).start()
    try:
        under_way = 0
        while True:
            while under_way < workers and (job := run.take()) is not None:
                jobs.put(job)
                under_way += 1
            if not under_way:
                return
            try:
                job, outcome = outcomes.get(timeout=LOOK_S)
            except queue.Empty:
                continue
            under_way -= 1
            settle(run, job, outcome)
    finally:
        for _ in range(workers):
            jobs.put(None)


async def fetch_in_tasks(run: FolderRun, fetch: Callable[[Path], Awaitable[bytes]]) -> None:
    """Do all jobs of a run, several at a time, on the event loop; files are written on it too.

    Args:
        run: Whose jobs.
        fetch: Returns the mask of a photo; raises SegmentationError or OSError.

    Raises:
        OSError: If a mask cannot be written.
    """

    async def work() -> None:
        while (job := run.take()) is not None:
            outcome: bytes | Exception
            try:
                outcome = await fetch(job.photo)
            except (SegmentationError, OSError) as error:
                outcome = error
            settle(run, job, outcome)

    unwritten: list[BaseException] = []
    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(run.parallel, len(run.pending))):
                tasks.create_task(work())
    except* OSError as group:
        unwritten += group.exceptions
    if unwritten:
        raise unwritten[0]


def settle(run: FolderRun, job: Job, outcome: bytes | Exception) -> None:
    """Note what became of a job.

    Raises:
        Exception: `outcome`, if it is no failure of a photo but a bug.
        OSError: If the mask cannot be written.
    """
    if isinstance(outcome, bytes):
        run.write(job, outcome)
    elif isinstance(outcome, SegmentationError | OSError):
        run.fail(job, outcome)
    else:
        raise outcome
