"""`python -m app.serve`: serve a checkpoint over HTTP."""

import argparse
import functools
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.serve.logs import configure_logging
from app.serve.settings import (
    Settings,
    SettingsError,
    exit_with_usage_error,
    load_settings,
)

PROGRAM = "python -m app.serve"

logger = logging.getLogger("app.serve")

_EPILOG = """\
Every other setting is an environment variable FCN_*, listed in docs/settings.md.

example:
  python -m app.serve --checkpoint runs/street/best.safetensors --port 8080
  curl -F image=@photo.jpg 'http://localhost:8080/segment' -o mask.png
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    fields = Settings.model_fields
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Serve a checkpoint over HTTP.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    def add(flag: str, metavar: str) -> None:
        name = flag.removeprefix("--")
        meaning = (fields[name].description or "").replace("`", "")
        parser.add_argument(
            flag,
            metavar=metavar,
            help=f"{meaning} (default: FCN_{name.upper()}, else {fields[name].default})",
        )

    add("--checkpoint", "FILE")
    add("--device", "DEVICE")
    add("--precision", "PRECISION")
    add("--host", "HOST")
    add("--port", "PORT")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command until a signal comes.

    Returns:
        0 after a clean shutdown, 1 if requests were lost or something broke, 2 if the server
        could not be started as asked.
    """
    # Until the server handles signals itself. As a container's first process this one would
    # otherwise not hear SIGTERM at all while torch is imported.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    if sys.platform != "win32":  # which has no SIGHUP
        # Nothing to reload yet: the checkpoint will be read as it is then.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    arguments = vars(build_parser().parse_args(argv))
    given = {name: value for name, value in arguments.items() if value is not None}
    try:
        settings = load_settings(**given)
        check_checkpoint(settings.checkpoint)
        listener = bind(settings.host, settings.port)
    except SettingsError as error:
        exit_with_usage_error(PROGRAM, error)
    configure_logging(settings.log_format)
    return serve(settings, listener)


def check_checkpoint(path: Path) -> None:
    """See that there is a checkpoint before anything slow is done.

    Raises:
        SettingsError: If there is none, or its folder may not be read.
    """
    try:
        there = path.is_file()
    except OSError as error:
        raise SettingsError(f"cannot read the checkpoint {path}: {error.strerror}") from error
    if not there:
        raise SettingsError(
            f"there is no checkpoint at {path}; train one, or name one with --checkpoint"
        )


def bind(host: str, port: int) -> socket.socket:
    """Take the address before anything slow is done.

    Raises:
        SettingsError: If it is not to be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        # A restarted server must not wait until the old one's connections are forgotten.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()  # binding alone does not notice another process that has bound too
    except (OSError, UnicodeError) as error:  # of a host that cannot be a name
        reason = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(f"cannot listen on {host} port {port}: {reason}") from error
    return listener


def raise_open_file_limit() -> None:
    """Let the process have as many connections as the system allows it.

    Shells hand out a soft limit of 1,024 for the sake of programs that use select(2); a server
    that reaches it can accept nobody, whoever asks.
    """
    if sys.platform == "win32":  # which has no such limit
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def serve(settings: Settings, listener: socket.socket, **app_options: Any) -> int:
    """Serve on a bound socket until a signal comes.

    Args:
        settings: How to serve.
        listener: Bound and listening.
        **app_options: Passed to `create_app`.

    Returns:
        The exit code.
    """
    raise_open_file_limit()
    # These take seconds to import; --help and a wrong setting need not wait for them.
    import uvicorn

    from app.serve.application import create_app
    from app.serve.protocol import GuardedProtocol
    from app.serve.server import DrainingServer

    server: DrainingServer

    def on_failure(error: Exception) -> None:
        expected = isinstance(error, ValueError | OSError)
        logger.error("cannot serve: %s", error, exc_info=None if expected else error)
        server.fail(2 if expected else 1)

    app = create_app(settings, on_failure=on_failure, **app_options)
    # All that was imported stays: to look through it for garbage again and again, with every
    # thread waiting, would cost throughput. Engines come and go; none is here yet.
    gc.collect()
    gc.freeze()
    connection = functools.partial(GuardedProtocol, telemetry=app.state.service.telemetry)
    config = uvicorn.Config(
        app,
        http=connection,  # type: ignore[arg-type] # uvicorn only calls it
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # nothing here asks who the client is
    )
    server = DrainingServer(config, app.state.service)
    host, port = listener.getsockname()[:2]
    logger.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
    server.run(sockets=[listener])
    if app.state.service.stuck:
        # Python would tear torch down under a thread that still works with it.
        logging.shutdown()
        os._exit(server.exit_code)
    return server.exit_code


if __name__ == "__main__":
    sys.exit(main())
