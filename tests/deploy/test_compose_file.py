"""deploy/compose-file.sh with a Docker of its own: the GPU is used, and .env keeps its lines."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CPU = '{"Runtimes":{"runc":{"path":"runc"}},"DefaultRuntime":"runc"}'
GPU = '{"Runtimes":{"nvidia":{"path":"nvidia-container-runtime"},"runc":{"path":"runc"}}}'
CDI = '{"Runtimes":{"runc":{}},"DiscoveredDevices":[{"Source":"cdi","ID":"nvidia.com/gpu=0"}]}'


def choose(folder: Path, info: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the script in a folder where `docker info` prints that."""
    tools = folder / "bin"
    tools.mkdir(exist_ok=True)
    docker = tools / "docker"
    docker.write_text(f"#!/bin/sh\necho '{info}'\nexit {status}\n")
    docker.chmod(0o755)
    return subprocess.run(
        ["sh", str(ROOT / "deploy" / "compose-file.sh")],
        cwd=folder,
        env={"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )


def env_after(folder: Path, info: str) -> list[str]:
    done = choose(folder, info)
    assert done.returncode == 0, done.stderr
    env = folder / ".env"
    return env.read_text().splitlines() if env.exists() else []


@pytest.mark.parametrize("info", [GPU, CDI])
def test_a_gpu_is_used(tmp_path: Path, info: str) -> None:
    files = "COMPOSE_FILE=docker-compose.yml:docker-compose.gpu.yml"
    assert env_after(tmp_path, info) == [files]
    assert env_after(tmp_path, info) == [files]


def test_without_one_plain_compose_runs(tmp_path: Path) -> None:
    assert env_after(tmp_path, CPU) == []


def test_a_gpu_that_is_gone_is_not_asked_for(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("FCN_PUBLISH=80\n")
    env_after(tmp_path, GPU)
    assert env_after(tmp_path, CPU) == ["FCN_PUBLISH=80"]


def test_other_lines_and_files_stay(tmp_path: Path) -> None:
    secrets = tmp_path / ".env"
    secrets.write_text(
        "# mine\nFCN_PUBLISH=0.0.0.0:80\n\nCOMPOSE_FILE=docker-compose.yml:mine.yml\nA='b c'"
    )
    secrets.chmod(0o600)
    assert env_after(tmp_path, GPU) == [
        "# mine",
        "FCN_PUBLISH=0.0.0.0:80",
        "",
        "A='b c'",
        "COMPOSE_FILE=docker-compose.yml:mine.yml:docker-compose.gpu.yml",
    ]
    assert secrets.stat().st_mode & 0o777 == 0o600


def test_an_override_file_is_still_read(tmp_path: Path) -> None:
    (tmp_path / "docker-compose.override.yml").touch()
    (line,) = env_after(tmp_path, GPU)
    assert line == (
        "COMPOSE_FILE=docker-compose.yml:docker-compose.override.yml:docker-compose.gpu.yml"
    )


def test_an_override_file_made_later_is_read_too(tmp_path: Path) -> None:
    env_after(tmp_path, GPU)
    (tmp_path / "docker-compose.override.yml").touch()
    (line,) = env_after(tmp_path, GPU)
    assert line == (
        "COMPOSE_FILE=docker-compose.yml:docker-compose.override.yml:docker-compose.gpu.yml"
    )
    assert env_after(tmp_path, CPU) == []


def test_an_override_file_that_is_not_asked_for_is_not_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("COMPOSE_FILE=docker-compose.yml:mine.yml\n")
    (tmp_path / "docker-compose.override.yml").touch()
    assert env_after(tmp_path, CPU) == ["COMPOSE_FILE=docker-compose.yml:mine.yml"]


def test_without_an_engine_nothing_is_written(tmp_path: Path) -> None:
    done = choose(tmp_path, "Cannot connect to the Docker daemon", status=1)
    assert done.returncode == 2
    assert "no Docker engine answers" in done.stderr
    assert not (tmp_path / ".env").exists()
