"""What the clients do when the server is full, gone, slow or not itself."""

import asyncio
import contextlib
import pickle
import socket
import threading
import time
from email.utils import formatdate

import numpy as np
import pytest
from scripted_server import (
    ScriptedServer,
    StoppedClock,
    answer,
    as_json,
    break_off,
    busy,
    dribble,
    hang_up,
    model_document,
    photo_of,
    png,
    problem,
    reset,
    rle_document,
    speak_gibberish,
    stall,
    stall_in_the_middle,
    until,
)

from app.client import (
    AsyncClient,
    BadImageError,
    BusyError,
    Client,
    ConnectionFailedError,
    DeadlineError,
    InvalidRequestError,
    ProtocolError,
    SegmentationError,
    ServerError,
    TooLargeError,
    UnavailableError,
)
from app.client.exchange import Exchange, Send, query
from app.client.retries import Deadline, wait_s

LABELS = np.array([[0, 1], [2, 3]], np.uint8)
PHOTO = png(photo_of(LABELS))


@pytest.mark.parametrize(
    ("status", "slug", "error"),
    [
        (400, "broken-image", BadImageError),
        (415, "unknown-image-format", BadImageError),
        (413, "too-many-pixels", TooLargeError),
        (422, "invalid-parameter", InvalidRequestError),
        (406, "not-acceptable", InvalidRequestError),
        (500, "internal-error", ServerError),
        (504, "deadline-exceeded", DeadlineError),
        (404, "not-found", ProtocolError),
        (400, "bad-request", ProtocolError),
    ],
)
def test_a_problem_is_an_error_of_its_kind_and_not_tried_again(
    scripted: ScriptedServer, connect, status: int, slug: str, error
) -> None:
    scripted.script = [problem(status, slug, "What is wrong.")]
    with pytest.raises(SegmentationError) as raised:
        connect(scripted.url).segment(PHOTO)
    assert type(raised.value) is error
    assert raised.value.status == status
    assert raised.value.type == f"urn:fcn:{slug}"
    assert raised.value.detail == "What is wrong."
    assert raised.value.request_id == scripted.requests[0].headers["x-request-id"]
    assert len(scripted.requests) == 1


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (413, TooLargeError),
        (500, ServerError),
        (507, ServerError),
        (504, DeadlineError),
        (403, ProtocolError),
        (204, ProtocolError),
    ],
)
def test_a_proxys_error_page_is_typed_by_its_status(
    scripted: ScriptedServer, connect, status: int, error
) -> None:
    scripted.script = [
        answer(status, b"" if status == 204 else b"<html>", content_type="text/html")
    ]
    with pytest.raises(error, match=f"status {status}") as raised:
        connect(scripted.url).segment(PHOTO)
    assert raised.value.type is None


def test_a_redirect_says_where_to(scripted: ScriptedServer, connect) -> None:
    scripted.script = [answer(308, location="https://elsewhere/segment")]
    with pytest.raises(ProtocolError, match="https://elsewhere/segment"):
        connect(scripted.url).segment(PHOTO)


def rle(**changes: object) -> bytes:
    return as_json({**rle_document(LABELS), **changes})


def first_mask(**changes: object) -> bytes:
    document = rle_document(LABELS)
    document["masks"][0] |= changes
    return as_json(document)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"{}",
        b"[" * 100_000,
        rle(masks=None),
        rle(masks=[3]),
        rle(masks=[]),
        rle(model={"name": 3, "version": "x"}),
        rle(image={"width": 3, "height": 2}),
        rle(image={"width": 0, "height": 2}),
        rle(image={"width": 2.0, "height": 2}),
        rle(image={"width": 2**20, "height": 2**20}),
        rle(timing_ms={"decode": "x"}),
        first_mask(class_id=255),
        first_mask(class_id=True),
        first_mask(color="red"),
        first_mask(rle={"size": [2, 2], "counts": [-1, 5]}),
        first_mask(rle={"size": [2, 2], "counts": [0, 4]}),
        first_mask(rle={"size": [2, 2], "counts": "04"}),
        first_mask(rle={"size": [2, 2], "counts": [10**30]}),
        first_mask(score="NaN"),
    ],
    ids=lambda body: body.decode("latin-1")[-40:],
)
def test_an_answer_that_is_none_is_a_protocol_error(
    scripted: ScriptedServer, connect, body: bytes
) -> None:
    scripted.script = [answer(200, body, content_type="application/json")]
    with pytest.raises(ProtocolError) as raised:
        connect(scripted.url).segment(PHOTO)
    assert raised.value.status == 200
    assert raised.value.request_id is not None


