"""Which device and which number format: CUDA if there is one, bf16 where the hardware has it."""

import functools
import math
import os
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import torch

from app.inference.processors import usable_processors

DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


_CACHE_BOUNDS: Final = {
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
    "LRU_CACHE_CAPACITY": "128",
    "TORCH_CUDNN_V8_API_LRU_CACHE_LIMIT": "2000",
}
"""What kernel libraries prepare for a shape of input they keep: oneDNN and ideep (torch's layer
over it) up to 1,024 entries, cuDNN up to 10,000. VGG16 takes about 20 a shape. With 128 instead of
1,024, 500 sizes take 30 MB less and no more time. A plan of cuDNN's takes about 200 KiB (torch's
documentation)."""


_MOST_LANES: Final = 8
"""Forwards side by side: each has its own feature maps."""

_ROUNDING: Final = 1e-6
"""More than a share's error as a floating-point number: a third of three threads is one."""


class Compute(NamedTuple):
    """Where and how to compute, and why.

    Attributes:
        device: `cpu` or a CUDA device.
        precision: `fp32`, `bf16` or `fp16`, a key of `DTYPES`.
        reason: One phrase for the log.
    """

    device: torch.device
    precision: str
    reason: str

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the convolutions."""
        return DTYPES[self.precision]


def bound_shape_caches() -> None:
    """Bound what the kernel libraries keep for every shape of input they meet.

    They look at these environment variables when the first convolution runs, so it must be called
    before. Values that are set already are kept.
    """
    for name, bound in _CACHE_BOUNDS.items():
        os.environ.setdefault(name, bound)


@functools.cache
def processor_threads() -> int:
    """Threads on which torch computes: its own choice, but no more than can run at a time.

    Its own choice is `OMP_NUM_THREADS`, or one for each core; it knows nothing of the limits of
    containers. Sets them for the whole process when asked first, which must be before any thread
    takes a share of them.
    """
    threads = min(torch.get_num_threads(), usable_processors())
    torch.set_num_threads(threads)
    return threads


def usual_lanes(threads: int) -> int:
    """How many forwards are worth running side by side on so many threads of a processor.

    Threads of one forward wait for each other after every layer, and the more of them there are,
    the longer. On two cores two forwards of one thread each were measured to be faster than one of
    two (docs/performance.md). Four threads each on more is a choice, not a measurement: each
    forward has its own feature maps, and a lone one beside it should not take too long. Three
    threads make three: they cannot be halved.
    """
    return threads if threads <= 3 else min(max(2, threads // 4), _MOST_LANES)


def take_share_of_threads(share: float) -> None:
    """Let what the calling thread computes run on a share of `processor_threads`, at least one.

    Rounded down: more threads than processors wait for one another in the middle of a layer.

    Args:
        share: Above 0 to 1.
    """
    # A thread that has not been asked yet would, when it computes first, take whatever number any
    # other thread has set last (`lazy_init_num_threads` in ATen).
    torch.get_num_threads()
    torch.set_num_threads(max(1, math.floor(share * processor_threads() + _ROUNDING)))


def choose_compute(device: str = "auto", precision: str = "auto") -> Compute:
    """Resolve what a user asked for, and prepare this process for it.

    Threads are bounded (`processor_threads`), and fp32 on CUDA switches TF32 off.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: `auto`, `fp32`, `bf16` or `fp16`.

    Raises:
        ValueError: If the device does not exist here, or the precision is unknown.
    """
    processor_threads()
    chosen, device_reason = _choose_device(device)
    if precision == "auto":
        precision, precision_reason = _fast_precision(chosen)
    elif precision in DTYPES:
        precision_reason = "as asked"
    else:
        raise ValueError(f"unknown precision {precision!r}; known: auto, {', '.join(DTYPES)}")
    if chosen.type == "cuda" and precision == "fp32":
        # TF32, torch's default for convolutions, keeps 10 of fp32's 23 bits.
        # These switches and not `fp32_precision`: once that is set for one operator, torch's own
        # exporters, which still ask for these, end in an error.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        precision_reason += ", TF32 off"
    return Compute(chosen, precision, f"{chosen}: {device_reason}; {precision}: {precision_reason}")


def _choose_device(name: str) -> tuple[torch.device, str]:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda"), torch.cuda.get_device_name()
        return torch.device("cpu"), "no CUDA device"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"unknown device {name!r}; known: auto, cpu, cuda, cuda:N")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise ValueError(f"device {name!r} does not exist: {count} CUDA devices are visible")
    return device, "as asked"


def _fast_precision(device: torch.device) -> tuple[str, str]:
    """Return bf16 where the hardware multiplies it natively, else fp32.

    Emulated bf16 is slower than fp32 and rounds more, so the mere ability to run it (which
    `torch.cuda.is_bf16_supported()` reports by default, and every CPU has) is not enough.
    """
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        if major >= 8:
            return "bf16", f"compute capability {major}.{minor}"
        return "fp32", f"compute capability {major}.{minor} has no bf16"
    # Not in every torch release that is supported here.
    query: Callable[[], Mapping[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    capabilities = query()
    for feature in ("amx_bf16", "avx512_bf16", "sve_bf16", "bf16"):
        if capabilities.get(feature):
            return "bf16", f"the processor has {feature}"
    return "fp32", "the processor has no bf16"
