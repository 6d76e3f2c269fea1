"""The weights that the paper's authors and pytorch-fcn published -> a network of this project.

Both publish the same numbers under the same layer names: the authors a `.caffemodel`
(shelhamer/fcn.berkeleyvision.org), pytorch-fcn a `.pth` with a state dict, bare or in a file of
its trainer (wkentaro/pytorch-fcn). No tensor has to be transposed. The nets take BGR images, 0 to
255, minus a mean: the first convolution's channels are flipped to RGB, and the mean goes into the
network's buffers. Folded into a bias, it would be wrong wherever the zeros around the image are
seen.
"""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.bilinear import bilinear_weight
from model.caffemodel import PublishedWeightsError, read_caffemodel
from model.checkpoint import misfits
from model.classes import MAX_CLASSES
from model.fcn import AT_ONCE_SCALES, FCN, Architecture

NETS: Final = {
    "fcn32s": ("fcn32s", "vgg16"),
    "fcn16s": ("fcn16s", "vgg16"),
    "fcn8s": ("fcn8s", "vgg16"),
    "fcn8s-atonce": ("fcn8s-atonce", "vgg16"),
    "fcn-alexnet": ("fcn32s", "caffenet"),
}
"""Published net -> variant and backbone."""

VOC_MEAN: Final = (122.67891434, 116.66876762, 104.00698793)
NYUD_MEAN: Final = (92.318, 97.203, 116.190)
SIFT_FLOW_MEAN: Final = (108.353, 115.294, 114.578)
"""Means of the nets' input, red, green, blue, 0 to 255: from the authors' `voc_layers.py`,
`nyud_layers.py` and `siftflow_layers.py`."""

RENAMED_LAYERS: Final = {"score_fc7": "score_fr", "upscore_fc7": "upscore2"}
"""Our layer -> its published name, where they differ."""

FINAL_UPSCORE: Final = "upscore_final.weight"
FINAL_LAYERS: Final = {"fcn32s": "upscore", "fcn16s": "upscore16"}
"""Variant -> published name of the last deconvolution; of the others it is `upscore8`."""

FIRST_WEIGHTS: Final = ("conv1_1.weight", "conv1.weight")
"""Of the convolution that sees the image, by published name."""

SCALE_LAYERS: Final = {"scale_pool4": AT_ONCE_SCALES[16], "scale_pool3": AT_ONCE_SCALES[8]}
"""Caffe's layers that scale the skips of the net trained at once -> the scale."""

TRAINER_NAMES: Final = {"FCN8s": "fcn8s", "FCN8sAtOnce": "fcn8s-atonce"}
"""What pytorch-fcn's trainer writes as `arch` -> net, where the tensors do not tell."""

BILINEAR_TOLERANCE: Final = 1e-6
"""An upsampling weight that is nowhere farther from the bilinear kernel is taken for it."""

SHOWN: Final = 5
"""Names or problems that a message lists."""


class PublishedNet(NamedTuple):
    """What a file of published weights holds.

    Attributes:
        name: A key of `NETS`.
        net: The network, fp32 on the CPU, in evaluation mode.
        guessed: Whether the weights could as well be those of `fcn8s-atonce`: in a `.pth`, their
            tensors have the same names and shapes.
        left_out: Layers that were not taken: SIFT Flow's nets have a second, geometric head.
    """

    name: str
    net: FCN
    guessed: bool
    left_out: tuple[str, ...]


class _Content(NamedTuple):
    """Tensors by published name, the kind of file, and what pytorch-fcn's trainer calls the net."""

    tensors: dict[str, Tensor]
    is_caffemodel: bool
    trainer_name: str = ""


def read_published(path: Path | str, *, net: str | None = None) -> PublishedNet:
    """Read published weights into a network that gives the published masks.

    Any number of classes and any width of fc6 and fc7 is taken as the file has it. Upsampling
    weights that are the bilinear kernel are not stored; others are kept, dense. The network's mean
    is VOC's; nets trained on NYUDv2 and SIFT Flow need theirs, which no file tells.

    Args:
        path: A `.pth` or a `.caffemodel`; its content decides, not its name.
        net: A key of `NETS`. Needed only where the file does not tell: at-once weights.

    Raises:
        PublishedWeightsError: If the file is damaged, holds another net, or its tensors do not
            fit; the message begins with the path and names them.
        OSError: If the file cannot be read at all.
    """
    path = Path(path)
    content = _read(path)
    try:
        tensors, left_out = _semantic_head(content.tensors)
        found, certain = _recognise(tensors, content.trainer_name)
        if net not in (None, found) and (certain or net != "fcn8s-atonce"):
            raise PublishedWeightsError(f"it holds {found}, not {net}")
        name = net or found
        if name == "fcn8s-atonce":
            tensors = _without_scales(tensors)
        network = _build(name, tensors)
    except PublishedWeightsError as error:
        raise PublishedWeightsError(f"{path}: {error}") from None
    # The authors' at-once file has scale layers; one without may still be asked for by name.
    guessed = net is None and not certain and not content.is_caffemodel
    return PublishedNet(name, network, guessed, left_out)


