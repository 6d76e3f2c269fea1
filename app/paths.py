"""Where things are, relative to the project's root."""

from pathlib import Path
from typing import Final

DEFAULT_CHECKPOINT: Final = Path("checkpoints/camvid-fcn8s-vgg16bn.safetensors")
"""The checkpoint that ships with the project."""
