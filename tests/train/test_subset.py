import numpy as np
import pytest

from app.errors import UsageError
from app.train.shapes import Drawings
from app.train.subset import Subset, leave_out


class TwoDrives(Drawings):
    def __init__(self, split: str) -> None:
        super().__init__(split)
        self.names = ["a_1.png", "b_1.png", "a_2.png", "b_2.png"]

    def __len__(self) -> int:
        return 4


def test_one_drive_is_left_out_and_judged_on() -> None:
    drawings = TwoDrives("train")
    splits = leave_out(drawings, "b_")
    assert list(splits["train"].names) == ["a_1.png", "a_2.png"]
    assert list(splits["val"].names) == ["b_1.png", "b_2.png"]
    for position, index in enumerate((1, 3)):
        assert np.array_equal(splits["val"].photo(position), drawings.photo(index))
        assert np.array_equal(splits["val"].label(position), drawings.label(index))
        assert splits["val"].photo_size(position) == drawings.photo_size(index)


def test_the_parts_know_the_classes() -> None:
    part = Subset(TwoDrives("train"), [2])
    assert part.classes == Drawings.classes
    assert len(part) == 1


@pytest.mark.parametrize(("prefix", "which"), [("c_", "none"), ("", "all")])
def test_a_prefix_of_none_or_all_is_refused(prefix: str, which: str) -> None:
    with pytest.raises(UsageError, match=f"{which} of the 4 training photos begin so"):
        leave_out(TwoDrives("train"), prefix)
