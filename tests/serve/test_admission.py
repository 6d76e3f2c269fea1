import pytest

from app.serve.admission import Admission, QueueFullError


def admission(max_requests=9, max_pixels=100):
    return Admission(max_requests=max_requests, max_pixels=max_pixels, retry_after=lambda: 7)


def held(bound):
    return bound.requests, bound.pixels


def on_their_way(bound):
    return bound.unsized, bound.decoding, bound.decoding_pixels


def test_places_are_bounded_by_requests():
    bound = admission(max_requests=2)
    with bound.place(), bound.place():
        with pytest.raises(QueueFullError, match="2 requests are waiting") as caught:
            bound.check()
        assert caught.value.retry_after_s == 7
        with pytest.raises(QueueFullError), bound.place():
            pass
        assert held(bound) == (2, 0)
    assert held(bound) == (0, 0)


def test_places_are_bounded_by_pixels():
    bound = admission(max_pixels=100)
    with bound.place() as one, bound.place() as two, bound.place() as three:
        one.take(60, 60)
        with pytest.raises(QueueFullError, match="megapixels"):
            two.take(41, 41)
        three.take(40, 40)
        assert held(bound) == (3, 100)
    assert held(bound) == (0, 0)


def test_a_place_tells_how_far_its_photo_has_come():
    bound = admission()
    with bound.place() as one, bound.place() as two:
        assert on_their_way(bound) == (2, 0, 0)
        one.take(60, 15)
        assert on_their_way(bound) == (1, 1, 15)
        two.take(10, 40)
        assert on_their_way(bound) == (0, 2, 55)
        one.queued()
        assert on_their_way(bound) == (0, 1, 40)
        assert held(bound) == (2, 70)
    assert held(bound) == (0, 0)
    assert on_their_way(bound) == (0, 0, 0)


def test_a_place_is_given_back_when_its_request_fails():
    bound = admission()

    def fail():
        with bound.place() as place:
            place.take(100, 100)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert held(bound) == (0, 0)
    assert on_their_way(bound) == (0, 0, 0)


def test_a_thread_that_comes_too_late_takes_nothing():
    bound = admission()
    with bound.place() as place:
        pass
    place.take(50, 50)
    assert held(bound) == (0, 0)
    assert on_their_way(bound) == (0, 0, 0)
