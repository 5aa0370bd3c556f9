"""Each metric that a rule, a dashboard or a scaler names exists, and each alert has its section."""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml

from eventsched.telemetry.catalog import CELL_METRICS, PREFIX, PROCESS_METRICS
from tests.deploy.files import DEPLOY, ROOT, alerts, dashboard_queries, manifests

METRICS = {metric.name: metric for metric in (*CELL_METRICS, *PROCESS_METRICS)}
NAMED = re.compile(rf"{PREFIX}(?P<name>[a-z_]+)(?:\{{(?P<labels>[^}}]*)\}})?")
PART = re.compile(r"_(?:bucket|count|sum)$")
LABEL = re.compile(r"(\w+)\s*[=!~]+")


def queries() -> Iterator[str]:
    yield from dashboard_queries()
    yield from (alert["expr"] for alert in alerts())
    for _, manifest in manifests():
        if manifest["kind"] == "ScaledObject":
            yield from (each["metadata"]["query"] for each in manifest["spec"]["triggers"])
    tests = yaml.safe_load((DEPLOY / "prometheus/rules_test.yml").read_text())["tests"]
    yield from (series["series"] for test in tests for series in test["input_series"])


def test_every_metric_and_label_of_a_query_exists() -> None:
    found = 0
    for query in queries():
        for match in NAMED.finditer(query):
            found += 1
            name = match["name"]
            metric = METRICS.get(name) or METRICS.get(PART.sub("", name))
            assert metric is not None, name
            labels = set(LABEL.findall(match["labels"] or ""))
            assert labels <= {*metric.labels, "instance", "job", "le"}, query
    assert found > 60


def test_every_alert_has_a_section_that_says_what_to_do() -> None:
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs/alerts.md").read_text(), re.MULTILINE)
    assert headings == [alert["alert"] for alert in alerts()]
    for alert in alerts():
        assert alert["annotations"]["runbook"] == f"docs/alerts.md#{alert['alert'].lower()}"
        assert alert["labels"]["severity"] in ("page", "ticket")


def test_every_alert_is_played() -> None:
    tests = yaml.safe_load((DEPLOY / "prometheus/rules_test.yml").read_text())["tests"]
    played = {
        rule["alertname"]
        for test in tests
        for rule in test["alert_rule_test"]
        if rule["exp_alerts"]
    }
    assert played == {alert["alert"] for alert in alerts()}
