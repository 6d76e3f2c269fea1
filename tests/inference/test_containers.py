"""Files that are small but dear to decode: they are refused, or read without what makes them so."""

import contextlib
import io
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from app.inference.decode import BrokenImage, decode, read_header

PLENTY = 1_000_000
PHOTO = np.random.default_rng(3).integers(0, 256, (8, 8, 3)).astype(np.uint8)


def saved(image, format_, **options):
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def jpeg_with(segments):
    data = saved(Image.fromarray(PHOTO), "JPEG")
    return data[:2] + segments + data[2:]


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_with(chunks):
    data = saved(Image.fromarray(PHOTO), "PNG")
    after_header = 8 + 12 + 13
    return data[:after_header] + chunks + data[after_header:]


def gif_with(blocks):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([9, 9, 9, 200, 100, 50])
    data = saved(image, "GIF")
    frame = data.index(b",", 13)
    return data[:frame] + blocks + data[frame:]


def tiff_with(tags, size=(1, 2)):
    """Grey pixels, and `tags`: (number, type, values, content or address)."""
    pixels = bytes(range(100, 200))
    own = {
        256: (4, 1, size[0]),
        257: (4, 1, size[1]),
        258: (3, 1, 8),
        259: (3, 1, 1),
        262: (3, 1, 1),
        273: (4, 1, 8),
        277: (3, 1, 1),
    }
    own.update({number: rest for number, *rest in tags})
    entries = b"".join(struct.pack("<HHII", number, *own[number]) for number in sorted(own))
    head = b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels
    return head + struct.pack("<H", len(own)) + entries + bytes(4)


def decode_watched(data):
    """Decode, and check that it takes neither long nor much memory, nor does the refusal."""

    def both_doors():
        read_header(data, max_pixels=PLENTY)
        return decode(data, max_pixels=PLENTY)

    began = time.process_time()
    with contextlib.suppress(BrokenImage):
        both_doors()
    assert time.process_time() - began < 2

    tracemalloc.start()
    try:
        return both_doors()
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 5 * len(data) + 3_000_000


def test_compressed_text_in_a_png_is_not_unpacked():
    text = zlib.compress(b"a" * 1_000_000 + "\N{GRINNING FACE}".encode())
    chunks = b"".join(chunk(b"iTXt", b"key%d\0\1\0\0\0" % i + text) for i in range(60))
    chunks += chunk(b"iCCP", b"profile\0\0" + text)

    assert np.array_equal(decode_watched(png_with(chunks)), PHOTO)


def test_a_png_of_countless_chunks_is_refused():
    with pytest.raises(BrokenImage, match="more than 65,536 chunks"):
        decode_watched(png_with(chunk(b"prVt", b"") * 100_000))


def test_metadata_of_a_jpeg_is_skipped():
    metadata = b"".join(
        b"\xff" + bytes([marker]) + struct.pack(">H", 60_000) + bytes(59_998)
        for marker in (*range(0xE1, 0xEE), 0xEF, 0xFE)
    )

    plain = decode(jpeg_with(b""), max_pixels=PLENTY)

    assert np.array_equal(decode_watched(jpeg_with(metadata)), plain)


def test_exif_in_many_pieces_takes_no_time():
    # Pillow joins them, each time copying what it has: quadratic.
    pieces = (b"\xff\xe1" + struct.pack(">H", 60) + b"Exif\0\0" + bytes(52)) * 50_000

    assert decode_watched(jpeg_with(pieces)).shape == PHOTO.shape


def test_a_jpeg_of_countless_segments_is_refused():
    with pytest.raises(BrokenImage, match="more than 65,536 segments"):
        decode_watched(jpeg_with(b"\xff\xfe\0\2" * 100_000))


def test_a_jpeg_of_countless_scans_is_refused():
    # Each scan, of forty bytes, passes over all pixels.
    data = saved(Image.new("L", (500, 500)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")

    with pytest.raises(BrokenImage, match="more than 100 scans"):
        decode_watched(data[:-2] + data[last:-2] * 200 + data[-2:])


def test_a_gif_of_countless_blocks_is_refused():
    for blocks in (b"!\xfe" + b"\1a" * 100_000 + b"\0", b"!\xfe\0" * 100_000):
        with pytest.raises(BrokenImage, match="more than 65,536 blocks"):
            decode_watched(gif_with(blocks))


def test_comments_in_a_gif_are_skipped():
    comment = b"!\xfe" + (b"\xff" + b"x" * 255) * 1000 + b"\0"

    photo = decode_watched(gif_with(comment))

    assert (photo == (200, 100, 50)).all()


def test_a_gif_frame_beyond_its_screen_enlarges_it():
    data = bytearray(saved(Image.new("L", (30, 20), 77), "GIF"))
    data[6:10] = struct.pack("<HH", 5, 5)

    assert read_header(bytes(data), max_pixels=PLENTY).pixels == 600
    assert decode(bytes(data), max_pixels=PLENTY).shape == (20, 30, 3)


def test_a_tiff_of_countless_strips_is_refused():
    # A list of offsets that is nothing but zeros; a few megabytes suffice for hours of work.
    count = 1_000_000
    data = tiff_with([(273, 4, count, 8), (278, 4, 1, 1)]) + bytes(4 * count)

    with pytest.raises(BrokenImage, match="more than 65,536 strips or tiles"):
        decode_watched(data)


def test_tags_of_a_tiff_that_no_pixel_needs_are_not_read():
    # Thousands of tags that all claim the same bytes.
    tags = [(40_000 + i, 1, 50_000, 8) for i in range(5_000)]

    photo = decode_watched(tiff_with(tags) + bytes(60_000))

    assert photo[..., 0].tolist() == [[100], [101]]


@pytest.mark.parametrize(
    "tile",
    [
        [(322, 4, 1, 30_000), (323, 4, 1, 30_000)],
        # libtiff reads these types too.
        [(322, 16, 1, 8), (323, 9, 1, 30_000)],
        [(322, 4, 1, 1 << 30)],
    ],
)
def test_tiles_larger_than_any_image_are_refused(tile):
    data = tiff_with([*tile, (259, 3, 1, 8), (324, 4, 1, 8), (325, 4, 1, 50)])

    with pytest.raises(BrokenImage, match="tiles of"):
        decode_watched(data)


@pytest.mark.parametrize("big", [False, True])
def test_a_tiff_keeps_what_its_pixels_need(big):
    photo = Image.fromarray(np.random.default_rng(5).integers(0, 256, (70, 90, 3)).astype("u1"))
    data = saved(
        photo.quantize(50),
        "TIFF",
        compression="tiff_deflate",
        big_tiff=big,
        description="x" * 1000,
        tiffinfo={317: 2},
    )

    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    assert np.array_equal(decode(data, max_pixels=PLENTY), expected)
