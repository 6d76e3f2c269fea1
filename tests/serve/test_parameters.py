import pytest

from app.serve.parameters import (
    InvalidParameterError,
    NotAcceptableError,
    choose_format,
    parse_query,
    timeout_s,
)
from app.serve.schemas import SegmentQuery


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, "png"),
        ("", "png"),
        ("*/*", "png"),
        ("image/*", "png"),
        ("image/png", "png"),
        ("IMAGE/PNG", "png"),
        ("application/json", "rle"),
        ("application/*", "rle"),
        ("application/json, image/png", "png"),
        ("application/json, text/plain, */*", "rle"),
        ("image/png;q=0.5, application/json", "rle"),
        ("image/png;q=0.5, application/json;q=0.4", "png"),
        ("image/png;q=0, */*", "rle"),
        ("image/webp, image/*;q=0.2, application/json;q=0.1", "png"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "png"),
        ("application/json ; q=1.0 , image/png ; q=0.1", "rle"),
    ],
)
def test_accept_chooses_the_format(accept, chosen):
    assert choose_format(accept) == chosen


@pytest.mark.parametrize(
    "accept",
    ["text/html", "image/jpeg", "image/png;q=0", "*/*;q=0", "image/png;q=nonsense", "nonsense"],
)
def test_what_cannot_be_given_is_refused(accept):
    with pytest.raises(NotAcceptableError, match="neither image/png nor application/json"):
        choose_format(accept)


@pytest.mark.parametrize(
    ("header", "seconds"), [(None, 60), ("5", 5), ("0.25", 0.25), ("600", 60), ("1e1", 10)]
)
def test_a_client_can_only_shorten_the_timeout(header, seconds):
    assert timeout_s(header, limit_s=60) == seconds


@pytest.mark.parametrize("header", ["", "0", "-1", "soon", "nan", "inf"])
def test_a_nonsense_timeout_is_refused(header):
    with pytest.raises(InvalidParameterError, match="X-Request-Timeout"):
        timeout_s(header, limit_s=60)


def test_a_query_of_thousands_of_parameters_gets_one_sentence():
    with pytest.raises(InvalidParameterError, match=r"has 16,000 parameters"):
        parse_query({f"p{n}": "" for n in range(16_000)}, SegmentQuery)
