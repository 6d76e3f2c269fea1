import dataclasses
import hashlib
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from app.inference import engine as engine_module
from app.inference.batch_caps import BatchCaps, Cap
from app.inference.decode import resize, scaled_size
from app.inference.device import take_share_of_threads
from app.inference.engine import Engine
from app.inference.network import Extras, fold_batch_norms
from app.inference.room import PhotoDoesNotFitError
from model import FCN, Architecture, Card, named_classes, save_checkpoint

ARCHITECTURE = Architecture(head_width=16, head_norm=True)
CARD = Card("random", ARCHITECTURE, named_classes(["a", "b", "c"]))


@pytest.fixture(scope="module")
def net() -> FCN:
    """A network whose norms have seen data and whose masks have several classes."""
    torch.manual_seed(0)
    net = FCN(ARCHITECTURE, 3)
    for layer in (net.score_fc7, net.score_pool4, net.score_pool3):
        nn.init.normal_(layer.weight, std=0.1)
    with torch.no_grad():
        net.train()(torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8))
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.1)
        # Whatever the weights: no class wins everywhere.
        net.eval()
        net.score_fc7.bias -= logits_of(net, photo(96, 96)).mean(dim=(0, 2, 3))
    return net


def engine(net: FCN, precision: str = "fp32", device: str = "cpu") -> Engine:
    return Engine(net, CARD, "0" * 64, device=device, precision=precision)


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Blocks of random colours: more like a photo than noise, with edges and areas."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (-(-height // 8), -(-width // 8), 3), np.uint8)
    return np.kron(blocks, np.ones((8, 8, 1), np.uint8))[:height, :width].copy()


@torch.no_grad()
def logits_of(net: FCN, image: np.ndarray) -> torch.Tensor:
    return net(torch.from_numpy(image).permute(2, 0, 1)[None])


@torch.no_grad()
def test_folding_keeps_the_numbers_and_leaves_no_norm(net: FCN) -> None:
    folded = fold_batch_norms(net)
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    image = photo(70, 90)
    expected = logits_of(net, image)
    assert expected.std() > 0.01
    assert torch.allclose(logits_of(folded, image), expected, rtol=1e-3, atol=1e-4)


def test_label_map_is_the_best_class_of_every_pixel(net: FCN) -> None:
    image = photo(45, 61)
    expected = logits_of(net, image).argmax(1)[0].numpy()
    (segmentation,) = engine(net).segment([image])
    assert segmentation.label_map.dtype == np.uint8
    assert len(np.unique(expected)) > 1
    assert np.mean(segmentation.label_map == expected) >= 0.999
    assert segmentation.scores is None


def test_a_batch_gives_what_its_photos_give_alone(net: FCN) -> None:
    ready = engine(net)
    photos = [photo(40, 56, seed) for seed in range(5)]
    for image, together in zip(photos, ready.segment(photos), strict=True):
        assert np.mean(ready.segment([image])[0].label_map == together.label_map) >= 0.9999


def test_bf16_keeps_the_mask(net: FCN) -> None:
    image = photo(96, 128)
    exact = engine(net).segment([image])[0].label_map
    assert np.mean(engine(net, "bf16").segment([image])[0].label_map == exact) >= 0.98


def test_a_mask_of_another_size_comes_from_interpolated_logits(net: FCN) -> None:
    image = photo(40, 56)
    logits = F.interpolate(logits_of(net, image), (80, 100), mode="bilinear", align_corners=False)
    (segmentation,) = engine(net).segment([image], size=(80, 100))
    assert segmentation.label_map.shape == (80, 100)
    assert np.mean(segmentation.label_map == logits.argmax(1)[0].numpy()) >= 0.999


def test_scores_are_mean_probabilities_over_each_classs_own_pixels(net: FCN) -> None:
    photos = [photo(40, 56, seed) for seed in (1, 2)]
    for image, segmentation in zip(
        photos, engine(net).segment(photos, extras=Extras(scores=True)), strict=True
    ):
        probability, labels = logits_of(net, image).softmax(1).max(1)
        assert segmentation.scores is not None
        for index in range(3):
            own = probability[labels == index]
            if len(own):
                assert segmentation.scores[index] == pytest.approx(own.mean().item(), abs=1e-3)
            else:
                assert np.isnan(segmentation.scores[index])


