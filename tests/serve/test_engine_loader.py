import pytest
import torch

from app.serve.service import lanes_of, load_engine
from app.serve.settings import Settings
from model import FCN, Architecture, Card, named_classes, save_checkpoint

CLASSES = named_classes(["sky", "road"])


def settings(path, **changes):
    few = {"batch_images": 2, "batch_pixels": 2 * 96 * 96, "warm_up_sizes": "64x48"}
    return Settings(checkpoint=path, device="cpu", precision="fp32", **{**few, **changes})


def checkpoint(path, **changes):
    architecture = Architecture(**{"backbone": "alexnet", "head_width": 8, **changes})
    torch.manual_seed(0)
    net = FCN(architecture, len(CLASSES))
    save_checkpoint(path, net, Card("x", architecture, CLASSES), dtype=torch.bfloat16)
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("checkpoint") / "x.safetensors")


def test_caps_are_measured_within_the_settings_once_for_equal_networks(path, caplog):
    caplog.set_level("INFO")
    first = load_engine(settings(path))
    assert 1 <= first.caps.images(96 * 96) <= 2
    assert first.caps.images(97 * 97) == 1
    second = load_engine(settings(path), first)
    assert second.caps is first.caps
    assert caplog.text.count("photos in a batch, by measuring") == 1


def test_another_architecture_is_measured_for_itself(path, tmp_path):
    first = load_engine(settings(path))
    second = load_engine(settings(checkpoint(tmp_path / "y.safetensors", variant="fcn32s")), first)
    assert second.caps is not first.caps


def test_without_warm_up_nothing_is_measured(path, caplog):
    caplog.set_level("INFO")
    engine = load_engine(settings(path, warm_up_sizes=""))
    assert engine.caps.images(96 * 96) > 2
    assert "measuring" not in caplog.text


def test_an_engine_that_does_not_serve_lends_no_caps(path):
    gone = load_engine(settings(path)).caps
    assert load_engine(settings(path)).caps is not gone


def test_no_more_forwards_run_at_a_time_than_the_settings_and_the_device_allow(path, monkeypatch):
    engine = load_engine(settings(path))
    monkeypatch.setattr("app.inference.engine.processor_threads", lambda: 16)
    assert lanes_of(settings(path), engine) == 4
    assert lanes_of(settings(path, lanes=3), engine) == 3
    assert lanes_of(settings(path, lanes=99), engine) == 16
    engine.device = torch.device("cuda")
    assert lanes_of(settings(path, lanes=99), engine) == 1


def test_measuring_leaves_the_thread_its_cores(path):
    before = torch.get_num_threads()
    load_engine(settings(path, lanes=2))
    assert torch.get_num_threads() == before
