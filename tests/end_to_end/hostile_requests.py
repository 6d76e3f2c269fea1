"""Requests that break HTTP, forms or parameters, and what may be answered to each."""

from collections.abc import Iterator
from dataclasses import dataclass

from raw_http import After, Headers, request

OK, BAD, UNACCEPTABLE, TOO_LARGE, NO_IMAGE_FORMAT, UNUSABLE = 200, 400, 406, 413, 415, 422
OVERLOADED, HEAD_TOO_LARGE, TIMED_OUT = 429, 431, 504

TOO_LATE = (TIMED_OUT, OVERLOADED)
"""With a short deadline: it passes, or the queue is too long for it already."""

CLOSED = None
"""In place of a status: the connection ends without an answer."""

BOUNDARY = "line"


@dataclass(frozen=True)
class Attack:
    """One hostile upload.

    Attributes:
        name: What is wrong with it.
        pieces: What is sent, piece by piece.
        allowed: Statuses, or `CLOSED`, of which one must come back.
        after: What the client does then.
        pause_s: Between two pieces, in seconds.
    """

    name: str
    pieces: tuple[bytes, ...]
    allowed: frozenset[int | None]
    after: After = After.READS
    pause_s: float = 0.0


def attack(
    name: str,
    sent: bytes | tuple[bytes, ...],
    *allowed: int | None,
    after: After = After.READS,
    pause_s: float = 0.0,
) -> Attack:
    pieces = sent if isinstance(sent, tuple) else (sent,)
    return Attack(name, pieces, frozenset(allowed), after, pause_s)


def wrong_lengths(photo: bytes) -> Iterator[Attack]:
    """Content-Length and chunks that do not fit the body, or nothing at all."""
    size = len(photo)
    soon: Headers = [("X-Request-Timeout", "0.3")]
    for more in (1, 100, 1 << 20):
        longer = str(size + more)
        yield attack(
            f"length {more} too long, then the client closes its side",
            request(photo, length=longer),
            CLOSED,
            after=After.CLOSES_ITS_SIDE,
        )
        yield attack(
            f"length {more} too long, then silence",
            request(photo, soon, length=longer),
            *TOO_LATE,
        )
    for less in (1, 100, size - 1):
        # What is left over is no request; the photo that came before is cut short.
        yield attack(
            f"length {less} too short",
            request(photo, length=str(size - less)),
            BAD,
            NO_IMAGE_FORMAT,
        )
    yield attack("length 0", request(photo, length="0"), UNUSABLE, BAD)
    yield attack("no length", request(photo, length=None), UNUSABLE, BAD)
    for wrong in ("-1", "abc", "+5", "0x10", "5, 6", "1e3", "9" * 30, "\xb2", "5 5", "1_000"):
        yield attack(f"length {wrong}", request(photo, length=wrong), BAD)
    for huge in (1 << 40, (1 << 63) - 1):
        yield attack(f"length {huge}", request(photo, length=str(huge)), TOO_LARGE)
    yield attack("two lengths", request(photo, [("Content-Length", str(size - 5))]), BAD)
    chunked: Headers = [("Transfer-Encoding", "chunked")]
    yield attack("length and chunks", request(photo, chunked), BAD)
    whole = b"%x\r\n%s\r\n" % (size, photo)
    chunks = {
        "in order": (whole + b"0\r\n\r\n", {OK}),
        "in order, with extension and trailer": (
            b"%x;a=b\r\n%s\r\n0\r\nX-Sum: 1\r\n\r\n" % (size, photo),
            {OK},
        ),
        "of one byte": (b"".join(b"1\r\n%c\r\n" % byte for byte in photo) + b"0\r\n\r\n", {OK}),
        "of no number": (b"zz\r\n" + photo, {BAD}),
        "of negative size": (b"-5\r\n" + photo, {BAD}),
        "of a size past 64 bits": (b"f" * 17 + b"\r\n" + photo, {BAD}),
        "larger than what follows": (b"%x\r\n%s\r\n0\r\n\r\n" % (size + 9, photo), {CLOSED}),
        "smaller than what follows": (b"%x\r\n%s\r\n0\r\n\r\n" % (size - 9, photo), {BAD}),
        "without line ends": (b"%x%s0" % (size, photo), {BAD}),
        "without an end": (whole, {CLOSED}),
    }
    for kind, (body, allowed) in chunks.items():
        yield attack(
            f"chunks {kind}",
            request(body, chunked, length=None),
            *allowed,
            after=After.READS if OK in allowed else After.CLOSES_ITS_SIDE,
        )
    for name in ("gzip", "identity", "chunked, gzip", "xchunked"):
        yield attack(
            f"transfer encoding {name}",
            request(photo, [("Transfer-Encoding", name)], length=None),
            BAD,
            UNUSABLE,
            CLOSED,
            after=After.CLOSES_ITS_SIDE,
        )


