"""What the tests of deployment files share: where they are, and the tools that check them."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]

VERSION: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

# Also where this Python's packages put their programs: nobody need have activated anything.
_PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def find(*names: str) -> str | None:
    """Return the first of these programs that is here."""
    return next(filter(None, (shutil.which(name, path=_PATH) for name in names)), None)


def tool(name: str, source: str) -> str:
    """Return where a program is; skip the test if it is not here."""
    path = find(name)
    if path is None:
        pytest.skip(f"{name} is not installed: {source}")
    return path


def run(*command: str | Path) -> str:
    """Run a program in the project's folder; return what it printed, fail if it does."""
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def documents(path: Path) -> list[dict[str, Any]]:
    """Return the YAML documents of a file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]
