"""Image files that want to do harm: bombs, in every format; and whole ones to break."""

import io
import struct
import zlib

from PIL import Image

BOMB_SIDE = 60_000
"""Pixels; 60,000 x 60,000 of them in RGB would take 10.8 GB."""


def save(photo: Image.Image, file_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    photo.save(file, file_format, **options)
    return file.getvalue()


def whole_files(photo: Image.Image) -> dict[str, bytes]:
    """Return a photo in every format that is read, named after the format and its kind."""
    frames = [photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT), photo]
    return {
        "jpeg": save(photo, "JPEG"),
        "progressive-jpeg": save(photo, "JPEG", progressive=True),
        "png": save(photo, "PNG"),
        "palette-png": save(photo.quantize(32), "PNG"),
        "webp": save(photo, "WEBP"),
        "lossless-webp": save(photo, "WEBP", lossless=True),
        "gif": save(photo, "GIF"),
        "animated-gif": save(photo, "GIF", save_all=True, append_images=frames),
        "tiff": save(photo, "TIFF", compression="tiff_deflate"),
        "bmp": save(photo, "BMP"),
        "avif": save(photo, "AVIF"),
    }


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes, *more: bytes) -> bytes:
    """Return a grey PNG; `data` is what its IDAT inflates to, `more` chunks come before."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [
        png_chunk(b"IHDR", header),
        *more,
        png_chunk(b"IDAT", zlib.compress(data, 9)),
        png_chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def announcing_too_much(photo: Image.Image, side: int = BOMB_SIDE) -> dict[str, bytes]:
    """Return a small file of every format whose header announces side x side pixels."""
    files = whole_files(photo)
    width, height = photo.size
    return {
        "jpeg": _overwrite(files["jpeg"], struct.pack(">HH", height, width), ">HH", side),
        "png": png(side, side, bytes(1 + side) * 100),
        "gif": _overwrite(files["gif"], struct.pack("<HH", width, height), "<HH", side),
        # 14 bits each for width and height less one, after the signature 0x2f.
        "webp": files["lossless-webp"][:21] + b"\xff\xff\xff\x0f" + files["lossless-webp"][25:],
        "tiff": _tiff_announcing(files["tiff"], side),
        "bmp": _overwrite(files["bmp"], struct.pack("<ii", width, height), "<ii", side),
        "avif": _overwrite(files["avif"], struct.pack(">II", width, height), ">II", side),
    }


def inflating(photo: Image.Image) -> dict[str, bytes]:
    """Return files that are within the limit on pixels and unpack to much more than that."""
    zeros = bytes(64 << 20)
    packed = zlib.compress(zeros, 9)
    whole = save(photo, "PNG")
    return {
        "data beyond the picture": png(64, 64, zeros),
        "text": png(64, 64, bytes(65) * 64, png_chunk(b"zTXt", b"Comment\0\0" + packed)),
        "profile": png(64, 64, bytes(65) * 64, png_chunk(b"iCCP", b"icc\0\0" + packed)),
        "many texts": png(
            64,
            64,
            bytes(65) * 64,
            png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1 << 20), 9)) * 200,
        ),
        "zeros after the end": whole + bytes(1 << 20),
        "zeros of 4 megapixels": png(2000, 2000, bytes(2001 * 2000)),
        "a thousand frames": save(
            photo,
            "GIF",
            save_all=True,
            append_images=[
                Image.new("RGB", photo.size, (n % 256, n // 256, 0)) for n in range(1000)
            ],
        ),
    }


def _overwrite(file: bytes, old: bytes, form: str, side: int) -> bytes:
    assert old in file
    return file.replace(old, struct.pack(form, side, side))


def _tiff_announcing(file: bytes, side: int) -> bytes:
    """Overwrite tags 256 and 257, ImageWidth and ImageLength (TIFF 6.0, section 3)."""
    assert file[:2] == b"II"
    changed = bytearray(file)
    (directory,) = struct.unpack_from("<I", file, 4)
    (entries,) = struct.unpack_from("<H", file, directory)
    for place in range(directory + 2, directory + 2 + 12 * entries, 12):
        if struct.unpack_from("<H", file, place)[0] in (256, 257):
            struct.pack_into("<HII", changed, place + 2, 4, 1, side)
    return bytes(changed)
