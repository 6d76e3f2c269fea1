"""`python -m app.export`: a checkpoint -> one file for runtimes that know nothing of this project.

The network is traced once with `torch.export`, which is saved as it is or translated to ONNX.
Nothing is bound to the traced size: the file takes any batch, height and width from 1.
"""

import io
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Final, NamedTuple

import onnxruntime
import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as shape_config
from torch.nn import functional as F

from app.cli import add_checkpoint, check_places, parser, run
from app.errors import UsageError
from app.inference.network import fold_batch_norms
from model import FCN, Card, load_versioned
from model.files import write_atomically

METADATA_KEY: Final = "fcn"
"""Name of the JSON object in ONNX's `metadata_props` and in torch.export's `extra_files`."""

INPUT: Final = "images"

AXES: Final = {0: "batch", 2: "height", 3: "width"}
"""Axes of the input that are free."""

OUTPUTS: Final = ("logits", "labels")

EXAMPLE_SHAPE: Final = (2, 3, 64, 96)
"""Of the images that the network is traced with."""

CHECK_SHAPE: Final = (3, 3, 75, 107)
"""Of the images that the file is checked with: no free axis has the length it was traced at."""

MIN_AGREEMENT: Final = 0.999
"""Share of pixels that must get the network's class. Another runtime sums in another order, which
may decide a near tie."""

MAX_ONNX_BYTES: Final = 2**31 - 2**24
"""Of weights in an ONNX file, which is one protobuf message and so below 2 GiB; 16 MiB are left
for the graph."""


class ExportFormat(NamedTuple):
    """A kind of file.

    Attributes:
        serialize: (program, metadata as JSON, name of the output) -> the file's content.
        run: Loads such a file and returns its answer to images, Bx3xHxW.
    """

    serialize: Callable[[ExportedProgram, str, str], bytes]
    run: Callable[[Path, Tensor], Tensor]


class LabelMaps(nn.Module):
    """A network that answers with the best class of each pixel instead of logits."""

    def __init__(self, net: FCN) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Return BxHxW uint8 for `images`, Bx3xHxW."""
        logits: Tensor = self.net(images)
        return logits.argmax(dim=1).to(torch.uint8)


def export(checkpoint: Path, out: Path, *, file_format: str, output: str) -> str:
    """Write a checkpoint's network as a program, once that has been checked against the network.

    Args:
        checkpoint: The checkpoint.
        out: The file.
        file_format: A key of `FORMATS`.
        output: `logits`, BxCxHxW float32, or `labels`, BxHxW uint8.

    Returns:
        A line that says what was made.

    Raises:
        CheckpointError: If the checkpoint cannot be used.
        UsageError: If the weights do not fit the format, or the file, loaded again, does not
            give the network's masks; nothing is written then.
        OSError: If a file cannot be read or written.
    """
    net, card, version = load_versioned(checkpoint)
    weights = sum(parameter.nbytes for parameter in net.parameters())
    if file_format == "onnx" and weights > MAX_ONNX_BYTES:
        raise UsageError(
            f"{checkpoint} has {weights / 1e9:.1f} GB of weights, an ONNX file holds "
            f"{MAX_ONNX_BYTES / 1e9:.1f} GB: use --format torch-export"
        )
    kind = FORMATS[file_format]
    metadata = describe(card, version, output)
    with _quiet():
        content = kind.serialize(trace(net, output), json.dumps(metadata), output)
    agreement = 0.0

    def write(temporary: Path) -> None:
        nonlocal agreement
        temporary.write_bytes(content)
        images = _check_images()
        with _quiet():
            answer = kind.run(temporary, images)
        agreement = _agreement(net, images, answer)
        if agreement < MIN_AGREEMENT:
            raise UsageError(
                f"{out} was not written: loaded again, it gives only {agreement:.2%} of the "
                "pixels the network's class"
            )

    write_atomically(out, write)
    return (
        f"{out}: {card.name}, {_signature(metadata)}, {len(content) / 1e6:.1f} MB; "
        f"loaded again, it gives {agreement:.3%} of the pixels the network's class"
    )


def describe(card: Card, version: str, output: str) -> dict[str, Any]:
    """Return what the file says of itself; JSON values only.

    Args:
        card: Of the checkpoint.
        version: SHA-256 of the checkpoint, in hex, as `GET /model` tells it.
        output: One of `OUTPUTS`.
    """
    labels = output == "labels"
    channels = [] if labels else [len(card.classes)]
    return {
        "version": version,
        **card.to_json(),
        "input": {
            "name": INPUT,
            "shape": ["batch", 3, "height", "width"],
            "dtype": "uint8",
            "channel_order": "RGB",
            "range": [0, 255],
        },
        "output": {
            "name": output,
            "shape": ["batch", *channels, "height", "width"],
            "dtype": "uint8" if labels else "float32",
        },
    }


def trace(net: FCN, output: str) -> ExportedProgram:
    """Return the network as a graph for any batch, height and width from 1, in fp32 on the CPU.

    Args:
        net: The network; batch norms are folded into a copy of it.
        output: One of `OUTPUTS`.
    """
    folded = fold_batch_norms(net)
    free = Dim.DYNAMIC(min=1)
    # Otherwise each size that was not 0 or 1 in the example, of any map, would have to be neither
    # in every image to come. torch.onnx traces with the same setting.
    with shape_config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        program = torch.export.export(
            LabelMaps(folded) if output == "labels" else folded,
            (torch.zeros(EXAMPLE_SHAPE, dtype=torch.uint8),),
            dynamic_shapes={INPUT: dict.fromkeys(AXES, free)},
        )
    for graph in program.graph_module.modules():
        if isinstance(graph, fx.GraphModule):
            for node in graph.graph.nodes:
                node.meta.pop("stack_trace", None)  # paths of this machine
    return program


def _serialize_onnx(program: ExportedProgram, metadata: str, output: str) -> bytes:
    translated = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        input_names=[INPUT],
        output_names=[output],
        dynamic_shapes={INPUT: AXES},
    )
    assert translated is not None  # only the exporter before dynamo returns nothing
    # Derived through every layer, the output's height is a page of minima and divisions that
    # always equals the input's.
    shape = translated.model.graph.outputs[0].shape
    assert shape is not None
    shape[-2], shape[-1] = AXES[2], AXES[3]
    translated.model.metadata_props[METADATA_KEY] = metadata
    content: bytes = translated.model_proto.SerializeToString()
    return content


def _run_onnx(path: Path, images: Tensor) -> Tensor:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {INPUT: images.numpy()})
    return torch.from_numpy(answer)


def _serialize_torch_export(program: ExportedProgram, metadata: str, output: str) -> bytes:
    # Into memory: torch's archive writer ends the process when a disk is full.
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={METADATA_KEY: metadata})
    return content.getvalue()


def _run_torch_export(path: Path, images: Tensor) -> Tensor:
    with open(path, "rb") as file:
        program = torch.export.load(file)
    answer: Tensor = program.module()(images)
    return answer


FORMATS: Final = {
    "onnx": ExportFormat(_serialize_onnx, _run_onnx),
    "torch-export": ExportFormat(_serialize_torch_export, _run_torch_export),
}


def _check_images() -> Tensor:
    """Return images of soft, random colours: on plain noise networks see one class."""
    batch, channels, height, width = CHECK_SHAPE
    colors = torch.rand(batch, channels, 2, 3, generator=torch.Generator().manual_seed(0))
    images = F.interpolate(colors * 255, (height, width), mode="bilinear", align_corners=False)
    return images.to(torch.uint8)


def _agreement(net: FCN, images: Tensor, answer: Tensor) -> float:
    """Return the share of pixels to which an answer, logits or labels, gives the net's class."""
    with torch.inference_mode():
        expected = net(images).argmax(dim=1)
    labels = answer.argmax(dim=1) if answer.dim() == 4 else answer
    if labels.shape != expected.shape:
        return 0.0
    return float((labels == expected).float().mean())


