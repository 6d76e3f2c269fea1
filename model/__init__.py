"""The network of the paper "Fully Convolutional Networks for Semantic Segmentation"."""

from model.checkpoint import (
    Card,
    CheckpointError,
    load_checkpoint,
    load_versioned,
    save_checkpoint,
    save_with_card,
)
from model.classes import VOID, ClassInfo, named_classes
from model.fcn import FCN, Architecture

__all__ = [
    "FCN",
    "VOID",
    "Architecture",
    "Card",
    "CheckpointError",
    "ClassInfo",
    "load_checkpoint",
    "load_versioned",
    "named_classes",
    "save_checkpoint",
    "save_with_card",
]
