"""deploy/compose/telemetry.yml: what it starts exists, and reaches what it names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from eventsched.history.roles import GATEWAY
from eventsched.roles.runner import ROLES, TRACES
from eventsched.telemetry.otlp import check_url
from tests.deploy.files import DEPLOY, ROOT


def read(path: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / path).read_text())
    return loaded


def with_program() -> dict[str, str]:
    """The environment, with the program of this environment on PATH."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


OWN = read("deploy/compose/telemetry.yml")["services"]
SERVICES = read("docker-compose.yml")["services"] | OWN
COLLECTOR = read("deploy/collector/collector.yml")


def test_it_runs_roles_that_exist() -> None:
    ours = [
        each["command"] for each in OWN.values() if each.get("command", [""])[0] == "eventsched"
    ]
    assert {(command[1], command[2]) for command in ours} == {("run", TRACES), ("run", GATEWAY)}
    assert OWN["traces"]["healthcheck"]["test"][-1] == TRACES
    assert TRACES not in ROLES


def test_traces_go_to_a_port_of_the_collector() -> None:
    url = urlsplit(check_url(OWN["traces"]["command"][-1]))
    assert url.hostname in SERVICES
    endpoints = {name: each["endpoint"] for name, each in
                 COLLECTOR["receivers"]["otlp"]["protocols"].items()}  # fmt: skip
    assert endpoints[url.scheme] == f"0.0.0.0:{url.port}"


def test_each_part_of_a_pipeline_of_the_collector_is_declared() -> None:
    for pipeline in COLLECTOR["service"]["pipelines"].values():
        for kind, names in pipeline.items():
            assert set(names) <= set(COLLECTOR[kind])
    for exporter in COLLECTOR["exporters"].values():
        assert exporter["endpoint"].partition(":")[0] in SERVICES


def test_prometheus_and_grafana_read_services_that_exist() -> None:
    targets = [
        target
        for job in read("deploy/prometheus/prometheus.yml")["scrape_configs"]
        for each in job["static_configs"]
        for target in each["targets"]
    ]
    sources = [
        urlsplit(source["url"]).netloc
        for file in (DEPLOY / "grafana/provisioning/datasources").iterdir()
        for source in yaml.safe_load(file.read_text())["datasources"]
    ]
    for address in [*targets, *sources]:
        assert address.partition(":")[0] in SERVICES, address


def test_no_container_gets_a_private_key_or_a_folder_with_one() -> None:
    whole = read("deploy/compose/telemetry.yml")
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    for secret in whole["secrets"].values():
        assert secret["file"].startswith("./keys/")
        assert not secret["file"].endswith(".key")
    assert "/keys/" in ignored
    for name, service in OWN.items():
        for volume in service.get("volumes", []):
            assert not volume.startswith("./keys"), name
    path = SERVICES["gateway"]["environment"]["EVENTSCHED_TOKEN_KEYS"]
    assert path == f"/run/secrets/{OWN['gateway']['secrets'][0]}"
    (scrape,) = [
        job
        for job in read("deploy/prometheus/prometheus.yml")["scrape_configs"]
        if "authorization" in job
    ]
    token = scrape["authorization"]["credentials_file"]
    assert token == f"/run/secrets/{OWN['prometheus']['secrets'][0]}"


def test_the_commands_that_make_keys_and_token_are_complete(tmp_path: Path) -> None:
    text = (DEPLOY / "compose/telemetry.yml").read_text()
    commands = re.sub(r"\\\n *#", "", text)
    lines = re.findall(r"^ *#   (.*eventsched token .*)$", commands, re.MULTILINE)
    assert len(lines) == 2
    for line in lines:
        subprocess.run(["sh", "-c", line], cwd=tmp_path, env=with_program(), check=True)
    assert (tmp_path / "keys/prometheus.token").read_text().count(".") == 2
    assert (tmp_path / "keys/token.key.jwks.json").exists()


def test_only_grafana_has_a_port_and_no_service_has_rights() -> None:
    assert {name for name, service in OWN.items() if "ports" in service} == {"grafana"}
    for name, service in OWN.items():
        if "image" in service:
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name
