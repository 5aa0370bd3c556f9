"""The Kubernetes manifests: valid, confined, with commands that exist."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml

from eventsched.cli.app import COMMANDS
from eventsched.roles.runner import ROLES, TRACES
from eventsched.telemetry.otlp import check_url
from tests.deploy.files import DEPLOY, manifests

VERSION = "1.31"
FOREIGN = {"Kustomization", "ScaledObject"}
"""Kinds that Kubernetes itself does not know."""
OPTIONAL = {"scaler.yaml", "traces.yaml"}
"""Files that need KEDA or a collector."""
SCALED_OBJECT = {
    "scaleTargetRef", "pollingInterval", "cooldownPeriod", "minReplicaCount", "maxReplicaCount",
    "triggers",
}  # fmt: skip
"""Fields of a ScaledObject, as KEDA documents them."""
PROMETHEUS_TRIGGER = {"serverAddress", "query", "threshold"}


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, manifest in manifests():
        template = manifest.get("spec", {}).get("template")
        if template:
            yield f"{name}: {manifest['metadata']['name']}", template["spec"]


@pytest.mark.parametrize(
    "manifest",
    [each for _, each in manifests() if each["kind"] not in FOREIGN],
    ids=lambda each: f"{each['kind']}-{each['metadata']['name']}",
)
def test_every_manifest_fits_the_schema_of_kubernetes(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, VERSION, strict=True)


def test_a_wrong_manifest_is_found() -> None:
    """The validation above can fail."""
    (wrong, *_) = (each for _, each in manifests() if each["kind"] == "Deployment")
    wrong["spec"]["replicas"] = "two"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSION, strict=True)


def test_kustomize_lists_every_file_but_those_that_need_more() -> None:
    kustomization = yaml.safe_load((DEPLOY / "kubernetes/kustomization.yaml").read_text())
    files = {path.name for path in (DEPLOY / "kubernetes").glob("*.yaml")}
    assert set(kustomization["resources"]) == files - {"kustomization.yaml", *OPTIONAL}


def test_the_scaler_has_the_documented_fields_and_a_target_that_exists() -> None:
    (scaler,) = (each for _, each in manifests() if each["kind"] == "ScaledObject")
    assert scaler["apiVersion"] == "keda.sh/v1alpha1"
    assert scaler["spec"].keys() <= SCALED_OBJECT
    (trigger,) = scaler["spec"]["triggers"]
    assert trigger["type"] == "prometheus"
    assert trigger["metadata"].keys() == PROMETHEUS_TRIGGER
    target = scaler["spec"]["scaleTargetRef"]
    names = {(each["kind"], each["metadata"]["name"]) for _, each in manifests()
             if each["kind"] != "Kustomization"}  # fmt: skip
    assert (target["kind"], target["name"]) in names


def test_every_pod_is_confined_and_runs_a_command_that_exists() -> None:
    roles = set()
    for name, pod in pods():
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not pod["automountServiceAccountToken"], name
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"], name
            assert not context["allowPrivilegeEscalation"], name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["limits"]["memory"], name
            assert "livenessProbe" in container or "readinessProbe" in container, name
            program, command, *words = container["args"]
            assert program == "eventsched" and command in COMMANDS, name
            if command == "run":
                roles.add(words[0])
    assert roles == {*ROLES, TRACES, "gateway"}


def test_the_role_traces_names_a_collector_and_its_own_probe() -> None:
    ((_, pod),) = [each for each in pods() if each[0].startswith("traces.yaml")]
    (container,) = pod["containers"]
    (url,) = [each["value"] for each in container["env"] if each["name"] == "EVENTSCHED_OTLP"]
    assert check_url(url) == url
    assert container["livenessProbe"]["exec"]["command"][-1] == TRACES


def test_every_role_keeps_a_process_while_machines_are_emptied() -> None:
    budgets = {each["metadata"]["name"]: each["spec"] for _, each in manifests()
               if each["kind"] == "PodDisruptionBudget"}  # fmt: skip
    replicas = {
        each["metadata"]["name"]: each["spec"]["replicas"]
        for _, each in manifests()
        if each["kind"] in ("Deployment", "StatefulSet")
    }
    for name, budget in budgets.items():
        assert budget.get("minAvailable", 0) < replicas[name], name
    assert budgets.keys() == {name for name, count in replicas.items() if count > 1}