def test_the_temperature_changes_scores_and_no_mask(net: FCN) -> None:
    image = photo(40, 56)
    warm = Engine(
        net,
        dataclasses.replace(CARD, temperature=2.5),
        "0" * 64,
        device="cpu",
        precision="fp32",
    )
    (plain,) = engine(net).segment([image], extras=Extras(scores=True))
    (found,) = warm.segment([image], extras=Extras(scores=True))
    assert np.array_equal(found.label_map, plain.label_map)
    assert found.scores is not None
    assert plain.scores is not None
    probability, labels = (logits_of(net, image) / 2.5).softmax(1).max(1)
    for index in np.unique(plain.label_map).tolist():
        own = probability[labels == index].mean().item()
        assert found.scores[index] == pytest.approx(own, abs=1e-3)
        assert found.scores[index] < plain.scores[index]
    views = {"scales": (0.5, 1.5), "flip": True}
    assert np.array_equal(
        warm.segment_views(image, **views), engine(net).segment_views(image, **views)
    )


def test_logits_are_the_networks_own(net: FCN) -> None:
    image = photo(45, 61)
    card = dataclasses.replace(CARD, temperature=2.5)
    logits = Engine(net, card, "0" * 64, device="cpu", precision="fp32").logits(image)
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, logits_of(net, image)[0], rtol=1e-3, atol=1e-4)


def test_a_photo_is_seen_at_the_checkpoints_scale(net: FCN) -> None:
    image = photo(45, 61)
    card = dataclasses.replace(CARD, scale=0.5)
    half = Engine(net, card, "0" * 64, device="cpu", precision="fp32")
    seen = logits_of(net, resize(image, (23, 31)))
    expected = F.interpolate(seen, (45, 61), mode="bilinear", align_corners=False)[0]
    assert torch.allclose(half.logits(image), expected, rtol=1e-3, atol=1e-4)
    assert np.array_equal(
        half.segment_views(image), engine(net).segment_views(image, scales=(0.5,))
    )


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_single_view_gives_the_label_map_of_segment(net: FCN, scale: float) -> None:
    image = photo(45, 61)
    seen = resize(image, scaled_size(45, 61, scale))
    expected = engine(net).segment([seen], size=(45, 61))[0].label_map
    found = engine(net).segment_views(image, scales=(scale,))
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected)


def test_views_are_averaged_as_probabilities_at_the_photos_size(net: FCN) -> None:
    image = photo(45, 61)
    mean = torch.zeros(1, 3, 45, 61)
    for scale in (0.5, 1.5):
        seen = resize(image, scaled_size(45, 61, scale))
        mirrored = np.ascontiguousarray(seen[:, ::-1])
        for logits in (logits_of(net, seen), logits_of(net, mirrored).flip(3)):
            logits = F.interpolate(logits, (45, 61), mode="bilinear", align_corners=False)
            mean += logits.softmax(1) / 4
    expected = mean.argmax(1)[0].numpy()
    found = engine(net).segment_views(image, scales=(0.5, 1.5), flip=True)
    assert found.dtype == np.uint8
    assert np.mean(found == expected) >= 0.999
    for scales, flip in (((0.5, 1.5), False), ((0.5,), True), ((1.0,), False)):
        assert np.mean(engine(net).segment_views(image, scales=scales, flip=flip) != expected) > 0


def test_with_flip_a_mirrored_photo_has_the_mirrored_mask(net: FCN) -> None:
    image = photo(45, 61)
    mask = engine(net).segment_views(image, flip=True)
    mirrored = engine(net).segment_views(np.ascontiguousarray(image[:, ::-1]), flip=True)
    assert np.mean(mirrored[:, ::-1] == mask) >= 0.999
    plain = engine(net).segment_views(np.ascontiguousarray(image[:, ::-1]))
    assert np.mean(plain[:, ::-1] == engine(net).segment_views(image)) < 0.999


def test_views_need_a_scale(net: FCN) -> None:
    with pytest.raises(ValueError, match="no scale"):
        engine(net).segment_views(photo(8, 8), scales=())


def test_load_takes_the_files_hash_as_version(net: FCN, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, net, CARD)
    loaded = Engine.load(path, device="cpu", precision="fp32")
    assert loaded.version == hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.card == CARD
    loaded.warm_up([(16, 16)])


@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (33, 2)])
def test_smallest_photos_have_masks(net: FCN, shape: tuple[int, int]) -> None:
    assert engine(net).segment([photo(*shape)])[0].label_map.shape == shape


def test_segmenting_is_uploading_and_segmenting_the_batch(net: FCN) -> None:
    ready = engine(net)
    photos = [photo(40, 56, seed) for seed in (1, 2)]
    batch = ready.upload(photos)
    assert batch.shape == (2, 3, 40, 56)
    assert np.array_equal(batch.numpy(), np.stack(photos).transpose(0, 3, 1, 2))
    found = ready.segment_batch(batch, size=(20, 28), extras=Extras(scores=True))
    for one, other in zip(
        found, ready.segment(photos, size=(20, 28), extras=Extras(scores=True)), strict=True
    ):
        assert np.array_equal(one.label_map, other.label_map)
        assert one.scores is not None
        assert other.scores is not None
        assert np.array_equal(one.scores, other.scores, equal_nan=True)


