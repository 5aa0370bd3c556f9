"""The rules and dashboards on a real Prometheus, which scrapes a real gateway."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.deploy.files import DEPLOY, dashboard_queries
from tests.deploy.prometheus import prometheus
from tests.gateway.gateways import gateway_system
from tests.server_kinds import Server
from tests.systems import serving, until
from tests.telemetry.test_cell_metrics import flaky, talk

pytestmark = pytest.mark.prometheus
OF_TROUBLE = (
    "backpressure",
    "failed|missing",
    "jobs_waiting",
    "results_refused",
    "jobs_queued",
    "queue_wait",
    "archive",
)
"""Metrics that have samples only while something is wrong, waits, or is archived."""


def promtool(programs: Path, *words: str) -> str:
    done = subprocess.run(
        [programs / "promtool", *words], cwd=DEPLOY / "prometheus", capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_rules_are_valid_and_each_alert_fires_for_its_series(programs: Path) -> None:
    assert "SUCCESS" in promtool(programs, "check", "rules", "rules.yml")
    assert "SUCCESS" in promtool(programs, "test", "rules", "rules_test.yml")


async def query(http: httpx.AsyncClient, url: str, expression: str) -> list[dict[str, Any]]:
    try:
        reply = await http.get(f"{url}/api/v1/query", params={"query": expression})
    except httpx.TransportError:  # it starts
        return []
    if reply.status_code == 503:
        return []
    body = reply.json()
    assert body["status"] == "success", (expression, body)
    return list(body["data"]["result"])


def instant(expression: str) -> str:
    """A query of a dashboard with its variables replaced as Grafana does."""
    return expression.replace("$__rate_interval", "1m").replace("$cell", ".*")


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_every_query_of_a_dashboard_has_samples(
    server: Server, cell: str, programs: Path, tmp_path: Path
) -> None:
    async with gateway_system(server.url, cell) as system, serving(system.es, flaky()):
        target = system.url.removeprefix("http://")
        scraped = {"static_configs": [{"targets": [target]}]}
        with prometheus(programs, tmp_path, scraped) as url:
            async with httpx.AsyncClient(trust_env=False) as http:

                async def all_have_samples() -> bool:
                    await talk(system, sessions=1, utterances=1)  # a rate needs a change
                    results = [await query(http, url, instant(text)) for text in usual_queries()]
                    return all(results)

                await until("all panels have samples", all_have_samples)
                for text in dashboard_queries():
                    await query(http, url, instant(text))  # the others are valid


def usual_queries() -> list[str]:
    return [text for text in dashboard_queries() if not any(name in text for name in OF_TROUBLE)]
