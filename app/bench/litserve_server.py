"""The same network behind LitServe, set up as someone would who knows LitServe well.

`python -m app.bench.litserve_server --port 9000` serves it; needs the extra `bench`. What that
someone chooses, and why:

- Batches of up to 16, made by LitServe. Only equal shapes can be stacked, so `batch` leaves the
  photos as they are and `predict` runs them shape by shape, in no larger groups than pay on this
  device: the caps that the service would find here.
- `batch_timeout` 5 ms. With LitServe's default of 0 an idle worker polls its queue, which another
  process holds, without a pause: on two cores that takes more than any batch gives.
- One worker a device, which is the default; more are worth a try on a CPU (`--workers 2`), each
  with its share of the threads.
- JPEG and PNG decoded by torchvision, PNG written by Pillow at its fastest level, logs at
  `warning`, `fast_queue` on: what LitServe's manual advises for production.
"""

import io
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import litserve
import numpy as np
import torch
from fastapi import Request, Response
from numpy.typing import NDArray
from PIL import Image
from torchvision.io import ImageReadMode, decode_image

from app.bench.naive import rival_parser
from app.bench.null import load_engine

Photo = NDArray[np.uint8]
LabelMap = NDArray[np.uint8]


class SegmentAPI(litserve.LitAPI):  # type: ignore[misc]
    """`POST /segment`: multipart field `image` in, palette PNG out.

    Args:
        checkpoint: None for the network that costs nothing.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        threads: Of each worker's network.
        **options: LitServe's.
    """

    def __init__(
        self, checkpoint: Path | None, precision: str, threads: int, **options: Any
    ) -> None:
        super().__init__(api_path="/segment", **options)
        self._checkpoint = checkpoint
        self._precision = precision
        self._threads = threads

    def setup(self, device: str) -> None:
        """Load the network, in the worker's process."""
        torch.set_num_threads(self._threads)
        self._engine = load_engine(self._checkpoint, device, self._precision)
        self._engine.measure_caps()
        self._palette = [value for info in self._engine.card.classes for value in info.color]

    def decode_request(self, request: Request) -> Photo:
        """Decode the upload, HxWx3."""
        form: Any = request  # LitServe hands the form over, whatever the annotation says
        data = torch.frombuffer(bytearray(form["image"].file.read()), dtype=torch.uint8)
        photo: Photo = decode_image(data, ImageReadMode.RGB).permute(1, 2, 0).contiguous().numpy()
        return photo

    def batch(self, inputs: list[Photo]) -> list[Photo]:
        """Leave photos of different shapes side by side."""
        return inputs

    def predict(self, photos: list[Photo]) -> list[LabelMap]:
        """Segment photos, those of one shape together."""
        indices: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, photo in enumerate(photos):
            indices[photo.shape].append(index)
        label_maps: dict[int, LabelMap] = {}
        for shape, group in indices.items():
            most = self._engine.caps.images(shape[0] * shape[1])
            for start in range(0, len(group), most):
                label_maps |= self._segment(photos, group[start : start + most])
        return [label_maps[index] for index in range(len(photos))]

    def _segment(self, photos: Sequence[Photo], group: Sequence[int]) -> dict[int, LabelMap]:
        segmentations = self._engine.segment([photos[index] for index in group])
        return {index: result.label_map for index, result in zip(group, segmentations, strict=True)}

    def unbatch(self, output: list[LabelMap]) -> list[LabelMap]:
        """Hand out the label maps."""
        return output

    def encode_response(self, output: LabelMap) -> Response:
        """Encode a label map as a palette PNG."""
        mask = Image.fromarray(output)
        mask.putpalette(self._palette)
        buffer = io.BytesIO()
        mask.save(buffer, "PNG", compress_level=1)
        return Response(buffer.getvalue(), media_type="image/png")


def main() -> int:
    """Entry point."""
    parser = rival_parser("Serve a checkpoint by LitServe.")
    parser.add_argument("--workers", type=int, default=1, help="processes with a network each")
    parser.add_argument("--batch", type=int, default=16, help="most photos in a batch")
    parser.add_argument("--batch-timeout", type=float, default=0.005, help="in seconds")
    options = parser.parse_args()
    accelerator, _, index = options.device.partition(":")
    api = SegmentAPI(
        options.checkpoint,
        options.precision,
        max(1, torch.get_num_threads() // options.workers),
        max_batch_size=options.batch,
        batch_timeout=options.batch_timeout,
    )
    server = litserve.LitServer(
        api,
        accelerator=accelerator,
        devices=[int(index)] if index else 1,
        workers_per_device=options.workers,
        timeout=False,
        fast_queue=True,
    )
    server.run(host="127.0.0.1", port=options.port, log_level="warning", generate_client_file=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
