"""Mechanical mutants of the Lua scripts: one small change each, all of them.

Owns: where the source can be changed, and into what: each condition negated, each write removed,
each boundary of a comparison moved; the anchor of each in the syntax tree.
Never does: choose which are run, run them. Read next: chosen.py, bench.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import tree_sitter_lua
from tree_sitter import Language, Node, Parser

from eventsched.schema.events import AnyData
from tests.mutants.mutant import ROOT, Anchor, Mutant, numbered

FOLDER = "eventsched/lua"
MOVED = {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}
EVENTS = {kind.__name__ for kind in get_args(AnyData)}
WRITERS = {"write", "timers.set", "timers.set_earlier", "timers.cancel"}
_parser = Parser(Language(tree_sitter_lua.language()))


def all_mutants(root: Path = ROOT) -> list[Mutant]:
    """Every mutant of every script and include, in the order of files and lines."""
    files = sorted((root / FOLDER).rglob("*.lua"))
    return [mutant for file in files for mutant in of_file(root, file)]


def of_file(root: Path, file: Path) -> list[Mutant]:
    source = file.read_bytes()
    name = str(file.relative_to(root))
    return numbered(_mutants(name, source))


def shape_of(code: str) -> str:
    """The shape of an expression that is given as text."""
    return _shape(_parser.parse(f"return {code}".encode()).root_node).removeprefix("return ")


def is_valid(source: bytes) -> bool:
    """Whether this is Lua."""
    return not _parser.parse(source).root_node.has_error


def _mutants(name: str, source: bytes) -> Iterator[Mutant]:
    for node in _nodes(_parser.parse(source).root_node):
        for kind, whole, at, changed in _changes(node):
            yield Mutant(
                name,
                at.start_point.row + 1,
                Anchor(_function(node) or Path(name).stem, kind, _shape(whole)),
                " ".join(_text(whole).split()),
                at.start_byte,
                at.end_byte,
                changed,
            )


def _nodes(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from _nodes(child)


def _changes(node: Node) -> Iterator[tuple[str, Node, Node, str]]:
    """(kind, the code that names the place, the node in it to replace, what by)."""
    condition = node.child_by_field_name("condition")
    if condition is not None and node.type in ("if_statement", "elseif_statement"):
        yield "negated", condition, condition, f"not ({_text(condition)})"
    if node.type == "function_call" and _writes(node):
        is_statement = node.parent is not None and node.parent.type in ("block", "chunk")
        yield "removed", node, node, "" if is_statement else "'0'"
    if node.type == "binary_expression":
        operator = node.children[1]
        if operator.type in MOVED:
            yield "moved", node, operator, MOVED[operator.type]


def _writes(call: Node) -> bool:
    called = call.child_by_field_name("name")
    if called is None:
        return False
    return _text(called) in WRITERS or _text(called).removeprefix("events.") in EVENTS


def _function(node: Node) -> str:
    """The function that holds the node, by the name it is defined or assigned to; one that is
    passed to a call counts as a part of what is around it. "" is the body of the file.
    """
    passed_to, around = "", node.parent
    while around is not None:
        if around.type == "function_declaration":
            name = around.child_by_field_name("name")
            assert name is not None
            return _text(name)
        if around.type == "function_definition":
            receiver = _receiver(around)
            if receiver is not None and receiver.type == "function_call":
                passed_to = _text(receiver.children[0])
            elif receiver is not None:
                return _text(receiver)
        around = around.parent
    return passed_to


def _receiver(function: Node) -> Node | None:
    """`x.y` in `x.y = function`, `t` in `{ t = function`, the call in `on(function`."""
    around = function.parent
    while around is not None and around.type in ("expression_list", "arguments"):
        around = around.parent
    if around is None or around.type == "function_call":
        return around
    if around.type == "assignment_statement":
        return around.named_children[0]
    return around.child_by_field_name("name")


def _shape(node: Node) -> str:
    numbers: dict[str, str] = {}
    return " ".join(_shaped(leaf, numbers) for leaf in _leaves(node))


def _leaves(node: Node) -> Iterator[Node]:
    if not node.children or node.type == "string":
        yield node
        return
    for child in node.children:
        yield from _leaves(child)


def _shaped(leaf: Node, numbers: dict[str, str]) -> str:
    if leaf.type != "identifier" or _is_field(leaf):
        return _text(leaf)
    return numbers.setdefault(_text(leaf), f"${len(numbers) + 1}")


def _is_field(leaf: Node) -> bool:
    """Whether the name is that of a field: a part of what is stored or of another module."""
    parent = leaf.parent
    if parent is None:
        return False
    if parent.type in ("dot_index_expression", "method_index_expression"):
        return parent.children[0] != leaf
    return parent.type == "field" and parent.child_by_field_name("name") == leaf


def _text(node: Node) -> str:
    assert node.text is not None
    return node.text.decode()
