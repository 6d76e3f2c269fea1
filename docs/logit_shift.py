"""Ask a checkpoint what milder class weights would have made of it, without training again.

    python docs/logit_shift.py CAMVID CHECKPOINT [LEFT_OUT]

Weights w push a network's logits towards rare classes by about log(w). Taking a share of that away
again (logit adjustment, Menon et al. 2021) shows what the weights cost. Measured on val, and on the
training photos whose names begin with LEFT_OUT, which the checkpoint has not seen.
docs/training.md has what came out.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from app.inference.engine import Engine
from app.train.datasets import LabelledImages, class_pixels, open_dataset
from app.train.loss import balanced_weights
from app.train.metrics import ConfusionMatrix
from app.train.subset import leave_out

CONSTANT = 1.02
"""c of the weights 1 / ln(c + frequency) that are taken away."""

SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def measure(engine: Engine, dataset: LabelledImages, shift: torch.Tensor) -> list[ConfusionMatrix]:
    """Return a confusion matrix for each of `SHARES` of a shift, C values."""
    matrices = [ConfusionMatrix(len(shift)) for _ in SHARES]
    for index in range(len(dataset)):
        logits = engine.logits(dataset.photo(index)).cpu()
        for share, matrix in zip(SHARES, matrices, strict=True):
            label_map = (logits - share * shift[:, None, None]).argmax(0)
            matrix.update(dataset.label(index), label_map.to(torch.uint8).numpy())
    return matrices


def main(words: Sequence[str]) -> None:
    """Print mean IU and pixel accuracy by share."""
    camvid, checkpoint, *left_out = words
    engine = Engine.load(Path(checkpoint))
    if "logit_shift" in engine.card.training:
        sys.exit(f"{checkpoint}: part of the shift is taken away already (--logit-adjustment)")
    train = open_dataset("camvid", Path(camvid), "train")
    judged = {"val": open_dataset("camvid", Path(camvid), "val")}
    if left_out:
        parts = leave_out(train, left_out[0])
        train, judged[left_out[0]] = parts["train"], parts["val"]
    shift = balanced_weights(class_pixels(train), CONSTANT).log()
    for name, dataset in judged.items():
        for share, matrix in zip(SHARES, measure(engine, dataset, shift), strict=True):
            metrics = matrix.metrics()
            figures = f"mean IU {metrics.mean_iu:.3f}, pixel accuracy {metrics.pixel_accuracy:.3f}"
            print(f"{name}: {share:.1f} of the shift: {figures}")


if __name__ == "__main__":
    main(sys.argv[1:])
