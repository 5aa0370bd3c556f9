"""docs/failures.md names a test for each row, and each of them is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def _rows() -> list[str]:
    lines = (ROOT / "docs/failures.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    return [line for line in rows if not line.startswith("| what fails")]


def test_each_row_names_its_test() -> None:
    rows = _rows()
    assert len(rows) > 25
    assert [row for row in rows if not NAMED.search(row)] == []


def test_each_named_test_is_there() -> None:
    for path, name in NAMED.findall("\n".join(_rows())):
        assert f"def {name}(" in (ROOT / path).read_text(), f"{path}::{name}"
