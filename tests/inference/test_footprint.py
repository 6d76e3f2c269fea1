import json
import subprocess
import sys
from itertools import product

import pytest
import torch

from app.inference.footprint import Footprint
from app.inference.network import Extras, prepare
from model import FCN, Architecture

ROOM = 10 * 2**30
SLACK = 120 * 2**20


def footprint(
    classes: int = 11, dtype: torch.dtype = torch.float32, **architecture: object
) -> Footprint:
    with torch.device("meta"):
        net = FCN(Architecture(**{"head_width": 16, **architecture}), classes)
        return Footprint(prepare(net, dtype))


@pytest.fixture(scope="module")
def vgg() -> Footprint:
    return footprint()


def test_it_is_at_least_the_widest_pair_of_feature_maps(vgg: Footprint) -> None:
    pixels = 512 * 512
    pair = 2 * 64 * pixels  # conv1_1's answer and conv1_2's
    for network, size in ((vgg, 4), (footprint(dtype=torch.bfloat16), 2)):
        needed = network.needed_bytes(1, (512, 512), (512, 512))
        assert pair * size < needed < 1.5 * pair * size + SLACK


def test_it_grows_with_the_pixels_of_the_batch(vgg: Footprint) -> None:
    def needed(images: int, side: int) -> int:
        return vgg.needed_bytes(images, (side, side), (side, side))

    step = needed(2, 512) - needed(1, 512)
    assert needed(4, 512) - needed(1, 512) == pytest.approx(3 * step, rel=0.01)
    assert needed(1, 1024) - needed(1, 512) == pytest.approx(3 * step, rel=0.01)


def test_large_masks_of_many_classes_count() -> None:
    many = footprint(classes=150)
    logits = 150 * 4 * 800 * 800
    assert many.needed_bytes(1, (100, 100), (800, 800)) > logits
    assert many.needed_bytes(1, (100, 100), (800, 800), Extras(scores=True)) < 2 * logits


@pytest.mark.parametrize("alignment", ["aligned", "paper"])
def test_what_is_said_to_fit_without_counting_fits(alignment: str) -> None:
    network = footprint(alignment=alignment)
    for (height, width), mask in product(((1, 1), (1, 3000), (70, 50), (300, 200)), (1, 2)):
        mask_size = (mask * height, mask * width)
        needed = network.needed_bytes(2, (height, width), mask_size)
        assert network.fits(needed, 2, (height, width), mask_size)
        assert not network.fits(needed - 1, 2, (height, width), mask_size)


def test_the_largest_scale_is_the_largest(vgg: Footprint) -> None:
    photo = (900, 700)
    free = vgg.needed_bytes(1, (450, 350), photo)
    scale = vgg.largest_scale(free, photo, 1.0)
    assert scale == pytest.approx(0.5, abs=0.01)
    assert vgg.largest_scale(ROOM, photo, 0.75) == 0.75
    assert vgg.largest_scale(2**20, photo, 1.0) is None


PEAK = """
import ctypes, gc, json, sys
import torch
from app.inference.footprint import Footprint
from app.inference.network import Extras, label, prepare
from model import FCN, Architecture

def status(key):
    for line in open("/proc/self/status"):
        if line.startswith(key):
            return int(line.split()[1]) * 1024

torch.set_num_threads(1)
backbone, classes, height, width, scores, probabilities = json.loads(sys.argv[1])
extras = Extras(scores=scores, probabilities=tuple(range(probabilities)))
head_width = None if backbone == "googlenet" else 16
net = prepare(FCN(Architecture(backbone=backbone, head_width=head_width), classes), torch.float32)
needed = Footprint(net).needed_bytes(1, (height, width), (height, width), extras)
with torch.inference_mode():
    def run(height, width):
        batch = torch.zeros(1, height, width, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
        label(net, batch, None, extras=extras)
    run(64, 64)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = status("VmRSS")
    open("/proc/self/clear_refs", "w").write("5")  # VmHWM starts again
    run(height, width)
print(json.dumps([needed, status("VmHWM") - before]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("backbone", "classes", "scores", "probabilities"),
    [
        ("alexnet", 150, True, 0),
        pytest.param("alexnet", 100, False, 100, marks=pytest.mark.slow),
        pytest.param("googlenet", 21, False, 0, marks=pytest.mark.slow),
        pytest.param("vgg16_bn", 11, False, 0, marks=pytest.mark.slow),
    ],
)
def test_resident_memory_stays_below_it_and_not_far(
    backbone: str, classes: int, scores: bool, probabilities: int
) -> None:
    case = json.dumps([backbone, classes, 480, 640, scores, probabilities])
    run = subprocess.run(
        [sys.executable, "-c", PEAK, case], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    needed, grown = json.loads(run.stdout)
    assert grown <= needed
    assert needed - SLACK <= 1.5 * grown