def _read(path: Path) -> _Content:
    with open(path, "rb") as file:
        head = file.read(2)
    # torch.save writes a zip archive, before version 1.6 a pickle.
    if head == b"PK" or head[:1] == b"\x80":
        return _read_pth(path, zipped=head == b"PK")
    try:
        layers = read_caffemodel(path)
    except PublishedWeightsError as error:
        if path.suffix == ".caffemodel":
            raise
        raise PublishedWeightsError(f"{error}; nor is it a file of torch.save") from None
    tensors = {}
    for layer, blobs in layers.items():
        if len(blobs) > 2:
            raise PublishedWeightsError(f"{path}: {layer} has {len(blobs)} blobs, not 1 or 2")
        for kind, blob in zip(("weight", "bias"), blobs, strict=False):
            tensors[f"{layer}.{kind}"] = blob
    return _Content(tensors, is_caffemodel=True)


def _read_pth(path: Path, *, zipped: bool) -> _Content:
    # The trainer writes its best mean IU as a numpy number. These make such numbers, nothing else.
    scalar = np.float64(0).__reduce__()[0]
    harmless: list[Any] = [
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        np.dtype,
        type(np.dtype(np.float64)),
    ]
    try:
        with torch.serialization.safe_globals(harmless), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; the error below says it all
            # Python 2 wrote the files of 2017; latin1 is how its byte strings are read.
            content = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipped, encoding="latin1"
            )
    except Exception as error:  # torch.load raises what its many readers raise
        raise PublishedWeightsError(
            f"{path}: damaged, or it holds more than tensors, which could run code and is not read"
        ) from error
    trainer_name = ""
    if isinstance(content, dict) and "model_state_dict" in content:
        trainer_name = str(content.get("arch"))
        content = content["model_state_dict"]
    if not isinstance(content, dict) or not content:
        raise PublishedWeightsError(f"{path}: it holds no state dict")
    for name, tensor in content.items():
        if not isinstance(name, str) or not name.isprintable() or not isinstance(tensor, Tensor):
            raise PublishedWeightsError(f"{path}: it holds no state dict: {name!r:.80}")
    return _Content(dict(content), is_caffemodel=False, trainer_name=trainer_name)