def broken_heads(photo: bytes) -> Iterator[Attack]:
    """What no HTTP request begins like."""
    good = request(photo)
    yield attack("nothing", b"", CLOSED, after=After.CLOSES_ITS_SIDE)
    yield attack("nul bytes", bytes(1000), BAD)
    yield attack("a photo instead of a request", photo, BAD)
    yield attack("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), BAD)
    yield attack("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", BAD)
    yield attack("HTTP/9.9", request(photo, version="HTTP/9.9"), BAD)
    yield attack("no version", b"POST /segment\r\n\r\n", BAD, UNUSABLE)
    yield attack("an endless line", b"x" * (1 << 24), BAD)
    yield attack("an unknown method", request(photo, method="SEGMENT"), BAD)
    yield attack("a path beyond ASCII", request(photo, path="/s\xe9gment"), BAD, 404)
    yield attack("a path of nul bytes", request(photo, path="/segment%00"), 404)
    yield attack("a path with line breaks", request(photo, path="/%0d%0aX-Evil:%201"), 404)
    yield attack("no path", good.replace(b"/segment", b"*", 1), BAD, 404)
    yield attack("a whole URL", request(photo, path="http://other:9/segment"), OK, BAD, 404)
    yield attack("CONNECT", b"CONNECT other:9 HTTP/1.1\r\nHost: other\r\n\r\n", BAD, 404, 405)
    yield attack("a header without colon", request(photo, [("X", "1\r\nnonsense")]), BAD)
    yield attack("a header with a nul byte", request(photo, [("X", "a\0b")]), BAD)
    yield attack("a header name with a blank", request(photo, [("X Y", "1")]), BAD)
    yield attack("a header over two lines", request(photo, [("X", "1\r\n 2")]), OK, BAD)
    yield attack("line ends of one byte", good.replace(b"\r\n", b"\n"), BAD)
    yield attack("an offer of WebSocket", request(photo, _WEBSOCKET), OK)
    yield attack("an offer of HTTP/2", request(photo, _HTTP_2), OK)
    yield attack("an offer and no body", request(b"", _HTTP_2, length=None), UNUSABLE)
    yield attack("a hundred offers", request(photo, _HTTP_2) * 100, OK)
    yield attack("offers in a wrong request", request(photo, _HTTP_2, length="abc"), BAD)
    yield attack("expects 100", request(photo, [("Expect", "100-continue")]), OK)
    yield attack("expects anything", request(photo, [("Expect", "a miracle")]), OK, BAD, 417)
    yield attack("two requests at once", good + request(photo, query="format=grey"), OK)
    yield attack("a request and nonsense at once", good + b"nonsense\r\n\r\n", OK, BAD)


_WEBSOCKET: Headers = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="),
]
_HTTP_2: Headers = [
    ("Connection", "Upgrade, HTTP2-Settings"),
    ("Upgrade", "h2c"),
    ("HTTP2-Settings", "AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA"),
]


