"""The files in deploy/, parsed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
RULES: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus/rules.yml").read_text())


def manifests() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each Kubernetes object with the name of its file."""
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            yield path.name, document


def dashboards() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted((DEPLOY / "grafana").glob("*.json")):
        yield path.stem, json.loads(path.read_text())


def alerts() -> Iterator[dict[str, Any]]:
    for group in RULES["groups"]:
        yield from group["rules"]


def dashboard_queries() -> Iterator[str]:
    for _, dashboard in dashboards():
        for panel in dashboard["panels"]:
            yield from (target["expr"] for target in panel["targets"])
