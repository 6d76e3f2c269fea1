"""Photos that are made smaller before they are trained on."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.inference.decode import resize
from app.train.data_problems import SizeMismatchError
from app.train.samples import LabelledFiles
from app.train.scaled import Scaled
from app.train.shapes import Drawings
from model import named_classes


def test_photos_are_resized_as_they_are_served() -> None:
    drawings = Drawings("val", size=(45, 61))
    half = Scaled(drawings, 0.5)
    assert (half.classes, half.names, len(half)) == (
        drawings.classes,
        drawings.names,
        len(drawings),
    )
    for index in (0, len(drawings) - 1):
        assert np.array_equal(half.photo(index), resize(drawings.photo(index), (23, 31)))
        assert half.photo_size(index) == half.label(index).shape == (23, 31)


def test_a_label_is_that_of_the_pixels_centre() -> None:
    drawings = Drawings("val", size=(48, 66))
    third = Scaled(drawings, 1 / 3)
    assert np.array_equal(third.label(0), drawings.label(0)[1::3, 1::3])
    assert np.array_equal(Scaled(drawings, 1).label(0), drawings.label(0))


def test_sizes_that_differ_are_found_though_they_would_not_once_resized(tmp_path: Path) -> None:
    photo, label = tmp_path / "a.png", tmp_path / "label.png"
    Image.new("RGB", (8, 6)).save(photo)
    Image.new("L", (8, 5)).save(label)
    files = Scaled(LabelledFiles([(photo, label)], named_classes(["sky"])), 0.25)
    with pytest.raises(SizeMismatchError, match=f"{photo} is 8x6, its label map is 8x5"):
        files.label(0)