def odd_parameters(photo: bytes) -> Iterator[Attack]:
    """Headers and query parameters beyond what the document allows."""
    for value in ("nan", "inf", "-inf", "-1", "0", "1e999", "-0.0", "soon", "1,5", "٣", "9" * 400):
        header = value.encode().decode("latin-1")
        allowed = (OK, UNUSABLE) if value == "9" * 400 else (UNUSABLE,)
        yield attack(
            f"X-Request-Timeout {value[:9]}",
            request(photo, [("X-Request-Timeout", header)]),
            *allowed,
        )
    for value in ("1e-300", "0.00001"):
        yield attack(
            f"X-Request-Timeout {value}",
            request(photo, [("X-Request-Timeout", value)]),
            *TOO_LATE,
        )
    for value in ("1e308", " 7 ", "\t9"):
        yield attack(
            f"X-Request-Timeout {value!r}", request(photo, [("X-Request-Timeout", value)]), OK
        )
    for value in ("", "a b", "x" * 129, "x" * 60_000, "\x85evil", "<script>", "a\tb", "%0d%0aX:1"):
        yield attack(f"X-Request-ID {value[:9]!r}", request(photo, [("X-Request-ID", value)]), OK)
    yield attack(
        "X-Request-ID with a line break", request(photo, [("X-Request-ID", "a\nb")]), OK, BAD
    )
    for value in (
        "",
        ",",
        ";;;",
        "*/*;q=nan",
        "image/png;q=1e999",
        "*",
        "\xff/\xff",
        "a/b," * 9000,
    ):
        yield attack(f"Accept {value[:9]!r}", request(photo, [("Accept", value)]), OK, UNACCEPTABLE)
    for value in (None, "", ";", "image", "multipart", "image/png;" * 2000, "\xff", "a/b; c=\0"):
        yield attack(
            f"Content-Type {value and value[:9]!r}", request(photo, content_type=value), OK, BAD
        )
    for query in (
        "scale=nan",
        "scale=inf",
        "scale=1e999",
        "scale=-1",
        "scale=0",
        "scale=" + "9" * 5000,
        "format=png%00",
        "format=",
        "classes=-1",
        "classes=99999999999999999999",
        "classes=%ff%fe",
        "classes=" + "0," * 20_000 + "unicorn",
        "classes=" + "x" * 50_000,
        "scores=maybe",
        "unknown=1",
        "&".join(f"p{n}=1" for n in range(3000)),
        "%zz=%zz",
        "format[]=png",
        "__proto__=1",
    ):
        yield attack(f"query {query[:20]}", request(photo, query=query), UNUSABLE)
    for query in ("", "&&&", "format=png&format=grey", "classes=" + "0," * 20_000 + "0"):
        yield attack(f"query {query[:20]}", request(photo, query=query), OK, UNUSABLE)
    yield attack("query beyond ASCII", request(photo, query="format=\xe9"), BAD, UNUSABLE)


def broken_forms(photo: bytes) -> Iterator[Attack]:
    """Multipart forms that are not, or hold no photo, or more than one."""
    line = BOUNDARY.encode()
    image = part(photo)
    end = b"--%s--\r\n" % line
    nested = (
        b'--in\r\nContent-Disposition: form-data; name="image"\r\n\r\n' + photo + b"\r\n--in--\r\n"
    )
    forms: dict[str, tuple[bytes, set[int]]] = {
        "in order": (image + end, {OK}),
        "after a preamble": (b"hello\r\n" + image + end, {OK, UNUSABLE}),
        "before an epilogue": (image + end + b"and so on" * 100, {OK, UNUSABLE}),
        "empty": (b"", {UNUSABLE}),
        "of line ends": (b"\r\n" * 1000, {UNUSABLE}),
        "of nul bytes": (bytes(1000), {UNUSABLE}),
        "only closed": (end, {UNUSABLE}),
        "not closed": (image, {UNUSABLE}),
        "cut in the boundary": (image + end[:4], {UNUSABLE}),
        "with another boundary": (image.replace(line, b"other") + b"--other--\r\n", {UNUSABLE}),
        "with two images": (image * 2 + end, {OK}),
        "with an empty image": (part(b"") + end, {UNUSABLE}),
        "with a text for an image": (part(b"photo.png", filename=None) + end, {NO_IMAGE_FORMAT}),
        "with a thousand images": (image * 1000 + end, {UNUSABLE}),
        "with a thousand fields": (part(b"x", name="f") * 1000 + image + end, {UNUSABLE}),
        "with ten fields": (part(b"x", name="f") * 10 + image + end, {OK}),
        "with no name": (part(photo, name=None) + end, {UNUSABLE}),
        "with a name of nul bytes": (part(photo, name="\0" * 9) + end, {UNUSABLE}),
        "with a name of 100 kB": (part(photo, name="x" * 100_000) + end, {UNUSABLE}),
        "with a file name of 100 kB": (part(photo, filename="x" * 100_000) + end, {OK, UNUSABLE}),
        "with a file name that climbs": (part(photo, filename="../../etc/passwd") + end, {OK}),
        "with a part without headers": (b"--%s\r\n\r\n%s\r\n" % (line, photo) + end, {UNUSABLE}),
        "with a header without colon": (
            b"--%s\r\nnonsense\r\n\r\n%s\r\n" % (line, photo) + end,
            {UNUSABLE},
        ),
        "with a header name of 1 MB": (
            b"--%s\r\n%s: 1\r\n\r\n" % (line, b"x" * 1_000_000) + image + end,
            {UNUSABLE},
        ),
        "with 20,000 headers": (
            b"--%s\r\n%s\r\n" % (line, b"X: 1\r\n" * 20_000) + photo + b"\r\n" + end,
            {UNUSABLE},
        ),
        "within a form": (
            part(nested, more="Content-Type: multipart/mixed; boundary=in") + end,
            {NO_IMAGE_FORMAT},
        ),
        "in base64, it says": (
            part(photo, more="Content-Transfer-Encoding: base64") + end,
            {OK, BAD, UNUSABLE},
        ),
        "with line ends of one byte": ((image + end).replace(b"\r\n", b"\n"), {UNUSABLE}),
        "of almost boundaries": (
            image[:-2] + (b"\r\n--" + line[:-1]) * 9000 + b"\r\n" + end,
            {OK, BAD},
        ),
    }
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    for name, (body, allowed) in forms.items():
        yield attack(f"a form {name}", request(body, content_type=kind), *allowed)
    whole = image + end
    for kind in (
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        "multipart/form-data; boundary=other",
        "multipart/form-data; boundary=" + "x" * 71,
        "multipart/form-data; boundary=" + "x" * 50_000,
        "multipart/form-data; boundary=l\xefne",
        "multipart/form-data; boundary*0=li; boundary*1=ne",
        "multipart/form-data; boundary=line; boundary=other",
        "multipart/form-data;" * 1000,
    ):
        yield attack(f"a form of {kind[20:50]}", request(whole, content_type=kind), UNUSABLE, OK)