def _signature(metadata: dict[str, Any]) -> str:
    sides = [
        f"{side['name']} [{', '.join(map(str, side['shape']))}] {side['dtype']}"
        for side in (metadata["input"], metadata["output"])
    ]
    return " -> ".join(sides)


@contextmanager
def _quiet() -> Iterator[None]:
    """Show what the exporters print and warn of only if they fail.

    It is about their own affairs; the check tells whether the file is right.
    """
    held = io.StringIO()
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(held), redirect_stderr(held):
            yield
    except Exception:
        sys.stderr.write(held.getvalue())
        raise
    finally:
        logging.disable(logging.NOTSET)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    arguments = parser(
        "export",
        "Write a checkpoint's network as one file for other runtimes: uint8 RGB images, "
        "batch x 3 x height x width, in; logits or label maps of the same size out. Batch, height "
        "and width may be anything from 1. Normalisation is inside, numbers are fp32, and classes, "
        "colours and version go along as JSON. The file is loaded again and compared with the "
        "network before it takes its place.",
        "python -m app.export --format onnx --out street.onnx",
    )
    add_checkpoint(arguments)
    arguments.add_argument(
        "--format",
        choices=tuple(FORMATS),
        default="onnx",
        help="onnx, or torch-export for torch.export.load (conventionally .pt2)",
    )
    arguments.add_argument(
        "--output",
        choices=OUTPUTS,
        default="logits",
        help="logits: float32, a channel a class; labels: the best class of each pixel, uint8",
    )
    arguments.add_argument("--out", type=Path, metavar="FILE", required=True, help="the file")
    options = arguments.parse_args(argv)

    def export_command() -> int:
        check_places(options.out)
        if options.out.exists() and options.out.samefile(options.checkpoint):
            raise UsageError(f"{options.checkpoint} would be overwritten; give another --out")
        print(
            export(
                options.checkpoint, options.out, file_format=options.format, output=options.output
            )
        )
        return 0

    return run(export_command)


if __name__ == "__main__":
    sys.exit(main())