def test_a_page_in_place_of_an_answer_is_a_protocol_error(
    scripted: ScriptedServer, connect
) -> None:
    client = connect(scripted.url)
    page = answer(200, b"<html>", content_type="text/html; charset=utf-8")
    for call in (
        lambda: client.segment(PHOTO),
        lambda: client.download(PHOTO),
        client.model,
        client.health,
    ):
        scripted.script = [page]
        with pytest.raises(ProtocolError, match="text/html"):
            call()


def test_an_encoding_that_cannot_be_undone_is_a_protocol_error(
    scripted: ScriptedServer, connect
) -> None:
    scripted.script = [
        answer(200, b"no gzip", content_type="application/json", content_encoding="gzip")
    ]
    with pytest.raises(ProtocolError, match="cannot be read"):
        connect(scripted.url).segment(PHOTO)


@pytest.mark.parametrize(
    "trouble",
    [
        busy(),
        problem(503, "not-ready"),
        problem(503, "stopping"),
        answer(502, b"<html>"),
        answer(503, b"<html>"),
        hang_up,
        reset,
        break_off,
    ],
    ids=[
        "busy",
        "starting",
        "stopping",
        "bad-gateway",
        "unavailable",
        "hang-up",
        "reset",
        "break-off",
    ],
)
def test_what_may_pass_is_tried_again(
    scripted: ScriptedServer, connect, stopped: StoppedClock, trouble
) -> None:
    scripted.script = [trouble, trouble]
    result = connect(scripted.url, clock=stopped.clock).segment(PHOTO)
    assert np.array_equal(result.label_map, LABELS)
    assert len(scripted.posts()) == 3
    # Full jitter: chance says the half, of 0.5 s and then of twice that.
    assert stopped.slept == [0.25, 0.5]


def test_waits_double_up_to_ten_seconds(
    scripted: ScriptedServer, connect, stopped: StoppedClock
) -> None:
    scripted.script = [busy()] * 8
    connect(scripted.url, clock=stopped.clock).segment(PHOTO)
    assert [2 * slept for slept in stopped.slept] == [0.5, 1, 2, 4, 8, 10, 10, 10]


def test_waits_stay_at_ten_seconds_however_many_there_were(stopped: StoppedClock) -> None:
    deadline = Deadline(1e6, stopped.clock)
    for tries in (1023, 1024, 1025, 10**9):
        assert wait_s(BusyError("full"), tries, deadline, stopped.clock) == 5


@pytest.mark.parametrize("trouble", [busy(), problem(503, "not-ready"), reset])
def test_after_the_last_retry_it_is_that_error(
    scripted: ScriptedServer, connect, stopped: StoppedClock, trouble
) -> None:
    scripted.script = [trouble] * 9
    expected = (BusyError, UnavailableError, ConnectionFailedError)
    with pytest.raises(expected) as raised:
        connect(scripted.url, clock=stopped.clock, retries=2).segment(PHOTO)
    assert len(scripted.requests) == 3
    assert raised.value.request_id == scripted.requests[-1].headers["x-request-id"]


def test_retry_after_is_the_least_wait(
    scripted: ScriptedServer, connect, stopped: StoppedClock
) -> None:
    stopped.chance = 0.5
    scripted.script = [busy("3"), problem(503, "not-ready", retry_after="1")]
    connect(scripted.url, clock=stopped.clock).segment(PHOTO)
    assert stopped.slept == [3.25, 1.25]


def test_retry_after_may_be_a_date_by_the_servers_clock(
    scripted: ScriptedServer, connect, stopped: StoppedClock
) -> None:
    stopped.chance = 0
    noon, other = 1_700_000_000, 1_600_000_000
    scripted.script = [
        undated(busy(formatdate(stopped.now + 7, usegmt=True))),
        undated(busy(formatdate(noon + 5, usegmt=True), date=formatdate(noon, usegmt=True))),
        undated(busy(formatdate(other, usegmt=True), date=formatdate(noon, usegmt=True))),
    ]
    connect(scripted.url, clock=stopped.clock).segment(PHOTO)
    assert stopped.slept == [7, 5, 0]


def undated(behaviour):
    """Let a behaviour send no Date but its own."""

    def behave(handler, request) -> None:
        handler.send_response = handler.send_response_only
        behaviour(handler, request)
        del handler.send_response

    return behave


@pytest.mark.parametrize("words", ["soon", "-3", "1.5", "", "99999999999999999999999 GMT"])
def test_a_senseless_retry_after_is_as_good_as_none(
    scripted: ScriptedServer, connect, stopped: StoppedClock, words: str
) -> None:
    scripted.script = [busy(words)]
    connect(scripted.url, clock=stopped.clock).segment(PHOTO)
    assert stopped.slept == [0.25]


