"""Measure what decoding takes on Linux: peak bytes a pixel, by format, each in its own process.

    python docs/decode_memory.py

docs/deployment.md has what came out.
"""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Final

from PIL import Image

from app.inference.decode import decode

SIDE: Final = 2048

PILLOW: Final = {
    "JPEG": ("RGB", "JPEG"),
    "JPEG, CMYK": ("CMYK", "JPEG"),
    "TIFF": ("RGB", "TIFF"),
    "WebP": ("RGB", "WEBP"),
    "PNG": ("RGB", "PNG"),
    "PNG, transparent": ("RGBA", "PNG"),
}
"""(mode, format) by name."""

DEEP: Final = {"PNG, 16 bits": (2, 3), "PNG, 16 bits, transparent": (6, 4)}
"""(colour type, channels) by name: Pillow does not write these."""


def encode(name: str) -> bytes:
    """Return a file of one colour."""
    if name in PILLOW:
        mode, file_format = PILLOW[name]
        buffer = io.BytesIO()
        Image.new(mode, (SIDE, SIDE)).save(buffer, file_format)
        return buffer.getvalue()
    colour_type, channels = DEEP[name]
    pixels = zlib.compress(bytes(SIDE * (1 + SIDE * channels * 2)))
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 16, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def resident_bytes(field: str) -> int:
    """Return the memory this process has, `VmRSS`, or had at most, `VmHWM`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def main() -> None:
    """Print the table; with `decode`, decode what comes on stdin and print what it took."""
    if sys.argv[1:]:
        data = sys.stdin.buffer.read()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = resident_bytes("VmRSS")
        decode(data, max_pixels=SIDE * SIDE)
        print(resident_bytes("VmHWM") - before)
        return
    for name in (*PILLOW, *DEEP):
        command = [sys.executable, __file__, "decode"]
        taken = subprocess.run(command, input=encode(name), stdout=subprocess.PIPE, check=True)
        print(f"{name}: {int(taken.stdout) / SIDE**2:.1f} bytes a pixel")


if __name__ == "__main__":
    main()
