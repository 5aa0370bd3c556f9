"""Mechanical mutants of the Lua scripts: one small change each, all of them.

Owns: where the source can be changed, and into what: each condition negated, each write removed,
each boundary of a comparison moved.
Never does: choose which are run, run them. Read next: chosen.py, bench.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import tree_sitter_lua
from tree_sitter import Language, Node, Parser

from eventsched.schema.events import AnyData
from tests.mutants.mutant import ROOT, Mutant

FOLDER = "eventsched/lua"
EVENTS = {kind.__name__ for kind in get_args(AnyData)}
MOVED = {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}
WRITERS = {"write", "timers.set", "timers.set_earlier", "timers.cancel"}
_parser = Parser(Language(tree_sitter_lua.language()))


def all_mutants(root: Path = ROOT) -> list[Mutant]:
    """Every mutant of every script and include, in the order of files and lines."""
    files = sorted((root / FOLDER).rglob("*.lua"))
    return [mutant for file in files for mutant in of_file(root, file)]


def of_file(root: Path, file: Path) -> Iterator[Mutant]:
    source = file.read_bytes()
    name = str(file.relative_to(root))
    for node in _nodes(_parser.parse(source).root_node):
        for kind, at, changed in _changes(node):
            yield Mutant.of(name, source, kind, at.start_byte, at.end_byte, changed)


def is_valid(source: bytes) -> bool:
    """Whether this is Lua."""
    return not _parser.parse(source).root_node.has_error


def _nodes(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from _nodes(child)


def _changes(node: Node) -> Iterator[tuple[str, Node, str]]:
    """(kind, the node to replace, what by)."""
    condition = node.child_by_field_name("condition")
    if condition is not None and node.type in ("if_statement", "elseif_statement"):
        yield "negated", condition, f"not ({_text(condition)})"
    if node.type == "function_call" and _writes(node):
        is_statement = node.parent is not None and node.parent.type in ("block", "chunk")
        yield "removed", node, "" if is_statement else "'0'"
    if node.type == "binary_expression":
        operator = node.children[1]
        if operator.type in MOVED:
            yield "moved", operator, MOVED[operator.type]


def _writes(call: Node) -> bool:
    called = call.child_by_field_name("name")
    if called is None:
        return False
    return _text(called) in WRITERS or _text(called).removeprefix("events.") in EVENTS


def _text(node: Node) -> str:
    assert node.text is not None
    return node.text.decode()
