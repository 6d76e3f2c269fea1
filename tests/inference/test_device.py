import os
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

from app.inference import device as module
from app.inference.device import (
    bound_shape_caches,
    choose_compute,
    processor_threads,
    take_share_of_threads,
    usual_lanes,
)


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def give_cuda(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Test GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({"avx2": True}, "fp32")],
)
def test_cpu_takes_bf16_only_where_the_hardware_has_it(
    no_cuda: None, monkeypatch: pytest.MonkeyPatch, capabilities: dict, precision: str
) -> None:
    monkeypatch.setattr(module.torch, "cpu", SimpleNamespace(get_capabilities=lambda: capabilities))
    compute = choose_compute()
    assert (compute.device.type, compute.precision) == ("cpu", precision)
    assert "no CUDA device" in compute.reason
    assert "bf16" in compute.reason


def test_a_torch_that_cannot_tell_gets_fp32(no_cuda: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.torch, "cpu", SimpleNamespace())
    assert choose_compute().precision == "fp32"


@pytest.mark.parametrize(("capability", "precision"), [((9, 0), "bf16"), ((7, 5), "fp32")])
def test_cuda_is_taken_if_there_is_one(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], precision: str
) -> None:
    give_cuda(monkeypatch, capability)
    compute = choose_compute()
    assert (compute.device.type, compute.precision) == ("cuda", precision)
    assert "Test GPU" in compute.reason


def test_what_is_asked_for_is_taken(no_cuda: None) -> None:
    compute = choose_compute("cpu", "bf16")
    assert compute.dtype == torch.bfloat16
    assert compute.reason == "cpu: as asked; bf16: as asked"


@pytest.mark.parametrize(
    ("name", "message"),
    [("tpu", "unknown device 'tpu'"), ("meta", "unknown device"), ("cuda", "0 CUDA devices")],
)
def test_a_device_that_is_not_there_is_refused(no_cuda: None, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose_compute(name)


def test_the_second_of_one_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    give_cuda(monkeypatch, (9, 0))
    with pytest.raises(ValueError, match="'cuda:1' does not exist: 1 CUDA"):
        choose_compute("cuda:1")


def test_an_unknown_precision_is_refused(no_cuda: None) -> None:
    with pytest.raises(ValueError, match="fp32, bf16, fp16"):
        choose_compute("cpu", "fp8")


def test_bounds_that_are_set_already_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")
    monkeypatch.delenv("TORCH_CUDNN_V8_API_LRU_CACHE_LIMIT", raising=False)
    bound_shape_caches()
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "7"
    assert int(os.environ["TORCH_CUDNN_V8_API_LRU_CACHE_LIMIT"]) < 10_000


@pytest.mark.parametrize(
    ("threads", "lanes"), [(1, 1), (2, 2), (3, 3), (4, 2), (8, 2), (12, 3), (32, 8), (192, 8)]
)
def test_several_forwards_are_run_where_there_are_several_threads(threads: int, lanes: int) -> None:
    assert usual_lanes(threads) == lanes


@pytest.mark.parametrize("threads", range(1, 65))
def test_forwards_side_by_side_never_have_more_threads_than_there_are(
    monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    taken: list[int] = []
    monkeypatch.setattr("app.inference.device.processor_threads", lambda: threads)
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    lanes = usual_lanes(threads)
    for _ in range(lanes):
        take_share_of_threads(1 / lanes)
    assert threads - lanes < sum(taken) <= threads


def test_a_thread_takes_its_share_and_leaves_others_theirs() -> None:
    before = torch.get_num_threads()
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        one.submit(take_share_of_threads, 1.0).result()
        other.submit(take_share_of_threads, 1e-9).result()
        assert other.submit(torch.get_num_threads).result() == 1
        assert one.submit(torch.get_num_threads).result() == processor_threads()
    assert torch.get_num_threads() == before
