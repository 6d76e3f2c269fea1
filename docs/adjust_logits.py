"""Give a checkpoint that was trained without it the last step of today's recipe for CamVid.

    python docs/adjust_logits.py CAMVID CHECKPOINT OUT

Training takes half of the class weights' logarithm off the logits of what it saves
(`Recipe.logit_adjustment`). This does the same afterwards, once, and measures val again. Kernels
are written in bf16, as those of the default checkpoint are.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from app.inference.engine import Engine
from app.train.datasets import class_pixels, open_dataset
from app.train.loss import balanced_weights, logit_shift
from app.train.metrics import ConfusionMatrix
from app.train.recipes import RECIPES
from model import load_checkpoint, save_checkpoint


@torch.no_grad()
def main(words: Sequence[str]) -> None:
    """Write the adjusted checkpoint and print its mean IU on val."""
    camvid, source, target = map(Path, words)
    net, card = load_checkpoint(source)
    recipe = dict(card.training["recipe"])
    if recipe.get("logit_adjustment"):
        sys.exit(f"{source}: its logits are adjusted already")
    if card.training["dataset"] != "camvid" or "left_out" in card.training:
        sys.exit(f"{source}: was not trained on all of CamVid's train")
    share = recipe["logit_adjustment"] = RECIPES["camvid"].logit_adjustment
    train = open_dataset("camvid", camvid, "train")
    weights = balanced_weights(class_pixels(train), recipe["class_weighting"])
    shift = logit_shift(weights, share)
    net.logit_bias.sub_(shift)

    val = open_dataset("camvid", camvid, "val")
    engine = Engine(net, card, version="", precision="fp32")
    confusion = ConfusionMatrix(len(val.classes))
    for index in range(len(val)):
        confusion.update(val.label(index), engine.segment([val.photo(index)])[0].label_map)
    metrics = confusion.metrics().to_json([info.name for info in val.classes])
    training = {**card.training, "recipe": recipe, "val": metrics, "logit_shift": shift.tolist()}
    training.pop("calibration", None)  # was that of other logits
    card = dataclasses.replace(card, training=training, temperature=1.0)
    save_checkpoint(target, net, card, dtype=torch.bfloat16)  # as it was
    print(f"{target}: val mean IU {metrics['mean_iu']:.4f}")


if __name__ == "__main__":
    main(sys.argv[1:])
