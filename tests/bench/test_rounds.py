"""Turns of several servers, what is checked before them, and what is made of them."""

import json
from io import StringIO

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from app.bench.connection import Answer
from app.bench.engine_alone import EngineFigures, SizeFigures
from app.bench.load import Load, Outcome, Sample
from app.bench.photos import Photo, drawn_photos, parse_sizes
from app.bench.report import EngineResult, Report
from app.bench.results import Distribution, summarise
from app.bench.rounds import (
    Contestant,
    Inside,
    Upload,
    agreement,
    check_photos,
    compare,
    run_rounds,
)
from app.bench.servers import Server
from app.bench.tables import show
from app.errors import UsageError
from app.inference.png import encode_grey_png

SIZES = ("1000x1000", "2000x1000", "3000x1000")
PHOTOS = [Photo(*map(int, size.split("x")), b"x" * 7, "image/jpeg", 1.0) for size in SIZES]


def round_of(*latencies_ms: float, failed: int = 0, cpu: float = 0.1, late: float = 0.0):
    """Figures of one second in which photos took these times, the first sizes first."""
    answered = [
        Sample(
            index % 3, 0.0, late, True, Answer(200, None, ms / 1e3, b"forward;dur=%d" % (ms / 2))
        )
        for index, ms in enumerate(latencies_ms)
    ]
    refused = [Sample(0, 0.0, 0.0, True, Answer(429, None, 0.001, b""))] * failed
    return summarise(Outcome([*answered, *refused], 0.0, 1.0, cpu), PHOTOS)


def contestant(name: str, *rounds) -> Contestant:
    server = Server(name, "http://127.0.0.1:9")
    inside = [Inside(None, None) for _ in rounds]
    return Contestant(server, "/segment", list(rounds), inside)


def test_ratios_are_medians_of_the_ratios_of_each_round() -> None:
    ours = [round_of(10, 10), round_of(10, 10, 10, 10), round_of(10)]
    theirs = [round_of(20), round_of(10, 10), round_of(40)]
    ratios = compare(ours, theirs)
    assert ratios is not None
    assert ratios.images_per_s == pytest.approx(2)  # of 2, 2 and 1
    assert ratios.p50 == pytest.approx(0.5)  # of 1/2, 1 and 1/4
    assert ratios.p99 == pytest.approx(0.5)


def test_a_server_that_segmented_nothing_is_not_compared() -> None:
    assert compare([round_of(10)], [round_of(failed=3)]) is None


def test_masks_agree_in_a_share_of_their_pixels() -> None:
    mask = np.zeros((4, 5), np.uint8)
    other = mask.copy()
    other[0, 0] = 1
    assert agreement([mask, mask], [mask, other]) == pytest.approx(0.95)
    assert agreement([mask], [mask.T]) == 0
    assert agreement([mask], None) is None


def test_a_photo_of_each_size_is_tried_first(fake_server, reply) -> None:
    mask = np.arange(12, dtype=np.uint8).reshape(3, 4)
    png = reply(headers={"Content-Type": "image/png"}, body=encode_grey_png(mask))
    photos = drawn_photos(parse_sizes("4x3,8x6-9x7/3"), file_format="png", seed=0)
    with fake_server(lambda number, body: png) as server:
        one = Contestant(Server("service", f"http://127.0.0.1:{server.port}"), "/segment")
        masks = check_photos(one, [*photos, *photos], Upload(headers=(("X-A", "1"),)))
    assert masks is not None
    assert len(masks) == len(server.requests) == 4
    assert np.array_equal(masks[0], mask)
    assert all(headers["X-A"] == "1" for headers, _ in server.requests)
    assert all(photo.body in body for photo, (_, body) in zip(photos, server.requests, strict=True))


def test_a_refused_photo_ends_the_bench_with_the_reason(fake_server, reply) -> None:
    photos = drawn_photos(parse_sizes("4x3"), file_format="png", seed=0)
    with fake_server(lambda number, body: reply(413, body=b"too large")) as server:
        one = Contestant(Server("service", f"http://127.0.0.1:{server.port}"), "/segment")
        with pytest.raises(UsageError, match="service answered 413 to a photo of 4x3: too large"):
            check_photos(one, photos, Upload())


def test_servers_take_turns_and_get_the_same_load(fake_server, reply) -> None:
    photos = drawn_photos(parse_sizes("4x3,5x3"), file_format="png", seed=0)
    lines: list[str] = []
    order: list[str] = []

    def answering(name: str):
        def answer(number: int, body: bytes):
            if not order or order[-1] != name:
                order.append(name)
            return reply()

        return fake_server(answer)

    with answering("a") as a, answering("b") as b:
        contestants = [
            Contestant(Server(name, f"http://127.0.0.1:{server.port}"), "/segment?format=png")
            for name, server in (("a", a), ("b", b))
        ]
        load = Load(requests=10, concurrency=1, warm_up_s=0)
        run_rounds(
            contestants, photos, Upload(False), load, rounds=3, engine=None, tell=lines.append
        )
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert [body for _, body in a.requests] == [body for _, body in b.requests]
    assert [one.sent for one in contestants[0].rounds] == [10, 10, 10]
    assert [line.partition(" images/s")[0].rpartition(" ")[0] for line in lines[:3]] == [
        "round 1 of 3: a",
        "round 1 of 3: b",
        "round 2 of 3: a",
    ]


