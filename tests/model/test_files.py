"""Files are whole or not there, and errors name them."""

import errno
import hashlib
import json
from pathlib import Path

import pytest

from model.files import sha256, write_atomically, write_bytes, write_json


def raising(error: BaseException):
    def write(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise error

    return write


def test_the_old_file_is_replaced_and_others_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    for data in (b"old", b"new"):
        write_bytes(path, data)
        assert path.read_bytes() == data
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]
    assert sha256(path) == hashlib.sha256(b"new").hexdigest()


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("\N{CJK UNIFIED IDEOGRAPH-5929}" * 85)
    write_bytes(path, b"data")
    assert path.read_bytes() == b"data"
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_for_people_too(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"name": "Stra\u00dfe", "values": [1, None]})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"name": "Stra\u00dfe", "values": [1, None]}
    assert text.startswith('{\n  "name"')
    assert text.endswith("}\n")


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), ValueError("a bug")])
def test_what_does_not_come_to_its_end_leaves_the_old_file(
    tmp_path: Path, stop: BaseException
) -> None:
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")
    with pytest.raises(type(stop)) as raised:
        write_atomically(path, raising(stop))
    assert raised.value is stop
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with pytest.raises(OSError, match="No space left on device") as raised:
        write_atomically(path, raising(OSError(errno.ENOSPC, "No space left on device")))
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory", "another file"),
        OSError("a library's own words"),
    ],
)
def test_an_error_that_says_more_stays_as_it_is(tmp_path: Path, error: OSError) -> None:
    with pytest.raises(OSError, match=r"another file|own words") as raised:
        write_atomically(tmp_path / "a.bin", raising(error))
    assert raised.value is error