def part(
    data: bytes, *, name: str | None = "image", filename: str | None = "photo.png", more: str = ""
) -> bytes:
    """Write one part of a form."""
    disposition = "form-data"
    if name is not None:
        disposition += f'; name="{name}"'
    if filename is not None:
        disposition += f'; filename="{filename}"'
    lines = [f"--{BOUNDARY}", f"Content-Disposition: {disposition}", *filter(None, [more]), "", ""]
    return "\r\n".join(lines).encode() + data + b"\r\n"


def slow_senders(photo: bytes) -> Iterator[Attack]:
    """Clients that send little at a time, or stop."""
    drip = tuple(bytes([byte]) for byte in request(photo))
    yield attack("one byte at a time", drip, OK)
    soon = request(photo, [("X-Request-Timeout", "0.5")])
    head = soon.index(b"\r\n\r\n") + 4
    pieces = tuple(soon[place : place + 20] for place in range(head, len(soon), 20))
    yield attack("too slow", (soon[:head], *pieces), *TOO_LATE, pause_s=0.1)
    for received in (0, 1, 50, len(photo) - 1):
        yield attack(f"stalled after {received} bytes", soon[: head + received], *TOO_LATE)


def vanishing_clients(photo: bytes, step: int) -> Iterator[Attack]:
    """Clients that close or reset the connection at every `step`th byte, and after the last."""
    whole = request(photo)
    for place in [*range(0, len(whole), step), len(whole)]:
        for after in (After.VANISHES, After.RESETS):
            yield attack(f"{after.value} after {place} bytes", whole[:place], CLOSED, after=after)


def endless_heads() -> Iterator[Attack]:
    """Heads, and lines between chunks, of which 16 MB come."""
    start = request(length=None).removesuffix(b"\r\n")
    chunked = start + b"Transfer-Encoding: chunked\r\n\r\n"
    pieces = {
        "path": (b"POST /", b"x" * 65536),
        "header name": (start, b"x" * 65536),
        "header": (start + b"X: ", b"x" * 65536),
        "list of headers": (start, b"X: 1\r\n" * 10_000),
        "chunk extension": (chunked + b"1;", b"x" * 65536),
        "list of trailers": (chunked + b"1\r\nx\r\n0\r\n", b"X: 1\r\n" * 10_000),
    }
    for name, (begin, block) in pieces.items():
        yield attack(f"an endless {name}", (begin, *[block] * 256), BAD, HEAD_TOO_LARGE, CLOSED)


def silent_clients() -> Iterator[Attack]:
    """Connections that never become a request."""
    whole = request()
    for start in (b"", b"P", whole[:30], whole.removesuffix(b"\r\n")):
        yield attack(f"silence after {len(start)} bytes of a head", start, CLOSED)