def test_nobody_waits_past_the_deadline(
    scripted: ScriptedServer, connect, stopped: StoppedClock
) -> None:
    scripted.script = [busy("20"), busy("50")]
    with pytest.raises(BusyError) as raised:
        connect(scripted.url, clock=stopped.clock, timeout=60).segment(PHOTO)
    assert stopped.slept == [20.25]
    assert raised.value.retry_after_s == 50


def test_the_server_is_told_how_long_somebody_waits(
    scripted: ScriptedServer, connect, stopped: StoppedClock
) -> None:
    scripted.script = [busy("20")]
    connect(scripted.url, clock=stopped.clock, timeout=60).segment(PHOTO)
    told = [float(request.headers["x-request-timeout"]) for request in scripted.posts()]
    assert told == [60, 39.75]


@pytest.mark.parametrize(("left_s", "told"), [(0.0004, "0.001"), (0.0016, "0.002"), (9, "9.000")])
def test_the_server_is_never_told_that_no_time_is_left(
    stopped: StoppedClock, left_s: float, told: str
) -> None:
    exchange = Exchange("http://host", timeout_s=left_s, retries=0, clock=stopped.clock)
    request = next(exchange.download(PHOTO, query("png")))
    assert isinstance(request, Send)
    assert request.headers["X-Request-Timeout"] == told


def test_tries_of_a_call_share_an_id_and_differ(
    scripted: ScriptedServer, connect, stopped: StoppedClock
) -> None:
    scripted.script = [busy(), busy()]
    client = connect(scripted.url, clock=stopped.clock)
    result = client.segment(PHOTO)
    client.segment(PHOTO)
    ids = [request.headers["x-request-id"] for request in scripted.posts()]
    assert ids[1:3] == [f"{ids[0]}-2", f"{ids[0]}-3"]
    assert result.request_id == ids[2]
    assert ids[3] not in ids[:3]


def test_a_file_is_read_once_and_sent_again(
    scripted: ScriptedServer, connect, stopped: StoppedClock, tmp_path
) -> None:
    (tmp_path / "a.png").write_bytes(PHOTO)
    scripted.script = [busy(), reset]
    with open(tmp_path / "a.png", "rb") as file:
        connect(scripted.url, clock=stopped.clock).segment(file)
        assert not file.closed
    assert [request.body for request in scripted.posts()] == [PHOTO] * 3


@pytest.mark.parametrize("trouble", [stall, stall_in_the_middle, dribble])
def test_a_server_that_does_not_come_to_an_end_is_left_at_the_deadline(
    scripted: ScriptedServer, connect, trouble
) -> None:
    scripted.script = [trouble]
    with pytest.raises(DeadlineError, match=r"did not answer within 0\.2 s") as raised:
        connect(scripted.url, timeout=0.2).segment(PHOTO)
    assert raised.value.status is None
    assert len(scripted.requests) == 1


def test_a_server_that_reads_too_slowly_is_left_at_the_deadline() -> None:
    """Each wait for the network is short, and all of them together are too long."""
    received = 0
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def read_slowly() -> None:
            nonlocal received
            connection, _ = listener.accept()
            with connection, contextlib.suppress(ConnectionError):
                while data := connection.recv(65_536):
                    received += len(data)
                    time.sleep(0.02)

        reader = threading.Thread(target=read_slowly)
        reader.start()
        url = "http://{}:{}".format(*listener.getsockname())
        with Client(url, timeout=0.5) as client, pytest.raises(DeadlineError):
            client.segment(PHOTO + bytes(16_000_000))
        reader.join()
    assert received < 12_000_000


def test_what_is_no_http_is_a_failed_connection(
    scripted: ScriptedServer, connect, stopped: StoppedClock
) -> None:
    scripted.script = [speak_gibberish] * 3
    with pytest.raises(ConnectionFailedError, match=scripted.url):
        connect(scripted.url, clock=stopped.clock, retries=2).segment(PHOTO)


def test_nobody_listens(scripted: ScriptedServer, connect, stopped: StoppedClock) -> None:
    scripted.stop()
    with pytest.raises(ConnectionFailedError) as raised:
        connect(scripted.url, clock=stopped.clock).segment(PHOTO)
    assert len(stopped.slept) == 8
    assert raised.value.status is None
    scripted.start()


def test_a_restart_on_the_same_port_is_bridged(
    scripted: ScriptedServer, connect, stopped: StoppedClock
) -> None:
    client = connect(scripted.url, clock=stopped.clock)
    client.segment(PHOTO)  # leaves a connection that the restart breaks
    scripted.stop()

    def start_again() -> None:
        if len(stopped.slept) == 3:
            scripted.start()

    stopped.on_sleep = start_again
    assert np.array_equal(client.segment(PHOTO).label_map, LABELS)
    assert len(stopped.slept) == 3