def _semantic_head(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Take the semantic one of the two heads that the authors' SIFT Flow nets have.

    Returns:
        The tensors, named as in the other nets, and the layers that were left out.
    """
    if not any(layer.endswith("_sem") for layer in _layers(tensors)):
        return tensors, ()
    left_out = tuple(layer for layer in _layers(tensors) if layer.endswith("_geo"))
    kept = {
        name.replace("_sem.", "."): tensor
        for name, tensor in tensors.items()
        if _layer(name) not in left_out
    }
    return kept, left_out


def _recognise(tensors: Mapping[str, Tensor], trainer_name: str) -> tuple[str, bool]:
    """Return the net that tensors belong to, and whether that is certain.

    One layer of those that tell suffices, so that in a damaged net what is missing can be named.
    """
    layers = set(_layers(tensors))
    if layers & SCALE_LAYERS.keys():
        return "fcn8s-atonce", True
    if layers & {"score_pool3", "upscore8"}:
        return TRAINER_NAMES.get(trainer_name, "fcn8s"), trainer_name in TRAINER_NAMES
    if layers & {"score_pool4", "upscore2", "upscore16"}:
        return "fcn16s", True
    if layers & {"score_fr", "upscore"}:
        return "fcn-alexnet" if layers & {"conv1", "conv2"} else "fcn32s", True
    names = _layers(tensors)
    shown = ", ".join(names[:SHOWN]) + (" ..." if len(names) > SHOWN else "")
    raise PublishedWeightsError(f"none of {', '.join(NETS)}: its layers are {shown}")


def _without_scales(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop Caffe's constant scale layers, once it is sure that they hold the known constants.

    The scales stay where they are in the authors' net, before the score layers. Folded into the
    scores' weights they would give the same masks, but not the same net to go on training.
    """
    scaled = [layer for layer in _layers(tensors) if layer in SCALE_LAYERS]
    for layer, scale in SCALE_LAYERS.items() if scaled else ():
        weight = tensors.get(f"{layer}.weight")
        if weight is None:
            raise PublishedWeightsError(f"{layer} is missing, but {scaled[0]} is there")
        if not torch.allclose(weight.double(), torch.tensor(scale).double(), rtol=1e-4, atol=0):
            low, high = weight.min().item(), weight.max().item()
            raise PublishedWeightsError(f"{layer} holds {low:g} to {high:g}, not {scale:g}")
    return {name: tensor for name, tensor in tensors.items() if _layer(name) not in SCALE_LAYERS}


def _build(name: str, tensors: dict[str, Tensor]) -> FCN:
    """Return the network, its tensors held against the layout that their widths ask for."""
    num_classes, head_width = _channels(tensors, "score_fr"), _channels(tensors, "fc6")
    if not 1 <= num_classes <= MAX_CLASSES:
        raise PublishedWeightsError(
            f"it has {num_classes} classes; 1 to {MAX_CLASSES} are possible"
        )
    variant, backbone = NETS[name]
    try:
        architecture = Architecture(
            variant,
            backbone,
            head_width,
            learned_upsampling=True,
            learned_final_upsampling=True,
            alignment="paper",
        )
    except ValueError as error:
        raise PublishedWeightsError(str(error)) from None
    layout = _lay_out(architecture, num_classes).state_dict()
    names = {ours: _published_name(ours, variant) for ours in layout if ours not in ("mean", "std")}
    shapes = {published: layout[ours].shape for ours, published in names.items()}
    tensors = {key: _unpadded(tensor, shapes.get(key)) for key, tensor in tensors.items()}
    found = {key: tensor.shape for key, tensor in tensors.items()}
    if problems := misfits(shapes, found):
        raise PublishedWeightsError(f"does not fit {name}: {problems}")

    state = {ours: _numbers(published, tensors[published]) for ours, published in names.items()}
    fixed = {ours for ours in state if ours.startswith("upscore") and _is_bilinear(state[ours])}
    twofold = {ours for ours in state if ours.startswith("upscore")} - {FINAL_UPSCORE}
    architecture = replace(
        architecture,
        # One switch for all 2x layers: a bilinear one beside a learned one stays dense.
        learned_upsampling=not twofold <= fixed,
        learned_final_upsampling=FINAL_UPSCORE not in fixed,
    )
    net = _lay_out(architecture, num_classes)
    state["mean"], state["std"] = torch.tensor(VOC_MEAN).view(3, 1, 1), torch.ones(3, 1, 1)
    net.load_state_dict({name: state[name] for name in net.state_dict()}, assign=True)
    return net.eval().requires_grad_(False)


def _lay_out(architecture: Architecture, num_classes: int) -> FCN:
    """Build a network without memory for its tensors."""
    with torch.device("meta"):
        return FCN(architecture, num_classes)


def _published_name(ours: str, variant: str) -> str:
    """Return the published name of a tensor: conv1_1.bias for trunk.stage1.conv1_1.bias."""
    layer, _, kind = ours.rpartition(".")
    layer = layer.rpartition(".")[2]
    if layer == "upscore_final":
        return f"{FINAL_LAYERS.get(variant, 'upscore8')}.{kind}"
    return f"{RENAMED_LAYERS.get(layer, layer)}.{kind}"


def _channels(tensors: Mapping[str, Tensor], layer: str) -> int:
    """Return the output channels of a convolution."""
    weight = tensors.get(f"{layer}.weight")
    if weight is None or weight.dim() == 0:
        raise PublishedWeightsError(f"{layer}.weight is missing")
    return weight.shape[-2] if _is_padded(weight) else weight.shape[0]


def _is_padded(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and tensor.shape[:2] == (1, 1)


def _unpadded(tensor: Tensor, shape: torch.Size | None) -> Tensor:
    """Undo how Caffe wrote vectors (1x1x1xN) and matrices (1x1xMxN) before 2015."""
    if shape is not None and _is_padded(tensor) and tensor.numel() == shape.numel():
        return tensor.reshape(shape)
    return tensor


def _numbers(name: str, tensor: Tensor) -> Tensor:
    """Return a tensor as our networks hold it: fp32, finite, RGB."""
    if tensor.layout != torch.strided or tensor.is_meta or not tensor.is_floating_point():
        raise PublishedWeightsError(f"{name} holds no floating-point numbers")
    tensor = tensor.detach().float().contiguous()
    if not tensor.isfinite().all():
        raise PublishedWeightsError(f"{name} holds numbers that are not finite")
    return tensor.flip(1) if name in FIRST_WEIGHTS else tensor


def _is_bilinear(weight: Tensor) -> bool:
    """Whether a deconvolution's CxCxKxK weight interpolates each channel by itself."""
    bilinear = bilinear_weight(weight.shape[0], weight.shape[-1])
    return (weight - bilinear).abs().max().item() <= BILINEAR_TOLERANCE


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _layers(tensors: Iterable[str]) -> list[str]:
    """Name the layers that tensors belong to, each once."""
    return list(dict.fromkeys(_layer(name) for name in tensors))
