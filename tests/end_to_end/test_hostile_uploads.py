"""About a thousand broken and hostile uploads on one server, a good photo between them.

Whatever is sent: an answer that the contract allows or a closed connection, within a bound; no
traceback in the log; nothing held afterwards; and the good photo keeps its mask, byte for byte.
"""

import random
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hostile_files import announcing_too_much, inflating, save, whole_files
from hostile_requests import (
    BAD,
    NO_IMAGE_FORMAT,
    OK,
    TOO_LARGE,
    TOO_LATE,
    UNUSABLE,
    Attack,
    attack,
    broken_forms,
    broken_heads,
    endless_heads,
    odd_parameters,
    silent_clients,
    slow_senders,
    vanishing_clients,
    wrong_lengths,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from live_server import Server, running_server, until
from PIL import Image
from raw_http import exchange, read_reply, request

CLIENTS = 8
"""Attacks that run at once."""

MOST_RESIDENT_MIB = 500
"""How far resident memory may rise: one bomb that went off would take gigabytes."""

CUTS = 40
"""Lengths at which each file is cut in the fast test, besides its first and last bytes."""


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("victim") / "log"
    limits = {"max_pixels": 4_000_000, "max_bytes": 4_000_000}
    with running_server(log, "--checkpoint", str(checkpoint), **limits) as server:
        yield server


@pytest.fixture(scope="module")
def small(photo: Image.Image) -> Image.Image:
    """What attacks are made from; a forward of it takes milliseconds."""
    return photo.crop((150, 100, 390, 280)).resize((40, 30))


@pytest.fixture(scope="module")
def files(small: Image.Image) -> dict[str, bytes]:
    return whole_files(small)


class Good:
    """A photo of a size that no attack has, so that nothing shares its forward, and its masks."""

    def __init__(self, server: Server, photo: Image.Image) -> None:
        self._server = server
        self._body = save(photo.resize((61, 47)), "PNG")
        self._usual = self._answers()
        self.posted = 0

    def check(self) -> None:
        """Post it; the overlay shows that the pixels have been read right, too."""
        self.posted += 1
        assert self._answers() == self._usual, "the good photo did not get its usual mask"

    def _answers(self) -> list[bytes]:
        answers = [self._server.post(self._body, format=form) for form in ("png", "overlay")]
        assert [answer.status_code for answer in answers] == [200, 200]
        return [answer.content for answer in answers]


@pytest.fixture(scope="module")
def good(victim: Server, photo: Image.Image) -> Good:
    return Good(victim, photo)


@pytest.fixture(autouse=True)
def unharmed(victim: Server, good: Good) -> Iterator[None]:
    """After every test: nothing held, no connection left, no traceback, the usual mask."""
    good.check()
    open_before, resident_before = victim.open_files(), victim.resident_mib()
    yield
    good.check()
    until(lambda: not any(victim.held().values()), "the server to hold nothing")
    until(lambda: victim.open_files() <= open_before, "connections to be closed")
    assert victim.client.get("/health").json()["queue"] == {
        "requests": 0,
        "pixels": 0,
        "upload_bytes": 0,
    }
    assert victim.client.get("/health/ready").status_code == 200
    assert "Traceback" not in victim.log.read_text()
    assert victim.most_resident_mib() - resident_before < MOST_RESIDENT_MIB


def launch(server: Server, good: Good, attacks: Iterable[Attack]) -> None:
    """Run attacks side by side, posting the good photo all the while."""

    def run(attack: Attack) -> str | None:
        try:
            reply = exchange(
                server.address, attack.pieces, after=attack.after, pause_s=attack.pause_s
            )
        except TimeoutError:
            return f"{attack.name}: neither an answer nor the connection's end"
        if reply.status in attack.allowed:
            return None
        return f"{attack.name}: {reply.status}, not {set(attack.allowed)}: {reply.body[:300]!r}"

    with ThreadPoolExecutor(CLIENTS) as clients:
        runs = [clients.submit(run, attack) for attack in attacks]
        assert runs
        while not all(done.done() for done in runs):
            good.check()
            time.sleep(0.05)
    failures = [failure for done in runs if (failure := done.result())]
    assert not failures, "\n".join(failures)


def whole_or_refused(server: Server, name: str, sent: bytes, usual: bytes) -> None:
    """Post a cut file: its whole mask if nothing of the picture is missing, else an error."""
    reply = exchange(server.address, [request(sent, query="format=grey")])
    if reply.status == OK:
        assert reply.body == usual, f"{name}, cut to {len(sent)} bytes: a mask of half a photo"
    else:
        assert reply.status in (BAD, NO_IMAGE_FORMAT, UNUSABLE), (name, len(sent), reply)


def cut_everywhere(
    server: Server, good: Good, files: dict[str, bytes], lengths: Callable[[int], Iterable[int]]
) -> None:
    for name, file in files.items():
        usual = exchange(server.address, [request(file, query="format=grey")])
        assert usual.status == OK, (name, usual)
        for length in lengths(len(file)):
            whole_or_refused(server, name, file[:length], usual.body)
        good.check()


def test_files_cut_at_many_lengths(victim: Server, good: Good, files: dict[str, bytes]) -> None:
    def lengths(size: int) -> set[int]:
        return {*range(12), *range(0, size, max(1, size // CUTS)), *range(size - 12, size)}

    cut_everywhere(victim, good, files, lengths)


@pytest.mark.slow
def test_files_cut_at_every_length(victim: Server, good: Good, files: dict[str, bytes]) -> None:
    cut_everywhere(victim, good, files, range)


def test_wrong_lengths_and_chunks(victim: Server, good: Good, files: dict[str, bytes]) -> None:
    launch(victim, good, wrong_lengths(files["png"]))


def test_broken_heads(victim: Server, good: Good, files: dict[str, bytes]) -> None:
    launch(victim, good, broken_heads(files["png"]))


def test_odd_parameters_and_headers(victim: Server, good: Good, files: dict[str, bytes]) -> None:
    launch(victim, good, odd_parameters(files["png"]))


def test_broken_forms(victim: Server, good: Good, files: dict[str, bytes]) -> None:
    launch(victim, good, broken_forms(files["png"]))


def test_bombs(victim: Server, good: Good, small: Image.Image) -> None:
    def bombs() -> Iterator[Attack]:
        for name, file in announcing_too_much(small).items():
            # An AVIF says its size twice; they no longer agree.
            allowed = (BAD, TOO_LARGE) if name == "avif" else (TOO_LARGE,)
            yield attack(f"a bomb in {name}", request(file), *allowed)
        for name, file in inflating(small).items():
            yield attack(name, request(file, query="scale=0.25"), OK, BAD)

    for _ in range(2):
        launch(victim, good, bombs())


def test_slow_senders(victim: Server, good: Good, files: dict[str, bytes]) -> None:
    launch(victim, good, slow_senders(files["palette-png"]))


def test_vanishing_clients(victim: Server, good: Good, files: dict[str, bytes]) -> None:
    launch(victim, good, vanishing_clients(files["png"], step=20))


@pytest.mark.slow
def test_clients_that_vanish_at_every_byte(
    victim: Server, good: Good, files: dict[str, bytes]
) -> None:
    for name in ("jpeg", "png"):
        launch(victim, good, vanishing_clients(files[name], step=1))


def test_heads_without_end(victim: Server, good: Good) -> None:
    before = victim.resident_mib()
    launch(victim, good, endless_heads())
    assert victim.resident_mib() - before < 32


def test_clients_that_fall_silent(victim: Server, good: Good, files: dict[str, bytes]) -> None:
    launch(victim, good, silent_clients())


@pytest.mark.slow
def test_answers_that_are_not_read(victim: Server, good: Good) -> None:
    """12 MB, more than the kernel takes: what is left over must not stay with the server."""
    noise = np.random.default_rng(0).integers(0, 256, (2000, 2000, 3), np.uint8)
    sent = request(save(Image.fromarray(noise), "JPEG"), query="format=overlay&scale=0.25")
    open_before = victim.open_files()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(victim.address)
        connection.sendall(sent)
        assert connection.recv(12) == b"HTTP/1.1 200"

        def given_up() -> bool:
            good.check()  # keeps its own connection open, which was counted before
            return victim.open_files() <= open_before

        assert not given_up(), "the answer fits into the kernel's buffers"
        until(given_up, "the connection to be given up")


@pytest.mark.slow
def test_uploads_that_never_end(victim: Server, good: Good, files: dict[str, bytes]) -> None:
    """Their deadline passes; after the answer they go on, a byte at a time."""
    head = request(files["png"], [("X-Request-Timeout", "0.5")], length="3000000")
    with socket.create_connection(victim.address) as connection:
        connection.sendall(head)
        assert read_reply(connection).status in TOO_LATE

        def given_up() -> bool:
            try:
                connection.sendall(b"x")
            except ConnectionError:
                return True
            return False

        until(given_up, "the connection to be given up")
    good.check()


def mutate(file: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    """Overwrite, insert, delete or repeat bytes at places given as shares of the file."""
    mutated = bytearray(file)
    for kind, share, data in changes:
        place = int(share * len(mutated))
        if kind == "overwrite":
            mutated[place : place + len(data)] = data
        elif kind == "insert":
            mutated[place:place] = data
        elif kind == "delete":
            del mutated[place : place + len(data)]
        else:
            mutated[place:place] = mutated[place : place + 64]
    return bytes(mutated)


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["overwrite", "insert", "delete", "repeat"]),
        st.floats(0, 1),
        st.one_of(
            st.binary(min_size=1, max_size=8),
            st.sampled_from([b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0"]),
        ),
    ),
    min_size=1,
    max_size=4,
)

ALLOWED_OF_MUTATED = (OK, BAD, TOO_LARGE, NO_IMAGE_FORMAT, UNUSABLE)


@settings(max_examples=300, derandomize=True, database=None, deadline=None)
@given(data=st.data())
def test_mutated_files(
    data: st.DataObject, victim: Server, good: Good, files: dict[str, bytes]
) -> None:
    name = data.draw(st.sampled_from(sorted(files)))
    mutated = mutate(files[name], data.draw(CHANGES))
    # A changed header may announce a large picture; at this scale its forward is a short one.
    reply = exchange(victim.address, [request(mutated, query="scale=0.25")])
    assert reply.status in ALLOWED_OF_MUTATED, reply


@pytest.mark.slow
def test_many_mutated_files(victim: Server, good: Good, files: dict[str, bytes]) -> None:
    """Drawn without hypothesis, which would take longer than the server."""
    generator = random.Random(0)
    kinds = ("overwrite", "insert", "delete", "repeat")

    def mutations() -> Iterator[Attack]:
        for number in range(10_000):
            name, file = generator.choice(sorted(files.items()))
            changes = [
                (generator.choice(kinds), generator.random(), generator.randbytes(4))
                for _ in range(generator.randint(1, 4))
            ]
            sent = request(mutate(file, changes), query="scale=0.25")
            yield attack(f"{name} {number}", sent, *ALLOWED_OF_MUTATED)

    launch(victim, good, mutations())


def test_noise_is_no_image(victim: Server, good: Good, files: dict[str, bytes]) -> None:
    """Every format's first bytes, then noise."""
    generator = np.random.default_rng(0)

    def noise() -> Iterator[Attack]:
        for name, file in files.items():
            for kept in (4, 12, 32, 100):
                sent = file[:kept] + generator.bytes(3000)
                yield attack(f"{name}, {kept} bytes", request(sent), *ALLOWED_OF_MUTATED)

    launch(victim, good, noise())
