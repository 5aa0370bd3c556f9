"""A chaos run of some seconds in every suite: each kind of fault comes at least once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.chaos.faults import KINDS, plan

ROOT = Path(__file__).parents[2]
MINUTES = 0.35
SEED = 1


def test_a_short_run_has_no_violation(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.run", "--seed", str(SEED), "--minutes", str(MINUTES),
         "--keep", str(tmp_path / "run")],
        cwd=ROOT, capture_output=True, text=True, timeout=170, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3_000:]
    report = json.loads(done.stdout)
    assert report["good"]
    assert report["violations"] == []
    assert report["judged"]["results"] > 50
    assert report["verified"]["dead_letters"] == 0
    assert any(name.startswith("killed") for name in report["faults"])


def test_each_kind_of_fault_is_in_a_short_plan() -> None:
    assert {fault.kind for fault in plan(SEED, MINUTES * 60)} == set(KINDS)


def test_a_seed_gives_the_same_plan_again() -> None:
    assert plan(7, 300) == plan(7, 300)
    assert plan(7, 300) != plan(8, 300)
