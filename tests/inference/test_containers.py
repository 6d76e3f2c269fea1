"""Files that are small but dear to decode: they are refused, or read without what makes them so."""

import io
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.inference.decode import BrokenImage, TooManyPixels, decode, read_header

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


# A process of its own, because peaks never fall, and the kernel's count, because Python's does not
# see what decoders allocate. VmPeak counts what was asked for, VmHWM what was written to.
MEASURE = """
import contextlib
import re
import sys
from pathlib import Path

from app.inference.decode import ImageError, decode, read_header


def memory(*names):
    status = Path("/proc/self/status").read_text()
    return [1024 * int(re.search(name + r":\\s+(\\d+) kB", status)[1]) for name in names]


data = sys.stdin.buffer.read()
before = memory("VmSize", "VmRSS")
for door in (read_header, decode):
    with contextlib.suppress(ImageError):
        door(data, max_pixels=int(sys.argv[1]))
peaks = memory("VmPeak", "VmHWM")
print(max(peak - size for peak, size in zip(peaks, before, strict=True)))
"""


def memory_taken(data, max_pixels=PLENTY):
    """Return the bytes by which this file makes a process grow, at most, whether refused or not."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(max_pixels)],
        cwd=Path(__file__).parents[2],
        input=data,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return int(done.stdout)


def decode_watched(data):
    """Decode, and check that it takes neither long nor much memory, nor does the refusal."""
    assert memory_taken(data) < 5 * len(data) + 3_000_000
    began = time.process_time()
    try:
        read_header(data, max_pixels=PLENTY)
        return decode(data, max_pixels=PLENTY)
    finally:
        assert time.process_time() - began < 2


def test_the_memory_of_an_honest_file_is_seen():
    data = saved(Image.new("RGB", (2000, 1000)), "PNG")

    # At least Pillow's four bytes a pixel and our three.
    assert memory_taken(data, max_pixels=2_000_000) > 13_000_000


def bombs():
    """Files of a few kilobytes that announce hundreds of megabytes of pixels."""
    side = 12_000
    deflate = zlib.compressobj(9)
    content = b"".join(deflate.compress(bytes(side + 1)) for _ in range(300)) + deflate.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    yield "PNG", b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content)

    jpeg = saved(Image.new("L", (8, 8)), "JPEG")
    frame = jpeg.index(b"\xff\xc0") + 5
    yield "JPEG", jpeg[:frame] + struct.pack(">HH", side, side) + jpeg[frame + 4 :]

    gif = bytearray(saved(Image.new("P", (8, 8)), "GIF", disposal=2, transparency=0))
    frame = gif.index(b",", 13)
    # A small screen, but a large frame that is to be cleared.
    gif[frame + 5 : frame + 9] = struct.pack("<HH", side, side)
    yield "GIF", bytes(gif)

    # Small frames on a large canvas.
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime")]
    webp = bytearray(saved(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    assert webp[12:16] == b"VP8X"
    webp[24:30] = (side - 1).to_bytes(3, "little") * 2
    yield "WebP", bytes(webp)

    bmp = saved(Image.new("L", (8, 8)), "BMP")
    yield "BMP", bmp[:18] + struct.pack("<II", side, side) + bmp[26:]

    yield "TIFF", tiff_with([], size=(side, side))


@pytest.mark.parametrize("data", [pytest.param(data, id=format_) for format_, data in bombs()])
def test_bombs_are_refused_from_the_header_with_memory_flat(data):
    limit = 100_000_000
    assert len(data) < 10_000

    assert memory_taken(data, max_pixels=limit) < 3_000_000
    for door in (read_header, decode):
        with pytest.raises(TooManyPixels) as refused:
            door(data, max_pixels=limit)
        assert (refused.value.width, refused.value.height) == (12_000, 12_000)


@pytest.mark.parametrize("compression", [1, 2])
@pytest.mark.parametrize("header_bytes", [40, 124])
def test_a_run_length_encoded_bmp_is_refused(header_bytes, compression):
    # Pillow decodes these in Python: an end of line, of two bytes, fills a row pixel by pixel.
    data = bytearray(saved(Image.new("L", (8, 8)), "BMP"))
    data[14:18] = struct.pack("<I", header_bytes)
    data[30:34] = struct.pack("<I", compression)

    for door in (read_header, decode):
        with pytest.raises(BrokenImage, match="BMP file is run-length encoded"):
            door(bytes(data), max_pixels=PLENTY)


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
