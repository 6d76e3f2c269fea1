"""The application for ASGI servers: `uvicorn app.main:app`.

`python -m app.serve` is the better way to run it: it also drains on SIGTERM.
"""

from fastapi import FastAPI

from app.serve.logs import configure_logging
from app.serve.settings import SettingsError, exit_with_usage_error, load_settings


def _application() -> FastAPI:
    try:
        settings = load_settings()
    except SettingsError as error:
        exit_with_usage_error("app.main", error)
    configure_logging(settings.log_format)
    # Takes seconds to import, which a wrong setting need not wait for.
    from app.serve.application import create_app

    return create_app(settings)


app = _application()
