"""Each promise of docs/threat-model.md names existing tests."""

from __future__ import annotations

import re

from tools.pages import ROOT

TEXT = (ROOT / "docs/threat-model.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
SECTIONS = ("Assets", "Actors", "Boundaries", "Promises", "Not promised")


def _promises() -> list[str]:
    section = TEXT.partition("\n## Promises\n")[2].partition("\n## Not promised\n")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    return [row for row in rows if row != "| promise | test |"]


def test_every_section_exists() -> None:
    assert re.findall(r"^## (.+)$", TEXT, re.MULTILINE) == list(SECTIONS)


def test_each_promise_names_a_test() -> None:
    rows = _promises()
    assert len(rows) > 20
    assert [row for row in rows if not NAMED.search(row)] == []


def test_each_named_test_exists() -> None:
    named = NAMED.findall(TEXT)
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (ROOT / path).is_file() or f"def {name}(" not in (ROOT / path).read_text()
    ]
    assert missing == []
