"""Datasets that are held in memory."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.train.cache import BYTES_PER_PIXEL, InMemory, fits_in_memory
from app.train.data_problems import SizeMismatchError
from app.train.samples import LabelledFiles
from app.train.shapes import Drawings
from model import named_classes


class Counted(Drawings):
    """Drawings that count how often a photo's size was asked for."""

    asked = 0

    def photo_size(self, index: int) -> tuple[int, int]:
        self.asked += 1
        return super().photo_size(index)


def test_it_is_the_dataset_itself() -> None:
    drawings = Drawings("val", size=(24, 32))
    held = InMemory(drawings)
    assert (held.classes, held.names, len(held)) == (
        drawings.classes,
        drawings.names,
        len(drawings),
    )
    for index in (0, len(drawings) - 1):
        assert np.array_equal(held.photo(index), drawings.photo(index))
        assert np.array_equal(held.label(index), drawings.label(index))
        assert held.photo_size(index) == (24, 32)
        assert held.photo(index) is held.photo(index)


def test_labels_of_another_size_are_found_with_their_place(tmp_path: Path) -> None:
    photo, label = tmp_path / "a.png", tmp_path / "label.png"
    Image.new("RGB", (8, 6)).save(photo)
    Image.new("L", (8, 5)).save(label)
    files = LabelledFiles([(photo, label)], named_classes(["sky"]))
    with pytest.raises(SizeMismatchError, match=f"{photo} is 8x6, its label map is 8x5"):
        InMemory(files)


def test_it_fits_to_the_byte_and_no_header_is_read_in_vain() -> None:
    drawings = Counted("val", size=(24, 32))
    each = BYTES_PER_PIXEL * 24 * 32
    assert fits_in_memory(drawings, each * len(drawings))
    assert not fits_in_memory(drawings, each * len(drawings) - 1)
    drawings.asked = 0
    assert not fits_in_memory(drawings, each)
    assert drawings.asked == 2
