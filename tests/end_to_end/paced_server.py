"""The real service around a network that takes a given time for each photo, on any machine.

`python paced_server.py --port 0`, with the time in seconds in `PACE_S`, and in `LANES` how many
forwards run side by side, each as much slower. It sleeps, so that the capacity of the service is
known, and little of a processor is used.
"""

import os
import sys
import time
from typing import Any

from torch import Tensor

from app.bench.null import NullEngine
from app.inference.engine import Segmentation
from app.serve.__main__ import bind, build_parser, serve
from app.serve.logs import configure_logging
from app.serve.settings import load_settings

PACE = "PACE_S"
"""Environment variable: seconds of the whole device for each photo."""

LANES = "LANES"
"""Environment variable: forwards side by side; 1 by default."""


class PacedEngine(NullEngine):
    """Answers as the engine that costs nothing does, after a while."""

    @property
    def most_lanes(self) -> int:
        return int(os.environ.get(LANES, "1"))

    def segment_batch(self, batch: Tensor, **options: Any) -> list[Segmentation]:
        time.sleep(float(os.environ[PACE]) * len(batch) * self.most_lanes)
        return super().segment_batch(batch, **options)


def main() -> int:
    given = {key: value for key, value in vars(build_parser().parse_args()).items() if value}
    settings = load_settings(**given)
    configure_logging(settings.log_format)
    listener = bind(settings.host, settings.port)
    return serve(settings, listener, load=lambda settings, serving: PacedEngine())


if __name__ == "__main__":
    sys.exit(main())
