"""The rules and dashboards on a real Prometheus, which scrapes a real gateway."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from eventsched.server.launch import free_ports
from tests.deploy.files import DEPLOY, dashboard_queries
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


@contextmanager
def prometheus(programs: Path, folder: Path, target: str) -> Iterator[str]:
    """A Prometheus that scrapes `target` each second; yields its URL."""
    (port,) = free_ports(1)
    config = folder / "prometheus.yml"
    config.write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(DEPLOY / "prometheus/rules.yml")],
                "scrape_configs": [
                    {"job_name": "eventsched", "static_configs": [{"targets": [target]}]}
                ],
            }
        )
    )
    log = (folder / "prometheus.log").open("wb")
    process = subprocess.Popen(
        [
            programs / "prometheus", f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=log, stderr=log, env=os.environ | {"GOMAXPROCS": "1"},
    )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)
        log.close()


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
        with prometheus(programs, tmp_path, target) as url:
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