def test_a_photo_alone_is_not_copied_on_the_cpu_unless_it_must_be(
    net: FCN, recwarn: pytest.WarningsRecorder
) -> None:
    ready, image = engine(net), photo(40, 56)
    mask = ready.segment([image.copy()])[0].label_map
    assert ready.upload([image]).data_ptr() == image.ctypes.data
    read_only = image.copy()
    read_only.setflags(write=False)  # which torch has no tensors for
    mirrored = image[:, ::-1].copy()[:, ::-1]  # which has strides that torch has not
    for other in (read_only, mirrored):
        batch = ready.upload([other])
        assert batch.data_ptr() != other.ctypes.data
        assert np.array_equal(ready.segment_batch(batch)[0].label_map, mask)
    assert np.array_equal(ready.segment([image])[0].label_map, mask)
    # NumPy calls a mirrored column contiguous, and torch has no negative strides.
    column = photo(40, 1)
    assert np.array_equal(
        ready.segment([column[:, ::-1]])[0].label_map, ready.segment([column])[0].label_map
    )
    assert not recwarn.list


def test_forwards_side_by_side_give_the_masks_that_they_give_alone(net: FCN) -> None:
    ready = engine(net)
    photos = [photo(72, 104, seed) for seed in range(6)]
    alone = [ready.segment([one])[0].label_map for one in photos]
    with side_by_side(3) as pool:
        together = list(pool.map(lambda one: ready.segment([one])[0].label_map, photos))
    for one, other in zip(alone, together, strict=True):
        assert np.mean(one == other) >= 0.99999


