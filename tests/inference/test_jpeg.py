"""The short way to a JPEG's pixels: bit for bit what Pillow's plugin gives, and as strict."""

import io
import itertools
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from app.inference.decode import BrokenImage, ImageError, TooManyPixels, decode, read_header
from app.inference.jpeg import trim

PLENTY = 1_000_000
RNG = np.random.default_rng(17)


def saved(pixels, mode="RGB", **options):
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def noise(height, width):
    return RNG.integers(0, 256, (height, width, 3)).astype(np.uint8)


def show(data):
    return decode(data, max_pixels=PLENTY)


def by_plugin(data):
    return np.asarray(JpegImageFile(io.BytesIO(data)).convert("RGB"))


def outcome(door, data):
    try:
        return door(data)
    except Exception:
        return None


ODD_SIZES = [(1, 1), (1, 9), (17, 1), (15, 17), (33, 7), (64, 48)]


@pytest.mark.parametrize("size", ODD_SIZES)
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_colour(subsampling, progressive, size):
    data = saved(noise(*size), subsampling=subsampling, progressive=progressive)

    photo = show(data)

    assert trim(data).size == (size[1], size[0])
    assert np.array_equal(photo, by_plugin(data))
    assert photo.flags.c_contiguous
    assert photo.flags.writeable


@pytest.mark.parametrize("size", ODD_SIZES)
@pytest.mark.parametrize("progressive", [False, True])
def test_grey(progressive, size):
    data = saved(noise(*size), "L", progressive=progressive)

    assert trim(data).size == (size[1], size[0])
    assert np.array_equal(show(data), by_plugin(data))


@pytest.mark.parametrize(
    "options",
    [
        {"restart_marker_blocks": 1},
        {"restart_marker_rows": 1},
        {"restart_marker_blocks": 3, "progressive": True},
        {"keep_rgb": True},
        {"optimize": True},
        {"quality": 100},
        {"quality": 1},
        {"qtables": [[300] * 64, [700] * 64]},
        {"comment": b"\xff\xda\xff\xd9", "icc_profile": b"\xff\xc0" * 40_000},
        {"dpi": (300, 300)},
    ],
)
def test_what_encoders_may_do(options):
    data = saved(noise(37, 51), **options)

    assert trim(data).size is not None
    assert np.array_equal(show(data), by_plugin(data))


def test_cmyk_is_left_to_the_plugin():
    data = saved(noise(13, 21), "CMYK")

    assert trim(data).size is None
    assert np.array_equal(show(data), by_plugin(data))


@pytest.mark.parametrize("size", [(13, 21), (1, 5), (5, 1), (1, 1)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_undone_as_pillow_does(orientation, size):
    exif = Image.Exif()
    exif[274] = orientation
    data = saved(noise(*size), exif=exif)
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation)
    upright = Image.fromarray(by_plugin(data))

    photo = show(data)

    assert np.array_equal(photo, np.asarray(upright if turn is None else upright.transpose(turn)))
    assert photo.flags.c_contiguous
    header = read_header(data, max_pixels=PLENTY)
    assert (header.height, header.width) == photo.shape[:2]


FILES = {
    "baseline": saved(noise(40, 56)),
    "restarts": saved(noise(40, 56), restart_marker_blocks=2),
    "progressive": saved(noise(40, 56), progressive=True),
    "grey": saved(noise(40, 56), "L"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_is_refused_at_every_length(name):
    whole = FILES[name]
    expected = show(whole)

    for length in range(len(whole) - 2):
        photo = outcome(show, whole[:length])
        # The last bits of the last block may all lie in the byte before.
        assert photo is None or (length > len(whole) - 8 and np.array_equal(photo, expected))


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from([*FILES]),
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4
    ),
)
def test_damaged_files_give_what_the_plugin_gives_or_an_error(name, changes):
    data = bytearray(FILES[name])
    for place, value in changes:
        data[int(place * len(data))] = value
    data = bytes(data)

    try:
        photo = decode(data, max_pixels=10_000)
    except ImageError:
        return
    expected = outcome(by_plugin, data)
    # Metadata is skipped without being read: damage there costs us nothing, but the plugin.
    assert expected is None or np.array_equal(photo, expected)


@settings(max_examples=100, deadline=None)
@given(height=st.integers(1, 5000), width=st.integers(1, 5000))
def test_a_size_that_the_data_does_not_have_is_never_shown(height, width):
    data = FILES["baseline"]
    frame = data.index(b"\xff\xc0") + 5
    data = data[:frame] + struct.pack(">HH", height, width) + data[frame + 4 :]

    photo = outcome(lambda data: decode(data, max_pixels=10_000), data)

    # libjpeg may take some other sizes for a picture that is damaged, as the plugin does.
    assert photo is None or np.array_equal(photo, by_plugin(data))


def test_the_limit_holds_before_anything_is_decoded():
    data = FILES["baseline"]

    with pytest.raises(TooManyPixels):
        decode(data, max_pixels=40 * 56 - 1)


def test_what_lies_between_segments_is_left_to_the_plugin():
    data = FILES["baseline"]
    tables = data.index(b"\xff\xdb")
    with_junk = data[:tables] + b"\0\0junk" + data[tables:]

    assert trim(with_junk).size is None
    assert np.array_equal(show(with_junk), show(data))


def segment(code, content):
    return b"\xff" + bytes([code]) + struct.pack(">H", 2 + len(content)) + content


def test_scans_that_follow_a_partial_one_are_counted():
    # A first scan of one component makes libjpeg go on to the others, however many follow.
    frame = segment(0xC0, struct.pack(">BHHB", 8, 500, 500, 3) + b"\1\x11\0\2\x11\0\3\x11\0")
    first = segment(0xDA, b"\1\1\0\0\x3f\0")
    whole = segment(0xDA, b"\3\1\0\2\0\3\0\0\x3f\0")
    data = b"\xff\xd8" + frame + first + whole * 200 + b"\xff\xd9"

    with pytest.raises(BrokenImage, match="more than 100 scans"):
        read_header(data, max_pixels=PLENTY)


def test_a_second_scan_of_a_whole_picture_is_not_decoded():
    data = FILES["baseline"]
    scan = data[data.index(b"\xff\xda") : -2]

    photo = outcome(show, data[:-2] + scan * 3000 + data[-2:])

    assert photo is None or np.array_equal(photo, show(data))


def test_threads_do_not_share_anything():
    files = [saved(noise(60 + i, 90 - i)) for i in range(8)]
    expected = [by_plugin(data) for data in files]

    with ThreadPoolExecutor(8) as pool:
        photos = list(pool.map(show, files * 10))

    assert all(
        np.array_equal(photo, right)
        for photo, right in zip(photos, itertools.cycle(expected), strict=False)
    )
