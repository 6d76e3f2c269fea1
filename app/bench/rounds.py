"""Servers against each other and against the engine alone: A B C, A B C, ... in one run.

Only one of them works at a time while the others are frozen, and they take turns, so that what
the machine does meanwhile (its clock, its neighbours) meets all of them alike. Figures are medians
over the rounds, ratios medians of the ratios within each round.
"""

import dataclasses
import io
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.bench.connection import build_request
from app.bench.engine_alone import EngineAlone, EngineFigures
from app.bench.load import Load, Target, run_load
from app.bench.photos import Photo
from app.bench.results import TOTAL, Figures, summarise
from app.bench.servers import Server
from app.errors import UsageError

_MOST_CHECKED: Final = 16
"""Sizes of which a photo is posted before the first round."""


@dataclass(frozen=True)
class Upload:
    """How photos are sent.

    Attributes:
        multipart: As a form's field, else as the body.
        headers: More headers.
    """

    multipart: bool = True
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Inside:
    """What the service's own metrics tell of a round; None where there are none.

    Attributes:
        images_per_batch: Mean number of photos in a batch.
        resident_mib: Memory of the process after the round, in MiB.
    """

    images_per_batch: float | None
    resident_mib: float | None


@dataclass
class Contestant:
    """A server, how to post to it, and what its rounds found.

    Attributes:
        server: It.
        path: Where photos are posted, with its query.
        rounds: Figures of its rounds.
        inside: What it told of them itself.
    """

    server: Server
    path: str
    rounds: list[Figures] = field(default_factory=list)
    inside: list[Inside] = field(default_factory=list)


@dataclass(frozen=True)
class Ratios:
    """The first server against another, each a median over rounds.

    Attributes:
        images_per_s: Its rate over the other's; more than 1 is faster.
        p50: Its p50 over the other's; less than 1 is faster.
        p99: The same for p99.
    """

    images_per_s: float
    p50: float
    p99: float


def check_photos(
    contestant: Contestant, photos: Sequence[Photo], upload: Upload
) -> list[NDArray[np.uint8]] | None:
    """Post a photo of each size, of the first 16, before anything is measured.

    Returns:
        Their label maps if the answers are images of one channel, else None.

    Raises:
        UsageError: If one is not answered with 200; it says with what.
    """
    first: dict[str, Photo] = {}
    for photo in photos:
        first.setdefault(photo.size, photo)
    label_maps = []
    for photo in list(first.values())[:_MOST_CHECKED]:
        answer = _post(contestant, photo, upload)
        if answer.status_code != 200:
            raise UsageError(
                f"{contestant.server.name} answered {answer.status_code} to a photo of "
                f"{photo.size}: {answer.text[:500]}"
            )
        label_maps.append(_label_map(answer))
    known = [label_map for label_map in label_maps if label_map is not None]
    return known if len(known) == len(label_maps) else None


def agreement(
    masks: Sequence[NDArray[np.uint8]] | None, others: Sequence[NDArray[np.uint8]] | None
) -> float | None:
    """Return the least share of pixels in which two servers' masks agree; None if unknown."""
    if masks is None or others is None:
        return None
    return min(
        float(np.mean(mask == other)) if mask.shape == other.shape else 0.0
        for mask, other in zip(masks, others, strict=True)
    )


def run_rounds(
    contestants: Sequence[Contestant],
    photos: Sequence[Photo],
    upload: Upload,
    load: Load,
    *,
    rounds: int,
    engine: EngineAlone | None,
    tell: Callable[[str], None],
) -> list[EngineFigures]:
    """Run the rounds; fills in the contestants and returns the engine's figures, if there is one.

    Args:
        contestants: The servers, frozen.
        photos: What is sent.
        upload: How.
        load: How much; every round draws other arrivals, the same ones for each server.
        rounds: How often.
        engine: Runs after them in each round, for the same time.
        tell: Called with a line after each part of a round.

    Raises:
        UsageError: If a server ends, or no request falls into the measurement.
    """
    engine_rounds = []
    for number in range(rounds):
        turn = dataclasses.replace(load, seed=load.seed + number)
        where = f"round {number + 1} of {rounds}"
        for contestant in contestants:
            with contestant.server.thawed():
                _run_round(contestant, photos, upload, turn)
            tell(f"{where}: {contestant.server.name} {_in_short(contestant.rounds[-1])}")
        if engine is not None:
            figures = engine.measure(contestants[0].rounds[-1].measured_s)
            engine_rounds.append(figures)
            tell(f"{where}: engine alone {figures.images_per_s:.2f} images/s")
    return engine_rounds


def compare(rounds: Sequence[Figures], others: Sequence[Figures]) -> Ratios | None:
    """Set rounds against those of another server; None if either segmented nothing."""
    pairs = [
        (one, other)
        for one, other in zip(rounds, others, strict=True)
        if TOTAL in one.stages and TOTAL in other.stages and other.images_per_s
    ]
    if not pairs:
        return None
    return Ratios(
        statistics.median(one.images_per_s / other.images_per_s for one, other in pairs),
        statistics.median(one.stages[TOTAL].p50 / other.stages[TOTAL].p50 for one, other in pairs),
        statistics.median(one.stages[TOTAL].p99 / other.stages[TOTAL].p99 for one, other in pairs),
    )


def _run_round(contestant: Contestant, photos: Sequence[Photo], upload: Upload, load: Load) -> None:
    server = contestant.server
    target = Target(
        server.host,
        server.port,
        [
            build_request(
                server.address,
                contestant.path,
                photo.body,
                media_type=photo.media_type,
                multipart=upload.multipart,
                headers=upload.headers,
            )
            for photo in photos
        ],
        [photo.weight for photo in photos],
    )
    before = server.metrics()
    outcome = run_load(target, load)
    server.check()
    after = server.metrics()
    if not any(sample.measured for sample in outcome.samples):
        raise UsageError(
            f"no request to {server.name} fell into {load.duration_s:g} s: measure for longer"
        )
    contestant.rounds.append(summarise(outcome, photos))
    contestant.inside.append(_inside(before, after))


def _inside(before: dict[str, float], after: dict[str, float]) -> Inside:
    batches, images = (
        after.get(name, 0.0) - before.get(name, 0.0)
        for name in ("fcn_batch_images_count", "fcn_batch_images_sum")
    )
    resident = after.get("process_resident_memory_bytes")
    return Inside(images / batches if batches else None, resident and resident / 2**20)


def _label_map(answer: httpx.Response) -> NDArray[np.uint8] | None:
    if answer.headers.get("content-type") != "image/png":
        return None
    with Image.open(io.BytesIO(answer.content)) as image:
        return np.asarray(image) if image.mode in ("L", "P") else None


def _post(contestant: Contestant, photo: Photo, upload: Upload) -> httpx.Response:
    client, headers = contestant.server.client, dict(upload.headers)
    try:
        if upload.multipart:
            files = {"image": ("photo", photo.body, photo.media_type)}
            return client.post(contestant.path, files=files, headers=headers)
        headers["Content-Type"] = photo.media_type
        return client.post(contestant.path, content=photo.body, headers=headers)
    except httpx.TransportError as error:
        contestant.server.check()
        raise UsageError(f"{contestant.server.name} does not answer: {error}") from None


def _in_short(figures: Figures) -> str:
    words = f"{figures.images_per_s:.2f} images/s"
    if TOTAL in figures.stages:
        total = figures.stages[TOTAL]
        words += f", p50 {total.p50:.1f} ms, p99 {total.p99:.1f} ms"
    return words + (f", {figures.failed} of {figures.sent} failed" if figures.failed else "")
