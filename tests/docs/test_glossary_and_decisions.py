"""The glossary defines each term once; the index of decisions lists every page."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from tools.pages import ROOT

GLOSSARY = ROOT / "docs/glossary.md"
DECISIONS = ROOT / "docs/adr"
TERM = re.compile(r"^\| \*\*(?P<term>[^*]+)\*\*(?P<of>[^|]*) \| (?P<meaning>.+) \|$", re.MULTILINE)
INDEXED = re.compile(r"^\| \[(\d{4})\]\(([\w-]+\.md)\) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
PAGES = sorted(path.name for path in DECISIONS.glob("[0-9]*.md"))


def _terms() -> list[str]:
    return [match["term"] + match["of"] for match in TERM.finditer(GLOSSARY.read_text())]


def test_each_term_is_defined_once() -> None:
    terms = _terms()
    assert len(terms) > 50
    assert len(terms) == len(set(terms))


def test_terms_are_in_alphabetical_order_within_their_section() -> None:
    for section in GLOSSARY.read_text().split("\n## ")[1:]:
        terms = [match["term"] for match in TERM.finditer(section)]
        assert [(a, b) for a, b in pairwise(terms) if a > b] == []


def test_each_row_of_the_glossary_is_a_term() -> None:
    rows = [line for line in GLOSSARY.read_text().splitlines() if line.startswith("| **")]
    assert len(rows) == len(_terms())


def test_the_index_lists_every_decision_by_its_title_and_state() -> None:
    listed = INDEXED.findall((DECISIONS / "README.md").read_text())
    assert [file for _, file, _, _ in listed] == PAGES
    for no, file, title, state in listed:
        text = (DECISIONS / file).read_text()
        assert file.startswith(f"{no}-")
        assert text.startswith(f"# {no}: {title}\n\nState: {state}")


@pytest.mark.parametrize("name", PAGES)
def test_a_decision_has_context_decision_and_consequences(name: str) -> None:
    titles = re.findall(r"^## (.+)$", (DECISIONS / name).read_text(), re.MULTILINE)
    assert titles == ["Context", "Decision", "Consequences"]
