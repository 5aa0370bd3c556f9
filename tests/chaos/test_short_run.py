"""A chaos run of some seconds in every suite: each kind of fault occurs at least once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from eventsched.server.discovery import find
from tests.chaos.faults import kinds_of, plan
from tests.chaos.fleet import Fleet
from tests.chaos.injector import FaultInjector
from tests.chaos.topologies import TOPOLOGIES

ROOT = Path(__file__).parents[2]
MINUTES = 0.25
GAP_S = 0.45
SEED = 9
KINDS = kinds_of("standalone")


def test_a_short_run_has_no_violation(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.run", "--seed", str(SEED), "--minutes", str(MINUTES),
         "--gap", str(GAP_S), "--rooms", "2", "--no-epilogues", "--keep", str(tmp_path / "run"),
         "--metrics", str(tmp_path / "targets.json")],
        cwd=ROOT, capture_output=True, text=True, timeout=170, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3_000:]
    groups = json.loads((tmp_path / "targets.json").read_bytes())
    assert {group["labels"]["job"]: len(group["targets"]) for group in groups} == {
        "eventsched": 2, "eventsched-processes": 12,
    }  # fmt: skip
    report = json.loads(done.stdout)
    assert report["good"]
    assert report["violations"] == []
    assert report["judged"]["results"] > 50
    assert report["verified"]["dead_letters"] == 0
    assert report["verified"]["trimmed_entries"] > 0
    assert any(name.startswith("killed") for name in report["faults"])


def test_each_kind_of_fault_is_in_a_short_plan() -> None:
    assert {fault.kind for fault in plan(SEED, MINUTES * 60, KINDS, GAP_S)} == set(KINDS)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_each_kind_of_fault_is_in_a_plan_of_five_minutes(topology: str) -> None:
    kinds = kinds_of(topology)
    assert {fault.kind for fault in plan(7, 300, kinds)} == set(kinds)


def test_a_seed_gives_the_same_plan_again() -> None:
    assert plan(7, 300, KINDS) == plan(7, 300, KINDS)
    assert plan(7, 300, KINDS) != plan(8, 300, KINDS)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_each_kind_of_fault_has_an_action(topology: str, tmp_path: Path) -> None:
    servers = TOPOLOGIES[topology](tmp_path, SEED, find())
    injector = FaultInjector(Fleet(tmp_path), servers, servers.proxies, None)
    assert set(kinds_of(topology)) <= set(injector.actions)
