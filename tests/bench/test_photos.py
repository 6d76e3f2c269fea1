"""Sizes as they are typed, and the photos drawn in them."""

import argparse
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.bench.photos import Sizes, drawn_photos, own_photos, parse_sizes
from app.errors import UsageError


def test_sizes_with_and_without_weights_and_ranges() -> None:
    assert parse_sizes("480x360, 96x64:3,8x6-16x9/20:0.5") == (
        Sizes((480, 360), (480, 360)),
        Sizes((96, 64), (96, 64), weight=3),
        Sizes((8, 6), (16, 9), count=20, weight=0.5),
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is no size"),
        ("480", "is no size"),
        ("480x360,", "is no size"),
        ("480x360:", "is no size"),
        ("480x360/5", "is no size"),
        ("0x5", "no size between"),
        ("8x8-4x9/2", "no size between"),
        ("8x8-9x9/5", "1 to 4 sizes"),
        ("8x8-9x9/0", "1 to 4 sizes"),
        ("480x360:0", "more than 0"),
        ("99999x99999", "pixels"),
    ],
)
def test_what_is_no_size_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=complaint):
        parse_sizes(text)


def test_a_range_gives_that_many_different_sizes_within_it() -> None:
    photos = drawn_photos(parse_sizes("8x6-40x30/100:2"), file_format="png", seed=3)
    sizes = {(photo.width, photo.height) for photo in photos}
    assert len(sizes) == 100
    assert all(8 <= width <= 40 and 6 <= height <= 30 for width, height in sizes)
    assert sum(photo.weight for photo in photos) == pytest.approx(2)


@pytest.mark.parametrize(("file_format", "known"), [("jpeg", "JPEG"), ("png", "PNG")])
def test_files_are_what_they_say(file_format: str, known: str) -> None:
    for photo in drawn_photos(parse_sizes("1x1,7x300,64x48"), file_format=file_format, seed=0):
        with Image.open(io.BytesIO(photo.body)) as image:
            assert (image.format, image.mode, image.size) == (
                known,
                "RGB",
                (photo.width, photo.height),
            )
        assert photo.media_type == f"image/{file_format}"


def test_equal_seeds_give_equal_files_and_others_others() -> None:
    def files(seed: int) -> list[bytes]:
        sizes = parse_sizes("32x24,8x8-20x20/5")
        return [photo.body for photo in drawn_photos(sizes, file_format="jpeg", seed=seed)]

    assert files(1) == files(1)
    assert files(1) != files(2)


def test_a_drawn_photo_costs_a_decoder_about_what_a_photograph_does() -> None:
    (photo,) = drawn_photos(parse_sizes("480x360"), file_format="jpeg", seed=0)
    assert 20_000 < len(photo.body) < 45_000
    with Image.open(io.BytesIO(photo.body)) as image:
        pixels = np.asarray(image, np.float64)
    assert pixels.std() > 20


def test_own_photos_are_those_that_can_be_read(tmp_path: Path) -> None:
    Image.new("RGB", (6, 4)).save(tmp_path / "b.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # shown with its sides swapped
    Image.new("RGB", (8, 2)).save(tmp_path / "a.jpg", exif=turned)
    (tmp_path / "notes.txt").write_text("not a photo")
    (tmp_path / "folder").mkdir()
    photos, skipped = own_photos(tmp_path)
    assert [(photo.size, photo.media_type) for photo in photos] == [
        ("2x8", "image/jpeg"),
        ("6x4", "image/png"),
    ]
    assert skipped == 1


def test_a_folder_without_photos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no photo in it"):
        own_photos(tmp_path)