def side_by_side(lanes: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(lanes, initializer=take_share_of_threads, initargs=(1 / lanes,))


def give_memory(monkeypatch: pytest.MonkeyPatch, free: int | None) -> None:
    monkeypatch.setattr("app.inference.room.available_bytes", lambda: free)


FREE = 180 * 2**20
"""Enough for about 370 x 370 pixels of this network in fp32."""


def test_a_photo_without_room_is_refused_with_the_size_and_scale_that_fit(
    net: FCN, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = engine(net)
    give_memory(monkeypatch, FREE)
    with pytest.raises(PhotoDoesNotFitError) as refusal:
        ready.segment([photo(600, 800)])
    words = re.fullmatch(
        r"There is too little memory: the network would see this photo at 800 x 600 pixels, and "
        r"(\d+) x (\d+) is the most that fits at present\. Send it at that size, or ask for "
        r"`scale=(0\.\d+)`\.",
        str(refusal.value),
    )
    assert words is not None
    scale = float(words[3])
    height, width = scaled_size(600, 800, scale)
    assert (int(words[1]), int(words[2])) == (width, height)
    assert 0.2 < scale < 0.8
    # Both ways that are offered do fit.
    assert ready.segment([photo(height, width)])[0].label_map.shape == (height, width)
    (found,) = ready.segment([photo(height, width)], size=(600, 800))
    assert found.label_map.shape == (600, 800)


def test_a_photo_that_fits_at_no_scale_is_refused_with_that(
    net: FCN, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_memory(monkeypatch, 2**20)
    with pytest.raises(PhotoDoesNotFitError, match=r"at no scale it fits\. Send a smaller one\."):
        engine(net).segment([photo(40, 56)])


def test_a_batch_without_room_runs_out_of_memory_and_its_photos_do_not(
    net: FCN, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = engine(net)
    photos = [photo(200, 200, seed) for seed in range(8)]
    give_memory(monkeypatch, FREE)
    with pytest.raises(torch.OutOfMemoryError, match="too little for 8 photos of 200 x 200"):
        ready.segment(photos)
    assert len(ready.segment(photos[:1])) == 1


@pytest.mark.parametrize(("free", "most"), [(FREE, 1), (20 * FREE, 3)])
def test_forwards_without_room_for_all_wait_for_each_other(
    net: FCN, monkeypatch: pytest.MonkeyPatch, free: int, most: int
) -> None:
    ready = engine(net)
    give_memory(monkeypatch, free)
    at_work = []
    seen = []
    label = engine_module.label

    def watched(*args: Any, **kwargs: Any) -> Any:
        at_work.append(1)
        time.sleep(0.2)
        seen.append(len(at_work))
        try:
            return label(*args, **kwargs)
        finally:
            at_work.pop()

    monkeypatch.setattr(engine_module, "label", watched)
    with side_by_side(3) as pool:
        results = list(pool.map(lambda _: ready.segment([photo(300, 300)]), range(3)))
    assert [len(result) for result in results] == [1, 1, 1]
    assert max(seen) == most


def test_where_memory_is_unknown_nothing_is_refused(
    net: FCN, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_memory(monkeypatch, None)
    assert len(engine(net).segment([photo(40, 56)])) == 1


def test_an_allocation_that_fails_is_the_photos_fault(
    net: FCN, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = engine(net)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate")

    monkeypatch.setattr("app.inference.engine.label", fail)
    with pytest.raises(PhotoDoesNotFitError):
        ready.segment([photo(40, 56)])
    with pytest.raises(torch.OutOfMemoryError):
        ready.segment([photo(40, 56)] * 2)


def test_other_errors_stay_what_they_are(net: FCN, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = engine(net)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr("app.inference.engine.label", fail)
    with pytest.raises(RuntimeError, match="shapes differ"):
        ready.segment([photo(40, 56)])


@pytest.mark.parametrize("options", [{"flip": True}, {"scales": (0.1, 1.0)}])
def test_views_without_room_are_refused(
    net: FCN, monkeypatch: pytest.MonkeyPatch, options: dict[str, object]
) -> None:
    ready = engine(net)
    give_memory(monkeypatch, FREE)
    with pytest.raises(PhotoDoesNotFitError, match="see this photo at 800 x 600 pixels"):
        ready.segment_views(photo(600, 800), **options)
    assert ready.segment_views(photo(60, 80), **options).shape == (60, 80)


def test_logits_without_room_are_refused(net: FCN, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = engine(net)
    give_memory(monkeypatch, FREE)
    with pytest.raises(PhotoDoesNotFitError, match="see this photo at 800 x 600 pixels"):
        ready.logits(photo(600, 800))
    assert ready.logits(photo(60, 80)).shape == (3, 60, 80)


def test_an_allocation_for_a_view_that_fails_is_the_photos_fault(
    net: FCN, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = engine(net)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate")

    monkeypatch.setattr("app.inference.engine.logits_of", fail)
    with pytest.raises(PhotoDoesNotFitError):
        ready.segment_views(photo(40, 56), flip=True)
    with pytest.raises(PhotoDoesNotFitError):
        ready.logits(photo(40, 56))


def test_warming_up_leaves_out_what_does_not_fit(
    net: FCN, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ready = engine(net)
    give_memory(monkeypatch, FREE)
    ready.warm_up([(600, 800), (40, 56)])
    assert "no memory to warm up with 800 x 600 pixels" in caplog.text


def test_caps_are_a_rule_until_they_are_measured(
    net: FCN, caplog: pytest.LogCaptureFixture
) -> None:
    ready = engine(net)
    assert ready.caps.images(360 * 480) == 1
    assert ready.caps.images(96 * 96) > 2
    with caplog.at_level("INFO"):
        ready.measure_caps(most_images=2, most_pixels=2 * 96 * 96)
    assert ready.caps.images(1) in (1, 2)
    assert ready.caps.images(160 * 160) == 1
    assert "photos in a batch, by measuring: " in caplog.text


def test_caps_are_adopted_from_an_engine_that_is_as_fast(net: FCN) -> None:
    serving, other = engine(net), engine(net)
    serving.caps = BatchCaps([Cap(100, 7)], beyond=700)
    assert other.adopt_caps(serving)
    assert other.caps.images(100) == 7
    slower = engine(net, "bf16")
    assert not slower.adopt_caps(serving)
    assert slower.caps.images(100) != 7


@pytest.mark.cuda
@pytest.mark.parametrize(("precision", "share"), [("fp32", 0.9999), ("bf16", 0.98)])
def test_cuda_gives_the_masks_of_the_cpu(net: FCN, precision: str, share: float) -> None:
    image = photo(180, 240)
    expected = engine(net).segment([image])[0].label_map
    found = engine(net, precision, "cuda").segment([image])[0].label_map
    assert np.mean(found == expected) >= share


@pytest.mark.cuda
def test_cuda_uploads_while_another_batch_runs(net: FCN) -> None:
    ready = engine(net, device="cuda")
    photos = [photo(180, 240, seed) for seed in range(8)]
    alone = [ready.segment([image])[0].label_map for image in photos]
    with ThreadPoolExecutor(1) as uploader:
        uploads = [uploader.submit(ready.upload, [image]) for image in photos]
        for upload, expected in zip(uploads, alone, strict=True):
            (found,) = ready.segment_batch(upload.result())
            assert np.array_equal(found.label_map, expected)


@pytest.mark.cuda
def test_a_photo_too_large_for_the_gpu_is_refused_with_a_scale(net: FCN) -> None:
    ready = engine(net, device="cuda")
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(2**30 / total)
    try:
        with pytest.raises(PhotoDoesNotFitError, match=r"ask for `scale=0\.\d+`"):
            ready.segment([photo(2000, 2000)])
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert ready.segment([photo(2000, 2000)])[0].label_map.shape == (2000, 2000)
