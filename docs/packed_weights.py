"""How much faster forwards are with packed weights, on the CPU, the two kinds in turns.

python docs/packed_weights.py [--precision bf16]
"""

import argparse
import statistics
import time

import torch

from app.inference.device import DTYPES, choose_compute
from app.inference.network import prepare
from app.inference.packed import pack_convolutions
from app.paths import DEFAULT_CHECKPOINT
from model import FCN, load_versioned

SIZES = [(1, 96, 96), (4, 96, 96), (1, 180, 240), (1, 360, 480), (1, 960, 1280)]
"""Photos, height, width."""

TURNS = 15


def seconds(net: FCN, photos: torch.Tensor) -> float:
    """Return how long a forward takes."""
    began = time.perf_counter()
    net(photos)
    return time.perf_counter() - began


@torch.inference_mode()
def main() -> None:
    """Print a ratio for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precision", choices=["auto", *DTYPES], default="auto")
    compute = choose_compute("cpu", parser.parse_args().precision)
    net, _, _ = load_versioned(DEFAULT_CHECKPOINT)
    plain, packed = prepare(net, compute.dtype), prepare(net, compute.dtype)
    pack_convolutions(packed)
    for images, height, width in SIZES:
        photos = torch.randint(0, 256, (images, 3, height, width), dtype=torch.uint8)
        photos = photos.contiguous(memory_format=torch.channels_last)
        plain(photos), packed(photos)
        ratios = [seconds(plain, photos) / seconds(packed, photos) for _ in range(TURNS)]
        print(f"{images} of {width}x{height}: {statistics.median(ratios):.2f} times as fast")


if __name__ == "__main__":
    main()
