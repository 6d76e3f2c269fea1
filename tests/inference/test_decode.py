import contextlib
import io
import struct
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from app.inference.decode import (
    FORMATS,
    BrokenImage,
    ImageError,
    ImageHeader,
    TooManyPixels,
    UnknownFormat,
    decode,
    open_photo,
    read_header,
    resize,
    scaled_size,
)

PLENTY = 1_000_000
RNG = np.random.default_rng(7)
HEIGHT, WIDTH = 13, 21


def samples(*shape, high=256):
    return RNG.integers(0, high, (HEIGHT, WIDTH, *shape)).astype(np.uint8 if high <= 256 else "u2")


PHOTO = samples(3)
"""Noise: every misplaced row, channel or pixel shows."""


def saved(image, format_, **options):
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def show(data):
    return decode(data, max_pixels=PLENTY)


def close(actual, expected, tolerance):
    return np.abs(actual.astype(int) - expected.astype(int)).max() <= tolerance


def on_white(colour, alpha, most=255):
    """The definition: colour weighted by alpha, white by the rest, in whole numbers."""
    colour, alpha = colour.astype(np.float64), alpha[..., np.newaxis].astype(np.float64)
    return np.broadcast_to(np.rint(colour * alpha / most + 255 - 255 * alpha / most), PHOTO.shape)


def eight_bits(values):
    return np.rint(values / 257).astype(np.uint8)


def grey_as_rgb(grey):
    return np.repeat(grey[..., np.newaxis], 3, axis=2)


