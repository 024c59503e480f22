"""Prometheus and Grafana of the profile `monitoring`: rules that fire, and metrics that exist."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from store import metrics
from tests.docker.compose_document import DOCKER, REPOSITORY, SECRETS, services

MONITORING = DOCKER / "monitoring"
TESTS = Path(__file__).with_name("alerts_test.yaml")
SERVICES = services("compose.yaml", SECRETS)
RULES = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"][0]["rules"]
PANELS = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
OF_DETAIL = {"latentry_http_connections_refused", "latentry_queue_messages"}
EXPRESSIONS = [rule["expr"] for rule in RULES] + [
    target["expr"] for panel in PANELS for target in panel["targets"]
]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool: apt-get install prometheus")
@pytest.mark.parametrize(("kind", "file"), [("rules", "alerts.yaml"), ("config", "prometheus.yaml")])
def test_prometheus_accepts_its_files(kind: str, file: str) -> None:
    command = ["promtool", "check", kind, str(MONITORING / file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool: apt-get install prometheus")
def test_every_alert_fires_when_it_should_and_not_otherwise() -> None:
    done = subprocess.run(
        ["promtool", "test", "rules", str(TESTS)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tests = [one["alert_rule_test"][0] for one in yaml.safe_load(TESTS.read_text())["tests"]]
    names = {rule["alert"] for rule in RULES}
    assert {one["alertname"] for one in tests if one["exp_alerts"]} == names
    assert {one["alertname"] for one in tests if not one["exp_alerts"]} == names


def test_alerts_and_dashboard_read_metrics_and_labels_of_the_code() -> None:
    known = {one._name: one for one in vars(metrics).values() if isinstance(one, MetricWrapperBase)}
    for expression in EXPRESSIONS:
        for name, labels in re.findall(r"(latentry_\w+)(?:\{([^}]*)\})?", expression):
            metric = known[re.sub(r"_(total|bucket)$", "", name)]
            assert set(re.findall(r"(\w+)[=!]", labels)) <= set(metric._labelnames), expression
    used = set(re.findall(r"latentry_\w+", " ".join(EXPRESSIONS)))
    assert {re.sub(r"_(total|bucket)$", "", name) for name in used} >= {
        name for name in known if "duration" not in name and name not in OF_DETAIL
    }


def test_every_alert_has_a_paragraph_of_what_to_do() -> None:
    page = (REPOSITORY / "docs/operating.md").read_text()
    paragraphs = dict(
        re.findall(r"^### (Latentry\w+)\n\n(.+?)(?=\n\n)", page + "\n\n", re.MULTILINE | re.DOTALL)
    )
    assert set(paragraphs) == {rule["alert"] for rule in RULES}
    assert all(len(text) > 150 for text in paragraphs.values())


def test_prometheus_asks_every_service_that_has_metrics() -> None:
    (scrape,) = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())["scrape_configs"]
    (found,) = scrape["dns_sd_configs"]
    others = {"postgres", "redis", "migrate", "prometheus", "grafana"}
    assert set(found["names"]) == set(SERVICES) - others
    assert f"LATENTRY_METRICS_PORT={found['port']}" in (DOCKER / "env.example").read_text()
    for name in found["names"]:
        assert "backend" in SERVICES[name]["networks"]
    for name in ("prometheus", "grafana"):
        assert SERVICES[name]["profiles"] == ["monitoring"]
        for volume in SERVICES[name]["volumes"]:
            place = volume.split(":")[0]
            assert not place.startswith(".") or (DOCKER / place).exists()
