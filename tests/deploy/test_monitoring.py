"""Alerts and dashboard: promtool takes them, and every metric in them is one that there is."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from deployment_files import ROOT, documents, run, tool
from prometheus_client.parser import text_string_to_metric_families
from serve_doubles import PATIENCE_S, EngineDouble

from app.serve.application import create_app
from app.serve.errors import PROBLEMS
from app.serve.settings import Settings
from app.serve.telemetry import Telemetry

MONITORING = ROOT / "deploy" / "monitoring"
RULES = MONITORING / "prometheus" / "rules.yml"
DASHBOARD = MONITORING / "grafana" / "dashboards" / "fcn.json"
ADAPTER = ROOT / "deploy" / "k8s" / "autoscale" / "prometheus-adapter.yaml"

ON_CUDA = {"fcn_device_memory_allocated_bytes", "fcn_device_memory_reserved_bytes"}
"""Shown where the network runs on a GPU."""


@pytest.fixture
def promtool() -> str:
    return tool("promtool", "it is part of Debian's package prometheus")


def test_promtool_takes_configuration_and_rules(promtool: str) -> None:
    run(promtool, "check", "config", MONITORING / "prometheus" / "prometheus.yml")
    run(promtool, "check", "rules", "--lint-fatal", RULES)


def test_alerts_fire_when_they_should_and_not_otherwise(promtool: str) -> None:
    run(promtool, "test", "rules", Path(__file__).with_name("alerts.yml"))


def test_every_alert_has_a_test() -> None:
    (rules,) = documents(RULES)
    named = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    (tests,) = documents(Path(__file__).with_name("alerts.yml"))
    cases = [case for test in tests["tests"] for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in cases if "exp_alerts" in case} == named
    assert {case["alertname"] for case in tests["tests"][0]["alert_rule_test"]} == named


def expressions() -> Iterator[str]:
    """Yield every query of the rules, the dashboard and the cluster's adapter."""
    (rules,) = documents(RULES)
    for group in rules["groups"]:
        yield from (rule["expr"] for rule in group["rules"])
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    for variable in dashboard["templating"]["list"]:
        yield variable["query"]["query"]
    (adapter,) = documents(ADAPTER)
    for rule in adapter["rules"]["custom"]:
        yield rule["seriesQuery"]


def exposition() -> str:
    """Return what a server that is ready shows."""
    app = create_app(
        Settings(), load=lambda settings, serving: EngineDouble(), on_failure=pytest.fail
    )

    async def ask() -> str:
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")
        async with app.router.lifespan_context(app), client, asyncio.timeout(PATIENCE_S):
            while (await client.get("/health/ready")).status_code != 200:
                await asyncio.sleep(0.01)
            return (await client.get("/metrics")).text

    return asyncio.run(ask())


def test_every_metric_that_is_asked_for_is_shown() -> None:
    families = list(text_string_to_metric_families(exposition()))
    # Before the first request some have no samples; their names follow from their kind.
    shown = {sample.name for family in families for sample in family.samples} | ON_CUDA
    shown |= {
        f"{family.name}{suffix}"
        for family in families
        for suffix in {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(
            family.type, [""]
        )
    }
    asked = {name for text in expressions() for name in re.findall(r"\b(?:fcn|process)_\w+", text)}
    assert asked - shown == set()
    assert len(asked) > 15


def test_reasons_of_rejects_are_kinds_of_problems() -> None:
    slugs = {problem.slug for problem in PROBLEMS.values()}
    for text in expressions():
        assert slugs.issuperset(re.findall(r'rejects_total\{reason="([^"]+)"', text)), text


def test_the_outcome_that_is_watched_is_counted_from_zero() -> None:
    assert 'fcn_reloads_total{outcome="failed"} 0.0' in Telemetry().exposition().decode()


def test_the_dashboard_asks_the_source_that_is_provisioned() -> None:
    (sources,) = documents(MONITORING / "grafana/provisioning/datasources/prometheus.yml")
    (source,) = sources["datasources"]
    dashboard = json.loads(DASHBOARD.read_text())
    used = {target["datasource"]["uid"] for p in dashboard["panels"] for target in p["targets"]}
    assert used == {source["uid"]}
    identities = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(identities)) == len(identities)


def test_prometheus_and_grafana_find_each_other_in_compose() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    (configuration,) = documents(MONITORING / "prometheus" / "prometheus.yml")
    (scrape,) = configuration["scrape_configs"]
    hosts = {target.split(":")[0] for target in scrape["static_configs"][0]["targets"]}
    (sources,) = documents(MONITORING / "grafana/provisioning/datasources/prometheus.yml")
    hosts.add(sources["datasources"][0]["url"].split("/")[2].split(":")[0])
    assert hosts <= compose["services"].keys()
    for service in ("prometheus", "grafana"):
        for volume in compose["services"][service]["volumes"]:
            source = volume.split(":")[0]
            assert not source.startswith("./") or (ROOT / source).is_dir(), source


def test_the_memory_alert_knows_the_limits() -> None:
    (rules,) = documents(RULES)
    (alert,) = (
        rule for group in rules["groups"] for rule in group["rules"] if rule["alert"] == "FcnMemory"
    )
    gigabytes = re.search(r"\* (\d+) \* 1024 \^ 3", alert["expr"])
    assert gigabytes is not None
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert compose["services"]["serve"]["mem_limit"] == f"${{FCN_MEMORY:-{gigabytes[1]}g}}"
    (deployment,) = documents(ROOT / "deploy" / "k8s" / "base" / "deployment.yaml")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["memory"] == f"{gigabytes[1]}Gi"
