import pytest

from app.serve.image_form import Received
from app.serve.upload_budget import OVERHEAD_BYTES, UploadBudget, UploadsFullError


def test_uploads_share_a_budget_that_is_given_back():
    budget = UploadBudget(2 * OVERHEAD_BYTES + 100, retry_after=lambda: 3)
    with budget.open() as upload:
        upload.count(90)
        with pytest.raises(UploadsFullError) as caught, budget.open(announced=11):
            pass
        assert caught.value.retry_after_s == 3
        with budget.open(announced=10) as other:
            other.count(10)
            with pytest.raises(UploadsFullError):
                upload.count(1)
        upload.release()
        assert budget.held == 0
    assert budget.held == 0


def test_images_of_one_request_are_released_one_by_one():
    budget = UploadBudget(10**9, retry_after=lambda: 1)
    with budget.open() as whole:
        whole.count(120)  # two images and what is around them
        first, second = whole.divide([Received(b"x" * 40, "a.png"), Received(b"y" * 60, None)])
        assert (first.name, second.data) == ("a.png", b"y" * 60)
        second.release()
        assert budget.held == OVERHEAD_BYTES + 60
        first.release()
        assert budget.held == 0
    assert budget.held == 0
