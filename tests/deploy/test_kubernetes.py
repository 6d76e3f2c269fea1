"""The manifests: valid by Kubernetes' own schemas, and in agreement with the service."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from deployment_files import ROOT, VERSION, documents, run, tool

from app.serve.healthcheck import PORT
from app.serve.settings import Settings

K8S = ROOT / "deploy" / "k8s"
RELEASES = ("1.30", "1.37")
"""The first Kubernetes release that knows `preStop.sleep` unasked, and a late one."""

# Parts that make sense only within others, and another program's settings.
FRAGMENTS = {"kustomization.yaml", "gpu.yaml", "checkpoint.yaml", "prometheus-adapter.yaml"}
MANIFESTS = sorted(path for path in K8S.rglob("*.yaml") if path.name not in FRAGMENTS)


def manifest(name: str) -> dict[str, Any]:
    (document,) = documents(K8S / name)
    return document


@pytest.fixture(scope="module")
def deployment() -> dict[str, Any]:
    return manifest("base/deployment.yaml")["spec"]


@pytest.fixture(scope="module")
def server(deployment: dict[str, Any]) -> dict[str, Any]:
    (container,) = deployment["template"]["spec"]["containers"]
    return container


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: str(path.relative_to(K8S)))
@pytest.mark.parametrize("release", RELEASES)
def test_manifests_are_valid(path: Path, release: str) -> None:
    for document in documents(path):
        kubernetes_validate.validate(document, release, strict=True)


@pytest.mark.parametrize("folder", ["base", "gpu", "own-checkpoint"])
def test_put_together_they_are_valid(folder: str) -> None:
    kubectl = tool("kubectl", "see kubernetes.io/docs/tasks/tools")
    rendered = list(yaml.safe_load_all(run(kubectl, "kustomize", K8S / folder)))
    for document in rendered:
        kubernetes_validate.validate(document, RELEASES[-1], strict=True)
    (deployment,) = (document for document in rendered if document["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"fcn-service:{VERSION}"
    assert container["securityContext"]["readOnlyRootFilesystem"]
    limits = container["resources"]["limits"]
    assert ("nvidia.com/gpu" in limits) == (folder == "gpu")
    assert "memory" in limits


def test_kustomize_lists_every_manifest() -> None:
    listed = manifest("base/kustomization.yaml")["resources"]
    assert sorted(["kustomization.yaml", *listed]) == sorted(
        path.name for path in (K8S / "base").iterdir()
    )


def test_a_pod_has_time_to_drain(deployment: dict[str, Any], server: dict[str, Any]) -> None:
    environment = {entry["name"]: entry.get("value") for entry in server["env"]}
    waits = server["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace = deployment["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace > waits + float(environment["FCN_DRAIN_S"])


def test_what_is_set_are_settings(server: dict[str, Any]) -> None:
    values = {
        entry["name"].removeprefix("FCN_").lower(): entry["value"]
        for entry in server["env"]
        if entry["name"].startswith("FCN_")
    }
    Settings(**values)
    assert len(values) > 2


def test_probes_ask_the_right_questions(server: dict[str, Any]) -> None:
    paths = {name: server[f"{name}Probe"]["httpGet"]["path"] for name in ("liveness", "readiness")}
    assert paths == {"liveness": "/health/live", "readiness": "/health/ready"}
    (port,) = server["ports"]
    assert port["containerPort"] == PORT
    for probe in ("startup", "readiness", "liveness"):
        assert server[f"{probe}Probe"]["httpGet"]["port"] == port["name"]


def test_everything_selects_the_server(deployment: dict[str, Any]) -> None:
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels
    assert manifest("base/service.yaml")["spec"]["selector"] == labels
    assert manifest("base/disruption.yaml")["spec"]["selector"]["matchLabels"] == labels
    assert manifest("base/network.yaml")["spec"]["podSelector"]["matchLabels"] == labels


@pytest.mark.parametrize("name", ["base/deployment.yaml", "own-checkpoint/train.yaml"])
def test_pods_meet_the_restricted_standard(name: str) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted."""
    pod = manifest(name)["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert (
        f"useradd --uid {pod['securityContext']['runAsUser']} " in (ROOT / "Dockerfile").read_text()
    )
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not pod["enableServiceLinks"]
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_autoscaler_asks_for_what_the_adapter_gives() -> None:
    autoscaler = manifest("autoscale/autoscaler.yaml")["spec"]
    (metric,) = autoscaler["metrics"]
    (rule,) = manifest("autoscale/prometheus-adapter.yaml")["rules"]["custom"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    target = manifest("base/deployment.yaml")
    assert autoscaler["scaleTargetRef"]["name"] == target["metadata"]["name"]
