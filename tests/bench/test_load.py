"""The generator against a server that does as it is told: what is sent, when, and what counts."""

import socket
import threading
import time
from collections import Counter
from itertools import pairwise

import pytest

from app.bench.connection import DISCONNECTED, NOT_HTTP, TIMED_OUT, Answer, build_request
from app.bench.load import REFUSED, Load, Outcome, Sample, Target, run_load


def target(port: int, photos: tuple[bytes, ...] = (b"photo",), weights=None) -> Target:
    requests = [
        build_request(f"127.0.0.1:{port}", "/segment", photo, media_type="image/jpeg")
        for photo in photos
    ]
    return Target("127.0.0.1", port, requests, weights or [1.0] * len(photos))


def count(requests: int, **options) -> Load:
    return Load(requests=requests, warm_up_s=0, **options)


def measured(outcome: Outcome) -> list[Sample]:
    return [sample for sample in outcome.samples if sample.measured]


def statuses(outcome: Outcome) -> Counter:
    return Counter(sample.answer.status or sample.answer.error for sample in measured(outcome))


def test_a_closed_loop_measures_the_number_asked_for_and_never_exceeds_its_clients(fake_server):
    with fake_server() as server:
        outcome = run_load(target(server.port), count(50, concurrency=3))
    assert len(measured(outcome)) == 50
    assert statuses(outcome) == {200: 50}
    assert server.most_at_once <= 3
    assert server.connections <= 3  # kept alive


def test_all_clients_of_a_closed_loop_work_at_once(fake_server, reply):
    def answer(number, body):
        server.until(lambda: len(server.requests) >= 5)
        return reply()

    with fake_server(answer) as server:
        outcome = run_load(target(server.port), count(5, concurrency=5))
    assert statuses(outcome) == {200: 5}


def test_arrivals_of_an_open_loop_do_not_wait_for_answers(fake_server, reply):
    def answer(number, body):
        server.until(lambda: len(server.requests) >= 40)  # a closed loop would wait for ever
        return reply()

    with fake_server(answer) as server:
        outcome = run_load(target(server.port), count(40, rate=200))
    assert statuses(outcome) == {200: 40}
    assert server.most_at_once >= 40


def test_arrivals_are_the_same_for_a_seed_and_others_for_another(fake_server):
    def gaps(seed):
        samples = run_load(target(server.port), count(20, rate=2000, seed=seed)).samples
        due = sorted(sample.due for sample in samples)[:20]
        return [later - earlier for earlier, later in pairwise(due)]

    with fake_server() as server:
        first, same, other = gaps(1), gaps(1), gaps(2)
    assert first == pytest.approx(same, abs=1e-9)
    assert first != pytest.approx(other, abs=1e-9)


def test_time_counts_from_when_a_request_was_due():
    answer = Answer(200, None, 12.5, b"")
    assert Sample(0, due=10.0, sent=12.0, measured=True, answer=answer).latency_s == 2.5
    # A timer may fire a little early; nothing has waited then.
    assert Sample(0, due=12.0, sent=11.5, measured=True, answer=answer).latency_s == 1.0


def test_arrivals_due_during_a_stall_of_the_generator_are_measured():
    class Stalling(list):
        def __getitem__(self, index):
            if not stalled:
                stalled.append(time.sleep(0.8))  # from before the window until after it
            return super().__getitem__(index)

    stalled = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    nobody = target(port)
    nobody = Target(nobody.host, port, Stalling(nobody.requests), nobody.weights)
    outcome = run_load(nobody, Load(rate=200, warm_up_s=0.5, duration_s=0.2))
    due = [sample.due for sample in measured(outcome)]
    assert 25 < len(due) < 60  # some 40, of which not one could be sent in time
    assert all(outcome.opened <= moment < outcome.closed for moment in due)


def test_load_flows_before_and_after_what_is_measured(fake_server):
    with fake_server() as server:
        load = Load(concurrency=2, duration_s=0.2, warm_up_s=0.2)
        outcome = run_load(target(server.port), load)
    assert outcome.closed - outcome.opened == pytest.approx(0.2)
    for sample in outcome.samples:
        assert sample.measured == (outcome.opened <= sample.due < outcome.closed)
    assert any(sample.due < outcome.opened for sample in outcome.samples)
    assert len(outcome.samples) == len(server.requests)


def test_every_failure_is_kept_with_its_reason(fake_server, reply):
    replies = [reply(200), reply(429), reply(503), reply(None), reply(500)]

    with fake_server(lambda number, body: replies[number % 5]) as server:
        outcome = run_load(target(server.port), count(25, concurrency=1))
    assert statuses(outcome) == {200: 5, 429: 5, 503: 5, 500: 5, DISCONNECTED: 5}


def test_a_server_that_closes_every_connection_gets_new_ones(fake_server, reply):
    closing = reply(headers={"Connection": "close"})
    with fake_server(lambda number, body: closing) as server:
        outcome = run_load(target(server.port), count(10, concurrency=2))
    assert statuses(outcome) == {200: 10}
    assert server.connections >= 10


def test_where_nobody_listens_every_request_fails_and_the_load_ends():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    outcome = run_load(target(port), count(4, concurrency=2))
    assert statuses(outcome) == {REFUSED: 4}


def test_an_answer_that_does_not_come_is_given_up(fake_server, reply):
    def answer(number, body):
        server.until(lambda: given_up)
        return reply(None)

    given_up = []
    with fake_server(answer) as server:
        outcome = run_load(target(server.port), count(2, concurrency=2, patience_s=0.2))
        given_up.append(True)
        with server.changed:
            server.changed.notify_all()
    assert statuses(outcome) == {TIMED_OUT: 2}


def test_what_is_no_http_is_no_answer():

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def talk():
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"220 mail.example ESMTP\r\n")
                connection.recv(65536)

        thread = threading.Thread(target=talk)
        thread.start()
        outcome = run_load(target(listener.getsockname()[1]), count(1, concurrency=1))
        thread.join()
    assert statuses(outcome) == {NOT_HTTP: 1}


def test_photos_come_as_often_as_their_weights_say(fake_server):
    with fake_server() as server:
        photos = (b"rare", b"frequent")
        run_load(target(server.port, photos, [1.0, 9.0]), count(200, concurrency=2))
    bodies = [body for _, body in server.requests]
    share = sum(b"frequent" in body for body in bodies) / len(bodies)
    assert 0.8 < share < 0.98


def test_the_header_of_stages_is_kept(fake_server, reply):
    timing = {"Server-Timing": "decode;dur=1.5, queue;dur=0.25"}
    with fake_server(lambda number, body: reply(headers=timing)) as server:
        outcome = run_load(target(server.port), count(1, concurrency=1))
    assert measured(outcome)[0].answer.server_timing == b"decode;dur=1.5, queue;dur=0.25"
