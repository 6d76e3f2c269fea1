"""One contract for every backbone and variant: it trains, saves, loads and serves."""

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from drawn_folder import draw_folder
from PIL import Image

from app.inference.engine import Engine
from app.serve.application import create_app
from app.serve.settings import Settings
from app.train.__main__ import train
from model import load_checkpoint
from model.backbones import BACKBONES
from model.fcn import VARIANTS


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three drawings as a user's own folder."""
    return draw_folder(tmp_path_factory.mktemp("data"), train=2, val=1)


async def serve(checkpoint: Path, photo: bytes) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the label map that a server answers with, and what it says of its model."""
    settings = Settings(checkpoint=checkpoint, device="cpu", precision="fp32", warm_up_sizes=())
    app = create_app(settings)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        asyncio.timeout(60),
    ):
        while (await client.get("/health/ready")).status_code != 200:
            await asyncio.sleep(0.01)
        answer = await client.post("/segment?format=grey", content=photo)
        assert answer.status_code == 200
        model = (await client.get("/model")).json()
    return np.array(Image.open(io.BytesIO(answer.content))), model


NETWORKS = [(backbone, variant, "aligned") for backbone in BACKBONES for variant in VARIANTS]
NETWORKS += [(backbone, "fcn8s", "paper") for backbone in BACKBONES]
NETWORKS += [("caffenet", "fcn32s", "paper")]  # the published FCN-AlexNet


@pytest.mark.parametrize(("backbone", "variant", "alignment"), NETWORKS)
def test_trains_saves_loads_and_serves(
    backbone: str, variant: str, alignment: str, data: Path, tmp_path: Path
) -> None:
    words = ["--dataset", "folder", "--data", data, "--out", tmp_path / "run"]
    words += ["--backbone", backbone, "--variant", variant, "--alignment", alignment]
    words += ["--max-steps", 2, "--batch-size", 2, "--crop", "40x48", "--ema", 0]
    words += ["--device", "cpu", "--precision", "fp32", "--class-weighting", 0]
    if BACKBONES[backbone].has_head:
        words += ["--head-width", 8]
    assert train([str(word) for word in words]) == 0
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert np.isfinite(line["loss"])

    best = tmp_path / "run" / "best.safetensors"
    net, card = load_checkpoint(best)
    layout = card.architecture
    assert (layout.backbone, layout.variant, layout.alignment) == (backbone, variant, alignment)
    for name, tensor in net.state_dict().items():
        assert torch.isfinite(tensor).all(), name
        if name.startswith("score_"):
            assert tensor.abs().max() > 0, f"{name} was not trained"

    # A photo of another size than any that was trained on, through the application as served.
    photo = np.random.default_rng(0).integers(0, 256, (37, 71, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "PNG")
    served, model = asyncio.run(serve(best, buffer.getvalue()))
    assert model["architecture"]["backbone"] == backbone
    alone = Engine.load(best, device="cpu", precision="fp32").segment([photo])[0].label_map
    assert np.array_equal(served, alone)
    assert served.shape == photo.shape[:2]