def test_a_model_that_is_not_told_at_once_is_asked_for_again(
    scripted: ScriptedServer, connect, stopped: StoppedClock
) -> None:
    good = answer(200, rle(), content_type="application/json")
    scripted.script = [good, problem(503, "not-ready")]
    assert np.array_equal(
        connect(scripted.url, clock=stopped.clock).segment(PHOTO).label_map, LABELS
    )
    assert [request.path for request in scripted.requests] == ["/segment", "/model", "/model"]


def test_a_model_that_is_none_is_a_protocol_error(scripted: ScriptedServer, connect) -> None:
    broken = {**model_document(), "classes": [{"index": 0}]}
    scripted.script = [answer(200, as_json(broken), content_type="application/json")]
    with pytest.raises(ProtocolError, match="'name' is missing"):
        connect(scripted.url).model()


def test_wait_until_ready_waits_for_a_server_that_starts(
    scripted: ScriptedServer, connect, stopped: StoppedClock
) -> None:
    scripted.stop()

    def start() -> None:
        if len(stopped.slept) == 4:
            scripted.script = [problem(503, "not-ready"), hang_up]
            scripted.start()

    stopped.on_sleep = start
    connect(scripted.url, clock=stopped.clock).wait_until_ready(60)
    assert len(stopped.slept) == 6


def test_wait_until_ready_ends(scripted: ScriptedServer, connect, stopped: StoppedClock) -> None:
    scripted.script = [problem(503, "not-ready", "It is loading.")] * 30
    with pytest.raises(DeadlineError, match=r"not ready within 3 s: It is loading\.") as raised:
        connect(scripted.url, clock=stopped.clock).wait_until_ready(3)
    assert raised.value.status == 503
    assert sum(stopped.slept) <= 3


def test_wait_until_ready_does_not_wait_for_another_service(
    scripted: ScriptedServer, connect, stopped: StoppedClock
) -> None:
    scripted.script = [answer(404, b"")]
    with pytest.raises(ProtocolError):
        connect(scripted.url, clock=stopped.clock).wait_until_ready(60)
    assert stopped.slept == []


def test_threads_share_a_client(scripted: ScriptedServer) -> None:
    results: list[np.ndarray] = []
    with Client(scripted.url) as client:
        threads = [
            threading.Thread(target=lambda: results.append(client.segment(PHOTO).label_map))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(results) == 8
    assert all(np.array_equal(found, LABELS) for found in results)


def test_a_cancelled_call_ends_at_once_and_harms_no_other(scripted: ScriptedServer) -> None:
    scripted.script = [stall]

    async def play() -> None:
        async with AsyncClient(scripted.url) as client:
            call = asyncio.create_task(client.segment(PHOTO))
            await asyncio.to_thread(until, lambda: len(scripted.requests) == 1)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert np.array_equal((await client.segment(PHOTO)).label_map, LABELS)

    asyncio.run(play())


def test_a_call_can_be_cancelled_while_it_waits_for_its_next_try(scripted: ScriptedServer) -> None:
    scripted.script = [busy("50")]

    async def play() -> None:
        async with AsyncClient(scripted.url) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await client.segment(PHOTO)

    began = time.monotonic()
    asyncio.run(play())
    assert time.monotonic() - began < 40


def test_an_event_loop_asks_many_at_once(scripted: ScriptedServer) -> None:
    async def play() -> None:
        async with AsyncClient(scripted.url) as client, asyncio.TaskGroup() as group:
            calls = [group.create_task(client.segment(PHOTO)) for _ in range(8)]
        assert all(np.array_equal(call.result().label_map, LABELS) for call in calls)

    asyncio.run(play())


def test_errors_survive_a_pickle() -> None:
    error = BusyError("Full.", status=429, type="urn:fcn:queue-full", request_id="x")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is BusyError
    assert (str(again), again.status) == ("Full. (429, urn:fcn:queue-full, request x)", 429)


def test_a_password_in_the_address_is_sent_but_not_told(scripted: ScriptedServer, connect) -> None:
    address = scripted.url.replace("//", "//me:secret@")
    connect(address).segment(PHOTO)
    assert scripted.posts()[0].headers["authorization"].startswith("Basic ")
    scripted.script = [answer(500), reset]
    for _ in range(2):
        with pytest.raises(SegmentationError) as raised:
            connect(address, retries=0).segment(PHOTO)
        assert scripted.url in str(raised.value)
        assert "secret" not in str(raised.value)
