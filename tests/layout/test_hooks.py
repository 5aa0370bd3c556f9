"""The hooks before a commit and on a push call targets of the Makefile and fetch nothing."""

from __future__ import annotations

import os
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_hooks_before_a_commit_call_targets_of_the_makefile() -> None:
    text = (ROOT / ".pre-commit-config.yaml").read_text()
    assert re.findall(r"- repo: (\S+)", text) == ["local"]
    called = re.findall(r"entry: make ([a-z-]+)\n", text)
    assert len(called) == text.count("entry:") > 1
    assert set(called) <= TARGETS


def test_the_workflow_runs_the_gate_and_the_gate_calls_targets_of_the_makefile() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert re.findall(r"run: (.+)", workflow) == [".ci/run"]
    gate = ROOT / ".ci" / "run"
    assert os.access(gate, os.X_OK)
    called = set(re.findall(r"\bmake ([a-z-]+)", gate.read_text()))
    assert (
        {
            "setup",
            "lint",
            "types",
            "types-js",
            "test",
            "test-cluster",
            "test-browser",
            "sim",
            "demo",
        }
        <= called
        <= TARGETS
    )
