import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from app.inference.png import encode_grey_png, encode_palette_png, encode_rgb_png

RED, GREEN, BLUE = (200, 10, 20), (30, 180, 40), (50, 60, 220)
PALETTE = [RED, GREEN, BLUE]


def opened(data):
    image = Image.open(io.BytesIO(data))
    # Checks every checksum; the pixels need a fresh start after it.
    image.verify()
    return Image.open(io.BytesIO(data))


def chunks(data):
    position, found = 8, []
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        body = data[position + 4 : position + 8 + length]
        assert struct.unpack_from(">I", data, position + 8 + length) == (zlib.crc32(body),)
        found.append((body[:4], body[4:]))
        position += 12 + length
    return found


SIZES = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=70)
LABEL_MAPS = arrays(np.uint8, SIZES)


@settings(max_examples=60, deadline=None)
@given(label_map=LABEL_MAPS)
def test_palette_png_keeps_every_label(label_map):
    image = opened(encode_palette_png(label_map, PALETTE, transparent=255))

    assert image.mode == "P"
    assert np.array_equal(np.asarray(image), label_map)


@settings(max_examples=60, deadline=None)
@given(values=LABEL_MAPS)
def test_grey_png_keeps_every_value(values):
    image = opened(encode_grey_png(values))

    assert image.mode == "L"
    assert np.array_equal(np.asarray(image), values)


@settings(max_examples=60, deadline=None)
@given(photo=arrays(np.uint8, SIZES.map(lambda size: (*size, 3))))
def test_rgb_png_keeps_every_pixel(photo):
    image = opened(encode_rgb_png(photo))

    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), photo)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), step=st.sampled_from([-2, -1, 2, 3]))
def test_views_are_read_as_they_are_indexed(data, step):
    label_map = data.draw(LABEL_MAPS)
    photo = np.dstack((label_map, label_map + 1, label_map + 2))

    for view in (label_map[::step], label_map[:, ::step], label_map.T):
        assert np.array_equal(np.asarray(opened(encode_grey_png(view))), view)
        assert np.array_equal(np.asarray(opened(encode_palette_png(view, PALETTE))), view)
    for view in (photo[::step], photo[..., ::-1], photo.transpose(1, 0, 2)):
        assert np.array_equal(np.asarray(opened(encode_rgb_png(view))), view)


def test_labels_have_the_colours_of_the_palette():
    label_map = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)

    shown = np.asarray(opened(encode_palette_png(label_map, PALETTE)).convert("RGB"))

    assert np.array_equal(shown, np.array(PALETTE)[label_map])


def test_the_transparent_label_is_invisible_and_no_other():
    label_map = np.array([[0, 255, 2]], np.uint8)

    shown = np.asarray(
        opened(encode_palette_png(label_map, PALETTE, transparent=255)).convert("RGBA")
    )

    assert shown[0].tolist() == [[*RED, 255], [0, 0, 0, 0], [*BLUE, 255]]


def test_any_label_can_be_transparent():
    label_map = np.array([[0, 1, 2]], np.uint8)

    shown = np.asarray(
        opened(encode_palette_png(label_map, PALETTE, transparent=1)).convert("RGBA")
    )

    assert shown[0, :, 3].tolist() == [255, 0, 255]


@pytest.mark.parametrize(
    ("label_map", "transparent", "entries", "has_alpha"),
    [
        ([[0, 1]], None, 3, False),
        ([[0, 255]], None, 256, False),
        ([[0, 255]], 255, 256, True),
        ([[0, 1]], 255, 3, False),
        ([[0, 7]], None, 8, False),
    ],
)
def test_the_palette_is_as_long_as_it_must_be(label_map, transparent, entries, has_alpha):
    data = encode_palette_png(np.array(label_map, np.uint8), PALETTE, transparent=transparent)

    found = dict(chunks(data))
    assert len(found[b"PLTE"]) == 3 * entries
    assert (b"tRNS" in found) == has_alpha


def test_chunks_stand_in_the_order_of_the_specification():
    data = encode_palette_png(np.full((2, 2), 255, np.uint8), PALETTE, transparent=255)

    assert [kind for kind, _ in chunks(data)] == [b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"]


def test_large_areas_shrink_to_almost_nothing():
    label_map = np.zeros((1440, 1920), np.uint8)
    label_map[300:900, 500:1100] = 3

    assert len(encode_grey_png(label_map)) < 20_000


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4), np.int64),
        np.zeros((4, 4), bool),
        np.zeros((4,), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4), np.uint8),
        np.zeros((4, 0), np.uint8),
    ],
)
def test_what_is_no_8_bit_picture_is_refused(pixels):
    with pytest.raises(ValueError, match="expected HxW uint8"):
        encode_grey_png(pixels)
    with pytest.raises(ValueError, match="expected HxW uint8"):
        encode_palette_png(pixels, PALETTE)
    with pytest.raises(ValueError, match="expected HxWx3 uint8"):
        encode_rgb_png(pixels)


def test_a_palette_has_at_most_256_colours():
    with pytest.raises(ValueError, match="256"):
        encode_palette_png(np.zeros((1, 1), np.uint8), [RED] * 257)


def test_a_palette_may_be_empty():
    image = opened(encode_palette_png(np.full((2, 3), 255, np.uint8), [], transparent=255))

    assert (np.asarray(image.convert("RGBA"))[..., 3] == 0).all()
