"""No test sleeps to be right: it waits for a fact within a bound (`until`, `wait_for`)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
IN_REAL_TIME = {"chaos", "soak"}
"""Whole systems under a schedule of faults; what they promise is judged from the log afterwards."""
SLEEPS = {"time.sleep", "anyio.sleep", "asyncio.sleep"}
MARK = "# sleeps: "


def sleeps(source: str) -> Iterator[int]:
    """The lines that call one of SLEEPS."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in SLEEPS:
            yield node.lineno


def test_each_sleep_says_what_takes_so_long() -> None:
    """Work that is simulated, a fault that lasts, a moment that varies: `# sleeps: …`."""
    silent = []
    for path in sorted(TESTS.rglob("*.py")):
        if path.relative_to(TESTS).parts[0] not in IN_REAL_TIME:
            source = path.read_text(encoding="utf-8")
            if "sleep(" not in source:
                continue
            lines = source.splitlines()
            silent += [
                f"{path.relative_to(TESTS)}:{line}: wait for a fact, or say why: {MARK}…"
                for line in sleeps(source)
                if MARK not in lines[line - 1]
            ]
    assert silent == []


def test_a_sleep_is_seen_in_every_form() -> None:
    source = "import time\ntime.sleep(1)\nasync def f():\n    await anyio.sleep(0)\n"
    assert list(sleeps(source + "    await store.sleep(1)\n")) == [2, 4]