def report(**options) -> Report:
    service = contestant("service", round_of(10, 20, 30, failed=1), round_of(10, 20, 30))
    service.inside[-1] = Inside(1.25, 512.0)
    naive = contestant("naive", round_of(20), round_of(40))
    forward = Distribution(3, 9.0, 9.0, 9.0, 9.0, 9.0)
    alone = EngineFigures(4.0, {"1000x1000": SizeFigures(forward, 2, 5.5)})
    values = {
        "asked": {"concurrency": 1},
        "photos": PHOTOS,
        "model": {"name": "m"},
        "contestants": [service, naive],
        "engine": EngineResult([alone, alone], alone),
        "agreement": {"naive": 1.0},
        "alone": True,
    }
    return Report(**(values | options))


def shown(one: Report) -> str:
    console = Console(file=StringIO(), width=80)
    show(one, console)
    return console.file.getvalue()


def test_json_holds_every_round_and_ratio(tmp_path) -> None:
    path = tmp_path / "figures.json"
    report().write(path)
    document = json.loads(path.read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]
    service = document["servers"]["service"]
    assert [one["answers"]["200"]["count"] for one in service["rounds"]] == [3, 3]
    assert service["rounds"][0]["answers"]["429"]["count"] == 1
    assert service["median"]["stages"]["total"]["p50"] == pytest.approx(20)
    assert document["photos"][0] == {"size": "1000x1000", "bytes": 7, "weight": 1.0}
    assert document["ratios"]["naive"]["images_per_s"] == pytest.approx(3)
    assert document["of_engine"] == pytest.approx(3 / 4)
    assert document["engine"]["median"]["by_size"]["1000x1000"]["batch"] == 2
    assert document["lines"]["total"] == pytest.approx(
        {"slope": 10, "offset": 0, "r_squared": 1}, abs=1e-6
    )
    assert document["beyond_forward"] == pytest.approx({"1000x1000": 1})
    assert document["lines"]["forward"]["slope"] == pytest.approx(5)
    assert document["machine"]["processors"] >= 1


def test_tables_show_rates_failures_ratios_and_the_line() -> None:
    text = shown(report())
    assert "1 of 7" in text
    assert "service answered 1 of 7 with 429" in text
    assert "service over naive: 3.000 x images/s, 0.750 x p50" in text
    assert "service over the engine alone: 0.750 x images/s" in text
    assert "service: 1.25 photos a batch, 512 MiB resident in its last round" in text
    assert "service at 1000x1000: p50 is the forward alone + 1.00 ms" in text
    assert "median total time of a size: 10.00 ms x megapixels + " in text
    assert "warning" not in text


def test_times_of_a_crowd_are_not_taken_for_those_of_a_size() -> None:
    text = shown(report(alone=False))
    assert "megapixels" not in text
    assert "the forward alone" not in text


def test_what_spoils_a_comparison_is_said() -> None:
    busy = contestant("service", round_of(10, cpu=0.97, late=0.025))
    other = contestant("naive", round_of(10))
    text = shown(
        report(contestants=[busy, other], engine=None, agreement={"naive": 0.9}, alone=False)
    )
    assert "the generator used 97% of a processor under service" in text
    assert "requests to service were sent up to 25.0 ms late" in text
    assert "naive's masks agree with the service's in 90.00% of the pixels only" in text


def test_a_server_that_only_refuses_is_shown_too() -> None:
    text = shown(report(contestants=[contestant("service", round_of(failed=5))], engine=None))
    assert "5 of 5" in text


def test_a_palette_mask_is_compared_by_its_classes(fake_server, reply, tmp_path) -> None:
    mask = Image.fromarray(np.full((3, 4), 2, np.uint8))
    mask.putpalette([9, 9, 9] * 3)
    mask.save(tmp_path / "mask.png")
    png = reply(headers={"Content-Type": "image/png"}, body=(tmp_path / "mask.png").read_bytes())
    photos = drawn_photos(parse_sizes("4x3"), file_format="png", seed=0)
    with fake_server(lambda number, body: png) as server:
        one = Contestant(Server("service", f"http://127.0.0.1:{server.port}"), "/segment")
        (label_map,) = check_photos(one, photos, Upload()) or ()
    assert (label_map == 2).all()
