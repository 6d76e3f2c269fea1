"""Log lines: one a request, for people (text) or programs (JSON)."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final, Literal

FIELDS: Final = "fields"
"""Attribute of a log record that holds its structured values: `extra={FIELDS: {...}}`."""


def configure_logging(log_format: Literal["text", "json"]) -> None:
    """Send the process's log to standard error in that format, from INFO up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    # What no line shows need not be found out for each one (Logging HOWTO, "Optimization").
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


class TextFormatter(logging.Formatter):
    """`2025-01-31T12:00:00.000Z INFO app.serve: message key=value ...`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and the traceback under it if there is one."""
        fields: dict[str, Any] = getattr(record, FIELDS, {})
        line = f"{_timestamp(record)} {record.levelname} {record.name}: {record.getMessage()}"
        for key, value in fields.items():
            line += f" {key}={value}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the structured values."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object as one line."""
        values: dict[str, Any] = {
            "time": _timestamp(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info:
            values["traceback"] = self.formatException(record.exc_info)
        return json.dumps(values, default=str)


def _timestamp(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