def smooth_photo(height=48, width=64):
    """What lossy formats keep."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack((x * 3, y * 4, 255 - x * 2 - y), axis=2).clip(0, 255).astype(np.uint8)


def png(pixels, colour_type, depth=8, before=(), after=(), size=None):
    """A PNG written by hand: Pillow writes no 16-bit colour and no transparent colours.

    `pixels` is HxW or HxWxC; `before` and `after` are chunks on either side of the pixel data.
    """
    height, width = pixels.shape[:2]
    if depth == 16:
        rows = [row.astype(">u2").tobytes() for row in pixels]
    elif depth == 8:
        rows = [row.tobytes() for row in pixels]
    else:
        bits = [np.unpackbits(row[:, np.newaxis], axis=1)[:, -depth:].ravel() for row in pixels]
        rows = [np.packbits(row).tobytes() for row in bits]
    header = struct.pack(">IIBBBBB", *(size or (width, height)), depth, colour_type, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [(b"IHDR", header), *before, (b"IDAT", content), *after, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6


def tiff(strip, tags, order="<", size=(WIDTH, HEIGHT), compression=1):
    """A TIFF written by hand, of one strip: Pillow writes no 16-bit colour."""
    tags = {
        256: [size[0]],
        257: [size[1]],
        259: [compression],
        273: [8],
        278: [size[1]],
        279: [len(strip)],
        **tags,
    }
    start = 8 + len(strip) + len(strip) % 2
    elsewhere = start + 2 + 12 * len(tags) + 4
    directory, values = struct.pack(order + "H", len(tags)), b""
    for tag, numbers in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        directory += struct.pack(order + "HHI", tag, 4, len(numbers))
        if len(numbers) == 1:
            directory += packed
        else:
            directory += struct.pack(order + "I", elsewhere + len(values))
            values += packed
    mark = b"II" if order == "<" else b"MM"
    head = mark + struct.pack(order + "HI", 42, start)
    return head + strip.ljust(start - 8, b"\0") + directory + bytes(4) + values


# What comes out of each format.


@pytest.mark.parametrize(
    ("format_", "data"),
    [
        ("PNG", saved(Image.fromarray(PHOTO), "PNG")),
        ("BMP", saved(Image.fromarray(PHOTO), "BMP")),
        ("WebP", saved(Image.fromarray(PHOTO), "WEBP", lossless=True)),
        ("TIFF", saved(Image.fromarray(PHOTO), "TIFF")),
        ("TIFF", saved(Image.fromarray(PHOTO), "TIFF", compression="tiff_lzw")),
        ("TIFF", saved(Image.fromarray(PHOTO), "TIFF", big_tiff=True)),
    ],
)
def test_lossless_formats_give_the_very_same_pixels(format_, data):
    photo = show(data)

    assert np.array_equal(photo, PHOTO)
    assert photo.dtype == np.uint8
    assert photo.flags.c_contiguous
    assert photo.flags.writeable
    assert read_header(data, max_pixels=PLENTY) == ImageHeader(format_, WIDTH, HEIGHT)


@pytest.mark.parametrize(
    ("format_", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("WebP", {"quality": 95}),
        ("AVIF", {"quality": 95}),
        ("TIFF", {"compression": "jpeg", "quality": 95}),
    ],
)
def test_lossy_formats_come_close(format_, options):
    photo = smooth_photo()
    data = saved(Image.fromarray(photo), format_, **options)

    assert close(show(data), photo, tolerance=12)
    assert read_header(data, max_pixels=PLENTY) == ImageHeader(format_, 64, 48)


def test_jpeg_gives_the_pixels_that_pillow_gives():
    data = saved(Image.fromarray(PHOTO), "JPEG", comment=b"hello", icc_profile=b"x" * 70_000)

    assert np.array_equal(show(data), np.asarray(Image.open(io.BytesIO(data))))


def test_mpo_gives_its_first_picture():
    first, second = Image.fromarray(smooth_photo()), Image.new("RGB", (64, 48))
    data = saved(first, "MPO", save_all=True, append_images=[second], quality=95)

    assert close(show(data), smooth_photo(), tolerance=12)
    assert read_header(data, max_pixels=PLENTY) == ImageHeader("JPEG", 64, 48)


def test_bytes_after_the_end_of_a_jpeg_change_nothing():
    # A phone's "motion photo" has a video there, in which the bytes of any marker turn up.
    data = saved(Image.fromarray(PHOTO), "JPEG")

    assert np.array_equal(show(data + b"\xff\xda\0\2" * 50_000), show(data))


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_grey_png_of_each_depth(depth):
    values = samples(high=2**depth)
    expected = values * (255 // (2**depth - 1))

    assert np.array_equal(show(png(values, GREY, depth)), grey_as_rgb(expected))


def test_palette_png():
    palette, indices = RNG.integers(0, 256, (16, 3)).astype(np.uint8), samples(high=16)

    data = png(indices, PALETTE, 4, before=[(b"PLTE", palette.tobytes())])

    assert np.array_equal(show(data), palette[indices])


def test_bmp_with_bitfields():
    masks = struct.pack("<III", 0xF800, 0x7E0, 0x1F)
    header = struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 16, 3, 4, 0, 0, 0, 0)
    pixels = struct.pack("<HH", 31 << 11 | 63 << 5, 31)
    start = 14 + len(header) + len(masks)

    data = struct.pack("<2sIII", b"BM", start + 4, 0, start) + header + masks + pixels

    assert show(data).tolist() == [[[255, 255, 0], [0, 0, 255]]]


def test_bmp_of_the_oldest_kind_has_pixels_where_others_tell_the_compression():
    pixels = bytes([10, 20, 30, 40, 1, 0, 0, 0])
    header = struct.pack("<IHHHH", 12, 2, 1, 1, 24)

    data = struct.pack("<2sIII", b"BM", 34, 0, 26) + header + pixels

    assert show(data).tolist() == [[[30, 20, 10], [0, 1, 40]]]


def test_large_images_are_copied_whole():
    # More than one band of rows.
    photo = RNG.integers(0, 256, (700, 900, 3)).astype(np.uint8)

    assert np.array_equal(show(saved(Image.fromarray(photo), "BMP")), photo)


def test_single_pixel():
    assert show(saved(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG")).tolist() == [[[1, 2, 3]]]


# Transparency lies on white.


def test_rgba_lies_on_white():
    pixels = samples(4)

    expected = on_white(pixels[..., :3], pixels[..., 3])

    for format_, options in (
        ("PNG", {}),
        ("TIFF", {}),
        ("WEBP", {"lossless": True, "exact": True}),
    ):
        data = saved(Image.fromarray(pixels), format_, **options)
        assert close(show(data), expected, tolerance=1), format_


def test_fully_transparent_is_white_and_fully_opaque_untouched():
    pixels = samples(4)
    pixels[:5, :, 3], pixels[5:, :, 3] = 0, 255

    photo = show(saved(Image.fromarray(pixels), "PNG"))

    assert (photo[:5] == 255).all()
    assert np.array_equal(photo[5:], pixels[5:, :, :3])


def test_grey_with_alpha_lies_on_white():
    pixels = samples(2)

    expected = on_white(pixels[..., :1], pixels[..., 1])

    assert close(show(png(pixels, GREY_ALPHA)), expected, tolerance=1)


def test_premultiplied_tiff_lies_on_white():
    alpha = samples()
    grey = (samples() * (alpha / 255)).astype(np.uint8)
    strip = np.dstack((grey, alpha)).tobytes()
    associated = {258: [8, 8], 262: [1], 277: [2], 338: [1]}

    expected = grey_as_rgb((grey + (255 - alpha.astype(int))).clip(0, 255))

    # Dividing by a small alpha and multiplying again loses a little.
    assert close(show(tiff(strip, associated)), expected, tolerance=2)


def test_palette_with_transparency_lies_on_white():
    palette, indices = RNG.integers(0, 256, (16, 3)).astype(np.uint8), samples(high=16)
    alpha = np.array([0, 255, 128, 7, 200], np.uint8)
    chunks = [(b"PLTE", palette.tobytes()), (b"tRNS", alpha.tobytes())]

    photo = show(png(indices, PALETTE, 8, before=chunks))

    every_alpha = np.append(alpha, np.full(11, 255))
    assert close(photo, on_white(palette[indices], every_alpha[indices]), tolerance=1)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_transparent_grey_is_white(depth):
    values = samples(high=2**depth)
    key = int(values[4, 5])
    data = png(values, GREY, depth, before=[(b"tRNS", struct.pack(">H", key))])

    expected = grey_as_rgb(np.rint(values * (255 / (2**depth - 1))).astype(np.uint8))
    expected[values == key] = 255

    assert np.array_equal(show(data), expected)


@pytest.mark.parametrize("depth", [8, 16])
def test_transparent_colour_is_white(depth):
    values = samples(3, high=2**depth)
    key = values[4, 5].astype(int).tolist()
    # The same to eight bits, but another colour: it stays.
    values[0, 0] = key if depth == 8 else (key[0] ^ 1, *key[1:])
    data = png(values, RGB, depth, before=[(b"tRNS", struct.pack(">3H", *key))])

    expected = values.copy() if depth == 8 else eight_bits(values)
    expected[(values == key).all(axis=2)] = 255

    assert np.array_equal(show(data), expected)


def test_transparent_gif_colour_is_white():
    indices = samples(high=4)
    image = Image.fromarray(indices)
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    data = saved(image, "GIF", transparency=2)

    expected = np.arange(10, 130, 10).reshape(4, 3)[indices]
    expected[indices == 2] = 255

    assert np.array_equal(show(data), expected)


# Sixteen bits: v becomes round(v / 257).


@pytest.mark.parametrize(("colour_type", "channels"), [(GREY, 1), (RGB, 3)])
def test_16_bit_png(colour_type, channels):
    values = samples(channels, high=65_536)
    data = png(values, colour_type, depth=16)

    assert np.array_equal(show(data), np.broadcast_to(eight_bits(values), PHOTO.shape))


@pytest.mark.parametrize(("colour_type", "channels"), [(GREY_ALPHA, 1), (RGBA, 3)])
def test_16_bit_png_with_alpha(colour_type, channels):
    values = samples(channels + 1, high=65_536)

    photo = show(png(values, colour_type, depth=16))

    expected = on_white(eight_bits(values[..., :-1]), eight_bits(values[..., -1]))
    assert close(photo, expected, tolerance=1)


def test_every_16_bit_value_is_rounded_to_the_nearest():
    values = np.arange(65_536, dtype=np.uint16).reshape(256, 256)

    assert np.array_equal(show(png(values, GREY, 16))[..., 0], eight_bits(values))
    assert np.array_equal(show(png(grey_as_rgb(values), RGB, 16))[..., 1], eight_bits(values))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize(("photometric", "channels"), [(1, 1), (2, 3)], ids=["grey", "rgb"])
def test_16_bit_tiff(order, compression, photometric, channels):
    values = samples(channels, high=65_536)
    strip = values.astype(order + "u2").tobytes()
    tags = {258: [16] * channels, 262: [photometric], 277: [channels]}
    if compression == 8:
        strip = zlib.compress(strip)

    photo = show(tiff(strip, tags, order, compression=compression))

    assert np.array_equal(photo, np.broadcast_to(eight_bits(values), PHOTO.shape))


def test_16_bit_tiff_in_which_zero_is_white():
    values = samples(high=65_536)
    data = tiff(values.astype("<u2").tobytes(), {258: [16], 262: [0], 277: [1]})

    assert np.array_equal(show(data), grey_as_rgb(eight_bits(65_535 - values)))


def test_16_bit_tiff_with_alpha():
    values = samples(4, high=65_536)
    tags = {258: [16] * 4, 262: [2], 277: [4], 338: [2]}

    photo = show(tiff(values.astype("<u2").tobytes(), tags))

    expected = on_white(eight_bits(values[..., :3]), eight_bits(values[..., 3]))
    assert close(photo, expected, tolerance=1)


def test_12_bit_tiff_reaches_white():
    values = np.full((HEIGHT, WIDTH + 1), 4095)
    values[0, :2] = 0, 2048
    bits = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(HEIGHT, -1, 2), axis=2)
    strip = np.packbits(bits[..., 4:].reshape(HEIGHT, -1), axis=1).tobytes()

    photo = show(tiff(strip, {258: [12], 262: [1], 277: [1]}, size=(WIDTH + 1, HEIGHT)))

    assert photo[0, :3, 0].tolist() == [0, 128, 255]
    assert (photo[1:] == 255).all()


# Other colour spaces.


def test_bilevel():
    bits = samples(high=2).astype(bool)

    for format_, options in (("TIFF", {"compression": "group4"}), ("BMP", {})):
        photo = show(saved(Image.fromarray(bits), format_, **options))
        assert np.array_equal(photo, grey_as_rgb(bits * np.uint8(255))), format_


def test_cmyk_tiff():
    inks = samples(4)
    data = saved(Image.frombytes("CMYK", (WIDTH, HEIGHT), inks.tobytes()), "TIFF")

    expected = (255.0 - inks[..., :3]) * (255.0 - inks[..., 3:]) / 255

    assert close(show(data), expected, tolerance=1)


def test_cmyk_jpeg_is_not_inverted():
    inks = Image.new("CMYK", (16, 16), (0, 200, 100, 30))
    data = saved(inks, "JPEG", quality=100)

    assert b"Adobe" in data
    assert close(show(data), np.full((16, 16, 3), (225, 49, 137)), tolerance=3)


def test_ycbcr_tiff():
    photo = smooth_photo()
    data = saved(Image.fromarray(photo).convert("YCbCr"), "TIFF")

    assert close(show(data), photo, tolerance=3)


def test_lab_tiff():
    photo = smooth_photo() // 2 + 64
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    data = saved(ImageCms.applyTransform(Image.fromarray(photo), to_lab), "TIFF")

    assert close(show(data), photo, tolerance=10)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_tiff_without_a_defined_white_is_refused(dtype):
    data = saved(Image.fromarray(samples().astype(dtype)), "TIFF")

    with pytest.raises(BrokenImage, match="8 or 16 bits"):
        show(data)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("compression", [1, 8])
def test_tiff_with_channels_apart(depth, compression):
    values = samples(3, high=2**depth)
    planes = [values[..., channel].tobytes() for channel in range(3)]
    if compression == 8:
        planes = [zlib.compress(plane) for plane in planes]
    lengths = [len(plane) for plane in planes]
    tags = {
        258: [depth] * 3,
        262: [2],
        273: [8, 8 + lengths[0], 8 + lengths[0] + lengths[1]],
        277: [3],
        279: lengths,
        284: [2],
    }
    data = tiff(b"".join(planes), tags, compression=compression)

    if depth == 16 and compression == 1:
        with pytest.raises(BrokenImage, match="channels apart and uncompressed"):
            show(data)
    else:
        expected = values if depth == 8 else eight_bits(values)
        assert close(show(data), expected, tolerance=0 if depth == 8 else 1)


# As it is shown: orientation, first frame.

TURNED = {
    1: PHOTO,
    2: PHOTO[:, ::-1],
    3: PHOTO[::-1, ::-1],
    4: PHOTO[::-1],
    5: PHOTO.transpose(1, 0, 2),
    6: np.rot90(PHOTO, -1),
    7: PHOTO.transpose(1, 0, 2)[::-1, ::-1],
    8: np.rot90(PHOTO),
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("format_", ["PNG", "WEBP", "TIFF", "JPEG", "AVIF"])
def test_exif_orientation_is_applied(format_, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    lossless = {"lossless": True} if format_ == "WEBP" else {}
    data = saved(Image.fromarray(PHOTO), format_, exif=exif, **lossless)
    upright = saved(Image.fromarray(PHOTO), format_, **lossless)
    expected = TURNED[orientation]

    photo = show(data)

    if format_ in ("JPEG", "AVIF"):
        # Lossy, but the same loss: turn what is decoded without.
        flat = {k: show(upright) for k in TURNED}
        expected = {
            1: flat[1],
            2: flat[2][:, ::-1],
            3: flat[3][::-1, ::-1],
            4: flat[4][::-1],
            5: flat[5].transpose(1, 0, 2),
            6: np.rot90(flat[6], -1),
            7: flat[7].transpose(1, 0, 2)[::-1, ::-1],
            8: np.rot90(flat[8]),
        }[orientation]
    assert np.array_equal(photo, expected)
    assert photo.flags.c_contiguous
    header = read_header(data, max_pixels=PLENTY)
    assert (header.height, header.width) == photo.shape[:2]
    assert header.pixels == HEIGHT * WIDTH


def test_orientation_behind_a_pngs_pixels_counts():
    exif = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 274, 3, 1, 6, 0, 0)
    data = png(PHOTO, RGB, after=[(b"eXIf", exif)])

    assert np.array_equal(show(data), TURNED[6])
    assert read_header(data, max_pixels=PLENTY) == ImageHeader("PNG", HEIGHT, WIDTH)


@pytest.mark.parametrize("exif", [b"", b"II", b"MM\0*" + b"\xff" * 30, b"II*\0\x08\0\0\0\xff\xff"])
def test_damaged_exif_does_not_cost_the_photo(exif):
    assert np.array_equal(show(png(PHOTO, RGB, before=[(b"eXIf", exif)])), PHOTO)


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_first_frame_of_an_animation(format_):
    frames = [Image.new("RGB", (32, 24), colour) for colour in ("red", "lime", "blue")]
    data = saved(frames[0], format_, save_all=True, append_images=frames[1:])

    photo = show(data)

    assert photo.shape == (24, 32, 3)
    assert close(photo, np.full(photo.shape, (255, 0, 0)), tolerance=4)


# Refusals.


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"P",
        b"hello world",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"%PDF-1.7",
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50),
        b"RIFF\0\0\0\0WAVEfmt " + bytes(50),
        bytes(100),
        saved(Image.new("RGB", (4, 4)), "TGA"),
        saved(Image.new("RGB", (4, 4)), "ICO"),
        saved(Image.new("RGB", (4, 4)), "PPM"),
        saved(Image.new("L", (4, 4)), "PPM"),
    ],
)
def test_other_files_are_of_no_known_format(data):
    with pytest.raises(UnknownFormat, match="known are JPEG, PNG"):
        read_header(data, max_pixels=PLENTY)
    with pytest.raises(UnknownFormat):
        show(data)


def test_every_error_is_an_image_error_and_every_format_is_listed():
    assert issubclass(UnknownFormat, ImageError)
    assert issubclass(BrokenImage, ImageError)
    assert issubclass(TooManyPixels, ImageError)
    assert issubclass(ImageError, ValueError)
    assert set(FORMATS) == {"JPEG", "PNG", "WebP", "BMP", "TIFF", "GIF", "AVIF"}


def test_too_many_pixels():
    data = saved(Image.fromarray(PHOTO), "JPEG")
    pixels = HEIGHT * WIDTH

    assert read_header(data, max_pixels=pixels).pixels == pixels
    assert decode(data, max_pixels=pixels).shape == PHOTO.shape
    for door in (read_header, decode):
        with pytest.raises(TooManyPixels, match="21 x 13 = 273 pixels; at most 272") as refused:
            door(data, max_pixels=pixels - 1)
        error = refused.value
        assert (error.width, error.height, error.limit) == (WIDTH, HEIGHT, pixels - 1)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF"])
def test_our_limit_decides_and_not_pillows(format_, monkeypatch):
    data = saved(Image.new("RGB", (64, 48), "red"), format_)
    # Pillow warns above this and, for the formats that it checks itself, fails above twice this.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000 if format_ == "WEBP" else 1000)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_header(data, max_pixels=PLENTY).pixels == 3072
        assert show(data).shape == (48, 64, 3)


# Damage: an ImageError or the very same picture, and nothing else.

WHOLE_FILES = {
    "baseline": saved(Image.fromarray(smooth_photo()), "JPEG"),
    "progressive": saved(Image.fromarray(smooth_photo()), "JPEG", progressive=True),
    "cmyk": saved(Image.fromarray(smooth_photo()).convert("CMYK"), "JPEG"),
    "png": saved(Image.fromarray(PHOTO), "PNG"),
    "png16": png(samples(3, high=65_536), RGB, 16),
    "palette": saved(Image.fromarray(PHOTO).quantize(16), "PNG", transparency=bytes(range(16))),
    "webp": saved(Image.fromarray(smooth_photo()), "WEBP"),
    "webp-lossless": saved(Image.fromarray(PHOTO), "WEBP", lossless=True),
    "gif": saved(Image.fromarray(PHOTO).quantize(32), "GIF", transparency=3),
    "bmp": saved(Image.fromarray(PHOTO), "BMP"),
    "tiff": saved(Image.fromarray(PHOTO), "TIFF"),
    "tiff16": tiff(samples(3, high=65_536).tobytes(), {258: [16] * 3, 262: [2], 277: [3]}),
    "avif": saved(Image.fromarray(smooth_photo()), "AVIF"),
}


@pytest.mark.parametrize("name", WHOLE_FILES)
def test_an_opened_photo_decodes_what_its_header_says(name):
    data = WHOLE_FILES[name]

    opened = open_photo(data, max_pixels=PLENTY)

    assert opened.header == read_header(data, max_pixels=PLENTY)
    # Once more too: nothing is lost with the first time.
    for _ in range(2):
        photo = opened.decode()
        assert np.array_equal(photo, show(data))
        assert photo.shape[:2] == (opened.header.height, opened.header.width)
        assert photo.flags.writeable
    with pytest.raises(TooManyPixels):
        open_photo(data, max_pixels=opened.header.pixels - 1)


@pytest.mark.parametrize("name", WHOLE_FILES)
def test_truncated_files(name):
    whole = WHOLE_FILES[name]
    expected = show(whole)
    refused = 0
    for length in range(len(whole) - 1, 0, -max(1, len(whole) // 200)):
        try:
            photo = show(whole[:length])
        except ImageError:
            refused += 1
        else:
            # The last bytes may be padding, a checksum or an end marker.
            assert np.array_equal(photo, expected), f"{length} of {len(whole)} bytes"
            assert length > 0.8 * len(whole)
    assert refused > 0


def test_errors_are_one_sentence():
    # Some of Pillow's messages quote the file.
    grey = tiff(b"9" * 300, {258: [8], 262: [1], 277: [1]})
    number, text = struct.pack("<HHII", 259, 4, 1, 1), struct.pack("<HHII", 259, 2, 300, 8)
    quoting = grey.replace(number, text)
    assert quoting != grey
    for data in (b"", WHOLE_FILES["png"][:60], WHOLE_FILES["baseline"][:300], quoting):
        with pytest.raises(ImageError) as refused:
            show(data)
        message = str(refused.value)
        assert message.startswith("The ")
        assert message.endswith(".")
        assert len(message) < 250
        assert "\n" not in message


def test_truncation_is_told():
    data = saved(Image.fromarray(smooth_photo(480, 640)), "JPEG")

    with pytest.raises(BrokenImage, match=r"JPEG file is damaged, cut short or .*not enough"):
        show(data[: len(data) // 2])
    with pytest.raises(BrokenImage, match="TIFF file is cut short"):
        show(WHOLE_FILES["tiff"][:120])


@settings(max_examples=150, deadline=None)
@given(
    start=st.sampled_from(
        [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"MM\0+"]
    ),
    rest=st.binary(max_size=400),
)
def test_arbitrary_bytes_raise_image_errors_only(start, rest):
    for door in (read_header, decode):
        with contextlib.suppress(ImageError):
            door(start + rest, max_pixels=10_000)


@settings(max_examples=400, deadline=None)
@given(
    name=st.sampled_from(sorted(WHOLE_FILES)),
    changes=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=4)), max_size=5),
    at_front=st.booleans(),
)
def test_damaged_files_raise_image_errors_only(name, changes, at_front):
    damaged = bytearray(WHOLE_FILES[name])
    for where, new in changes:
        place = int(where * (min(len(damaged), 200) if at_front else len(damaged)))
        damaged[place : place + len(new)] = new
    for door in (read_header, decode):
        with contextlib.suppress(ImageError):
            door(bytes(damaged), max_pixels=100_000)


def test_many_threads_decode_at_once():
    names = [*WHOLE_FILES] * 4
    expected = {name: show(data) for name, data in WHOLE_FILES.items()}
    together = threading.Barrier(8)

    def work(number):
        if number < 8:
            together.wait(timeout=30)
        return show(WHOLE_FILES[names[number]])

    with ThreadPoolExecutor(8) as pool:
        photos = list(pool.map(work, range(len(names))))

    for name, photo in zip(names, photos, strict=True):
        assert np.array_equal(photo, expected[name]), name


# Sizes.


def test_resize_takes_height_before_width():
    assert resize(PHOTO, (30, 7)).shape == (30, 7, 3)


def test_resize_averages_when_shrinking():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255

    shrunk = resize(stripes, (16, 16))

    # Plain bilinear sampling would pick stripes instead of their mean.
    assert close(shrunk[:, 1:-1], np.full((16, 14, 3), 127), tolerance=2)


def test_resize_to_the_same_size_changes_nothing():
    assert np.array_equal(resize(PHOTO, (HEIGHT, WIDTH)), PHOTO)


def test_resize_takes_views():
    assert np.array_equal(resize(PHOTO[::-1, ::2], (6, 6)), resize(PHOTO[::-1, ::2].copy(), (6, 6)))


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [
        ((360, 480), 1, (360, 480)),
        ((360, 480), 0.25, (90, 120)),
        ((5, 3), 0.5, (3, 2)),
        ((1, 1), 0.25, (1, 1)),
        ((1, 1000), 0.25, (1, 250)),
        ((10, 11), 2, (20, 22)),
    ],
)
def test_scaled_size(size, scale, expected):
    assert scaled_size(*size, scale) == expected


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf")])
def test_scaled_size_refuses_what_is_no_scale(scale):
    with pytest.raises(ValueError, match="scale"):
        scaled_size(10, 10, scale)
