"""Tests do not sleep: they wait for a condition with a time limit (`until`, `wait_for`)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
IN_REAL_TIME = {"chaos", "soak"}
"""Folders with runs of whole systems under a schedule of faults; the log is checked afterwards."""
SLEEPS = {"time.sleep", "anyio.sleep", "asyncio.sleep"}
MARK = "# sleeps: "


def sleeps(source: str) -> Iterator[int]:
    """Yield the lines that call one of SLEEPS."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in SLEEPS:
            yield node.lineno


def test_each_sleep_has_a_reason() -> None:
    """A comment `# sleeps: …` names the reason: simulated work, a lasting fault, a varying time."""
    without_reason = []
    for path in sorted(TESTS.rglob("*.py")):
        if path.relative_to(TESTS).parts[0] not in IN_REAL_TIME:
            source = path.read_text(encoding="utf-8")
            if "sleep(" not in source:
                continue
            lines = source.splitlines()
            without_reason += [
                f"{path.relative_to(TESTS)}:{line}: wait for a condition, or add a reason: {MARK}…"
                for line in sleeps(source)
                if MARK not in lines[line - 1]
            ]
    assert without_reason == []


def test_a_sleep_is_found_in_every_form() -> None:
    source = "import time\ntime.sleep(1)\nasync def f():\n    await anyio.sleep(0)\n"
    assert list(sleeps(source + "    await store.sleep(1)\n")) == [2, 4]
