"""What a run says it was made with."""

import subprocess
from pathlib import Path

import torch

from app.train.provenance import describe_environment, git_commit


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    command = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_a_commit_is_named_and_changes_are_told(tmp_path: Path) -> None:
    git(tmp_path, "init")
    (tmp_path / "code.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    git(tmp_path, "tag", "v1")
    commit = git_commit(tmp_path)
    assert git(tmp_path, "rev-parse", "HEAD").startswith(commit)
    assert len(commit) == 12
    (tmp_path / "code.py").write_text("2")
    assert git_commit(tmp_path) == f"{commit}-dirty"


def test_code_outside_a_checkout_has_the_commit_that_the_image_names(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.delenv("SOURCE_REVISION", raising=False)
    assert git_commit(tmp_path) == "not in a checkout"
    monkeypatch.setenv("SOURCE_REVISION", "0123abcd")
    assert git_commit(tmp_path) == "0123abcd"


def test_a_repository_that_git_refuses_gives_its_reason(tmp_path: Path) -> None:
    (tmp_path / ".git").write_text("gitdir: nowhere")
    assert git_commit(tmp_path).startswith("unknown: fatal: ")


def test_without_git_a_run_goes_on(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "git" in git_commit(tmp_path)


def test_the_environment_names_versions_and_device() -> None:
    environment = describe_environment(torch.device("cpu"))
    assert environment["PyTorch"] == torch.__version__
    assert environment["device"].startswith("CPU, ")
    assert {"commit", "Python", "torchvision", "system"} < environment.keys()
    assert all(environment.values())
