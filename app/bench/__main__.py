"""`python -m app.bench`: load on the service, beside the engine alone and other servers."""

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from app.bench.arguments import build_parser, check_options, rounds_of
from app.bench.engine_alone import EngineAlone
from app.bench.load import Load
from app.bench.photos import Photo, drawn_photos, own_photos
from app.bench.report import EngineResult, Report
from app.bench.rounds import Contestant, Upload, agreement, check_photos, run_rounds
from app.bench.servers import INTERRUPTS, Command, Server, started
from app.bench.tables import show
from app.cli import load_engine, run
from app.errors import UsageError
from app.serve.service import lanes_of
from app.serve.settings import SettingsError, load_settings

_MODULES = {"naive": "app.bench.naive", "litserve": "app.bench.litserve_server"}
_READY = {"naive": "/health/ready", "litserve": "/health"}
_MODEL_KEYS = ("name", "version", "device", "precision", "architecture")


def _photos(options: argparse.Namespace, console: Console) -> list[Photo]:
    if options.images is None:
        return drawn_photos(options.sizes, file_format=options.photo_format, seed=options.seed)
    photos, skipped = own_photos(options.images)
    if skipped:
        console.print(f"{options.images}: {skipped} files are no photos", highlight=False)
    return photos


def _service_command(
    options: argparse.Namespace, name: str = "service", settings: Mapping[str, str] | None = None
) -> Command:
    # Nobody routes requests to it, so when it stops nobody needs to notice first.
    environment = {} if "FCN_DRAIN_GRACE_S" in os.environ else {"FCN_DRAIN_GRACE_S": "0"}
    environment |= settings or {}
    if options.null:
        return Command(name, "app.bench.null", (), "/health/ready", environment)
    words = ["--checkpoint", str(options.checkpoint)]
    words += ["--device", options.device, "--precision", options.precision]
    return Command(name, "app.serve", words, "/health/ready", environment)


def _rival_command(name: str, options: argparse.Namespace, model: dict[str, Any]) -> Command:
    words = ["--device", model["device"], "--precision", model["precision"]]
    if not options.null:
        words += ["--checkpoint", str(options.checkpoint)]
    if name == "litserve":
        words += options.litserve or ()
    return Command(name, _MODULES[name], words, _READY[name], {})


def _own_path(options: argparse.Namespace) -> str:
    return f"/segment?format={options.format}"


def _others(options: argparse.Namespace, model: dict[str, Any]) -> Iterator[tuple[Command, str]]:
    """Yield how to start what is measured beside the service, and where photos are posted."""
    if options.against:
        name = " ".join(f"{name}={value}" for name, value in options.against.items())
        yield _service_command(options, name, options.against), _own_path(options)
    for name in options.compare or ():
        yield _rival_command(name, options, model), "/segment"


def _model_of(service: Server) -> dict[str, Any]:
    answer = service.client.get("/model")
    try:
        document = answer.json() if answer.status_code == 200 else None
    except ValueError:
        document = None
    if not isinstance(document, dict) or not document.keys() >= set(_MODEL_KEYS):
        raise UsageError(
            f"{service.address} is no server of this project: it has no /model with "
            f"{', '.join(_MODEL_KEYS)}"
        )
    return {key: document[key] for key in _MODEL_KEYS}


def _engine_alone(
    options: argparse.Namespace, photos: Sequence[Photo], model: dict[str, Any]
) -> EngineAlone:
    """Load the engine that the service has: same checkpoint, device, precision, batch cap."""
    engine = load_engine(options.checkpoint, model["device"], model["precision"])
    if engine.version != model["version"]:
        raise UsageError(
            f"the service has another checkpoint than {options.checkpoint}; name it by --checkpoint"
        )
    try:
        settings = load_settings()
    except SettingsError as error:
        raise UsageError(str(error)) from None
    alone = EngineAlone(
        engine, photos, max_images=settings.batch_images, lanes=lanes_of(settings, engine)
    )
    alone.find_best_batches()
    return alone


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    values = {name: value for name, value in vars(options).items() if name != "sizes"}
    return {name: str(v) if isinstance(v, Path) else v for name, v in values.items()}


def bench(options: argparse.Namespace, console: Console, stack: ExitStack) -> Report:
    """Start the servers, run the rounds, and return what they found.

    Args:
        options: The command's.
        console: For progress.
        stack: Stops what is started.

    Raises:
        UsageError: If something cannot be measured as asked.
        CheckpointError: If the checkpoint cannot be used.
        OSError: If a file cannot be read.
    """

    def tell(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    photos = _photos(options, console)
    headers = () if options.deadline is None else (("X-Request-Timeout", f"{options.deadline:g}"),)
    upload = Upload(options.upload == "multipart", headers)
    if options.url:
        service = Server("service", options.url)
        stack.callback(service.stop)
    else:
        tell("starting service")
        service = stack.enter_context(started(_service_command(options)))
    contestants = [Contestant(service, _own_path(options))]
    masks = {"service": check_photos(contestants[0], photos, upload)}
    model = _model_of(service)
    service.freeze()
    for command, path in _others(options, model):
        tell(f"starting {command.name}")
        rival = Contestant(stack.enter_context(started(command)), path)
        masks[command.name] = check_photos(rival, photos, upload)
        rival.server.freeze()
        contestants.append(rival)
    engine = None
    if options.engine:
        tell("trying the engine's batch sizes")
        engine = _engine_alone(options, photos, model)
    load = Load(
        concurrency=options.concurrency,
        rate=options.rate,
        duration_s=options.duration,
        requests=options.requests,
        warm_up_s=options.warmup,
        seed=options.seed,
    )
    rounds = rounds_of(options)
    found = run_rounds(contestants, photos, upload, load, rounds=rounds, engine=engine, tell=tell)
    return Report(
        _asked(options),
        photos,
        model,
        contestants,
        EngineResult(found, engine.medians(found)) if engine else None,
        {name: agreement(masks["service"], masks[name]) for name in masks if name != "service"},
        alone=options.concurrency == 1 and options.rate is None,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    options = build_parser().parse_args(argv)

    def bench_command() -> int:
        check_options(options)
        console = Console()
        with ExitStack() as stack:
            # As Ctrl-C does: through every `finally`, so that no server is left behind.
            for number in INTERRUPTS:
                before = signal.signal(number, signal.default_int_handler)
                stack.callback(signal.signal, number, before)
            report = bench(options, console, stack)
        if options.json:  # before printing: the terminal may be gone by now
            report.write(options.json)
        show(report, console)
        return 0

    return run(bench_command)


if __name__ == "__main__":
    sys.exit(main())
