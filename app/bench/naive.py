"""What people write first: one FastAPI handler, Pillow on both sides, a lock around the network.

`python -m app.bench.naive --port 9000` serves it. Network, precision and upload are the service's;
what differs is everything around the forward. FastAPI runs the handler in its pool of threads, so
photos decode side by side, and each forward is of one photo.
"""

import argparse
import io
import sys
import threading
from pathlib import Path

import numpy as np
import uvicorn
from fastapi import FastAPI, Response, UploadFile
from PIL import Image

from app.bench.null import load_engine
from app.inference.engine import Engine


def create_app(engine: Engine) -> FastAPI:
    """Return an application with `POST /segment`, which answers with a palette PNG."""
    app = FastAPI()
    lock = threading.Lock()
    palette = [value for info in engine.card.classes for value in info.color]

    @app.get("/health/ready")
    def ready() -> str:
        return "ready"

    @app.post("/segment")
    def segment(image: UploadFile) -> Response:
        photo = np.asarray(Image.open(image.file).convert("RGB"))
        with lock:
            label_map = engine.segment([photo])[0].label_map
        mask = Image.fromarray(label_map)
        mask.putpalette(palette)
        buffer = io.BytesIO()
        mask.save(buffer, "PNG")
        return Response(buffer.getvalue(), media_type="image/png")

    return app


def rival_parser(description: str) -> argparse.ArgumentParser:
    """Return the arguments that servers beside the service take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--port", type=int, required=True, help="TCP port on 127.0.0.1")
    parser.add_argument("--checkpoint", type=Path, help="without one: a network that costs nothing")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--precision", default="auto", help="auto, fp32, bf16 or fp16")
    return parser


def main() -> int:
    """Entry point."""
    options = rival_parser("Serve a checkpoint by a naive FastAPI handler.").parse_args()
    engine = load_engine(options.checkpoint, options.device, options.precision)
    # The access log costs about what a mask's encoding does, and a rival should not pay for it.
    uvicorn.run(create_app(engine), host="127.0.0.1", port=options.port, log_level="warning")
    return 0


if __name__ == "__main__":
    sys.exit(main())
