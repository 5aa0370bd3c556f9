"""Every word and code of `history` and `why` has a meaning."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from eventsched.audit import explain
from eventsched.audit.meanings import CODES, FIELDS, STAGES, TERMS, VERDICTS, event_meanings
from eventsched.audit.scheduler_state import Verdict
from eventsched.errors import JOB_CODES
from eventsched.schema import events
from eventsched.timeline import render
from eventsched.timeline.render import LEGEND

PACKAGE = Path(explain.__file__).parents[1]
NOT_SHOWN = {
    "CELL_UNKNOWN", "CHUNK_TOO_LARGE", "INVALID_MESSAGE", "NODE_DRAINED", "NODE_SUPERSEDED",
    "NODE_UNKNOWN", "SEQ_GAP", "SESSION_CLOSED", "SESSION_SUPERSEDED", "SESSION_UNKNOWN",
    "STATE_DAMAGED",
}  # fmt: skip
"""Codes that refuse a call of a program; no event has them."""


def words_of(hint: Any) -> set[str]:
    """The words of all Literals in a type."""
    if get_origin(hint) is Literal:
        return set(get_args(hint)) - {""}
    return set().union(*map(words_of, get_args(hint)))


def fields() -> Iterator[tuple[str, set[str]]]:
    """Each field of an event that has one of some words."""
    for kind in get_args(events.AnyData):
        for name, hint in get_type_hints(kind, include_extras=True).items():
            if words := words_of(hint):
                yield f"{kind.__name__}.{name}", words


def test_each_word_of_an_event_has_a_meaning_and_no_other_has_one() -> None:
    by_field = dict(fields())
    assert len(by_field) > 15
    assert FIELDS.keys() == by_field.keys()
    for field, words in by_field.items():
        # `missing` is an outcome, too, which ResultMissing records.
        extra = {"missing"} if field == "ResultDelivered.outcome" else set()
        assert FIELDS[field].keys() == words | extra, field


def test_each_event_type_has_a_meaning() -> None:
    assert event_meanings().keys() == {kind.__name__ for kind in get_args(events.AnyData)}
    assert all(text.endswith(".") for text in event_meanings().values())


def codes_in(*folders: str) -> set[str]:
    """The codes in the text of Python and Lua files."""
    found: set[str] = set()
    for folder in folders:
        for path in (PACKAGE / folder).rglob("*"):
            if path.suffix in (".py", ".lua"):
                text = path.read_text(encoding="utf-8")
                found |= set(re.findall(r"""['"]([A-Z]+(?:_[A-Z]+)+)['"]""", text))
    return {code for code in found if not code.startswith("EVENTSCHED_")}


def test_each_code_that_the_system_reports_has_a_meaning() -> None:
    assert CODES.keys() >= JOB_CODES
    assert codes_in("lua", "node", "demo", "client", "encryption") - NOT_SHOWN <= CODES.keys()


def test_each_state_of_a_node_and_each_stage_has_a_meaning() -> None:
    assert VERDICTS.keys() == set(explain.ORDER)
    assert set(re.findall(r"\w+", str(get_args(Verdict)))) <= VERDICTS.keys()
    tree = ast.parse(Path(explain.__file__).read_text(encoding="utf-8"))
    named = {
        keyword.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Stage"
        for keyword in node.keywords
        if keyword.arg == "name" and isinstance(keyword.value, ast.Constant)
    }
    (function,) = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == "_stage_after"
    ]
    returned = {
        node.value.value
        for node in ast.walk(function)
        if isinstance(node, ast.Return)
        and isinstance(node.value, ast.Constant)
        and node.value.value
    }
    # "dispatch" begins the stages after the finalize; an attempt has its number.
    assert named | returned | {"dispatch", "attempt"} == STAGES.keys()


def test_each_shape_of_a_picture_has_a_meaning() -> None:
    styles = set(re.findall(r"\.([a-z_]+)\{fill", render.STYLE))
    kinds = {entry.kind for entry in LEGEND}
    assert kinds <= styles | {"missing", "refused", "undispatched", "waiting", "failed"}
    assert all(entry.meaning for entry in LEGEND)
    assert {kind for _, kind in [(e.shape, e.kind) for e in LEGEND]} >= set(render.OVERVIEW)


@pytest.mark.parametrize("words", [CODES, VERDICTS, STAGES, TERMS, *FIELDS.values()])
def test_a_meaning_is_a_phrase(words: dict[str, str]) -> None:
    for word, meaning in words.items():
        assert meaning[0].islower(), word
        assert not meaning.endswith("."), word
