import pytest

from app.serve.admission import Admission, QueueFullError


def admission(max_requests=9, max_pixels=100):
    return Admission(max_requests=max_requests, max_pixels=max_pixels, retry_after=lambda: 7)


def held(bound):
    return bound.requests, bound.pixels


def test_places_are_bounded_by_requests():
    bound = admission(max_requests=2)
    with bound.place() as one, bound.place() as two, bound.place() as three:
        one.take(1)
        two.take(1)
        with pytest.raises(QueueFullError, match="2 requests are waiting") as caught:
            bound.check()
        assert caught.value.retry_after_s == 7
        with pytest.raises(QueueFullError):
            three.take(1)
    assert held(bound) == (0, 0)


def test_places_are_bounded_by_pixels():
    bound = admission(max_pixels=100)
    with bound.place() as one, bound.place() as two, bound.place() as three:
        one.take(60)
        with pytest.raises(QueueFullError, match="megapixels"):
            two.take(41)
        three.take(40)
        assert held(bound) == (2, 100)
    assert held(bound) == (0, 0)


def test_a_place_is_given_back_when_its_request_fails():
    bound = admission()

    def fail():
        with bound.place() as place:
            place.take(100)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert held(bound) == (0, 0)


def test_a_thread_that_comes_too_late_takes_nothing():
    bound = admission()
    with bound.place() as place:
        pass
    place.take(50)
    assert held(bound) == (0, 0)


def test_a_place_that_was_never_taken_gives_nothing_back():
    bound = admission()
    with bound.place():
        pass
    assert held(bound) == (0, 0)
