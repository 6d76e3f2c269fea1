import json
import logging

import pytest

from app.serve.logs import FIELDS, JsonFormatter, TextFormatter


@pytest.fixture
def record():
    record = logging.makeLogRecord(
        {"name": "app", "levelname": "INFO", "msg": "done %d", "args": (3,), "created": 0.5}
    )
    setattr(record, FIELDS, {"id": "abc", "status": 200})
    return record


def with_error(record):
    try:
        raise ValueError("broken")
    except ValueError as error:
        record.exc_info = (ValueError, error, error.__traceback__)
    return record


def test_text_is_one_line_with_its_values(record):
    line = TextFormatter().format(record)
    assert line == "1970-01-01T00:00:00.500Z INFO app: done 3 id=abc status=200"


def test_json_is_one_object_a_line(record):
    line = JsonFormatter().format(with_error(record))
    assert "\n" not in line
    values = json.loads(line)
    assert (values["message"], values["id"], values["status"]) == ("done 3", "abc", 200)
    assert values["time"] == "1970-01-01T00:00:00.500Z"
    assert "ValueError: broken" in values["traceback"]


def test_text_shows_a_traceback(record):
    assert TextFormatter().format(with_error(record)).endswith("ValueError: broken")
