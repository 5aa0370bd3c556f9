"""What the syntax tree of a Lua file says: the names that it takes from elsewhere, what it calls.

Owns: the scopes of Lua 5.1. Never does: run Lua. Read next: test_includes.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import tree_sitter_lua
from tree_sitter import Language, Node, Parser

BUILTINS = frozenset({
    "redis", "cjson", "string", "table", "math", "ipairs", "pairs", "tonumber", "tostring", "type",
    "error", "pcall", "unpack", "next", "setmetatable", "rawget", "select",
})  # fmt: skip
"""What a script may use of Lua and of the server."""
_parser = Parser(Language(tree_sitter_lua.language()))


def tree(source: str) -> Node:
    """The root of the file's tree. ValueError where it is not Lua."""
    root = _parser.parse(source.encode()).root_node
    if root.has_error:
        raise ValueError(f"not Lua: {source[:80]!r}")
    return root


def text(node: Node) -> str:
    assert node.text is not None
    return node.text.decode()


def walk(node: Node) -> Iterator[Node]:
    """The node and all below it, in the order of the file."""
    yield node
    for child in node.children:
        yield from walk(child)


def calls(source: str, *, of: str | None = None) -> Iterator[tuple[str, list[Node]]]:
    """Each call: the function as it is written, and its arguments. `of`: that function alone."""
    for node in walk(tree(source)):
        if node.type != "function_call":
            continue
        name, arguments = node.child_by_field_name("name"), node.child_by_field_name("arguments")
        assert name is not None
        if of is None or text(name) == of:
            yield text(name), list(arguments.named_children) if arguments is not None else []


def free_names(source: str) -> set[str]:
    """Names that are declared nowhere in the file: builtins and what its includes give it."""
    found = set[str]()
    _visit(tree(source), [set()], found)
    return found


def _visit(node: Node, scopes: list[set[str]], found: set[str]) -> None:
    kind = node.type
    if kind == "identifier":
        if not any(text(node) in scope for scope in scopes):
            found.add(text(node))
    elif kind == "variable_declaration":
        (inner,) = node.named_children
        named, values = inner, None
        if inner.type == "assignment_statement":
            named, values = inner.named_children
        if values is not None:
            _visit(values, scopes, found)
        scopes[-1] |= {text(one) for one in named.named_children}
    elif kind == "function_declaration":
        name = node.child_by_field_name("name")
        assert name is not None
        if node.children[0].type == "local":
            scopes[-1].add(text(name))
        else:
            _visit(name, scopes, found)
        _visit_function(node, scopes, found)
    elif kind == "function_definition":
        _visit_function(node, scopes, found)
    elif kind == "for_statement":
        clause = node.child_by_field_name("clause")
        assert clause is not None
        _visit_loop(node, clause, scopes, found)
    elif kind == "repeat_statement":
        scopes.append(set())
        for child in node.children:
            if child.type == "block":
                for statement in child.children:
                    _visit(statement, scopes, found)
            else:
                _visit(child, scopes, found)
        scopes.pop()
    elif kind == "block":
        scopes.append(set())
        for child in node.children:
            _visit(child, scopes, found)
        scopes.pop()
    elif kind in ("dot_index_expression", "method_index_expression"):
        _visit(node.children[0], scopes, found)
    elif kind == "field":
        name, value = node.child_by_field_name("name"), node.child_by_field_name("value")
        if name is not None and node.children[0].type == "[":
            _visit(name, scopes, found)
        assert value is not None
        _visit(value, scopes, found)
    else:
        for child in node.children:
            _visit(child, scopes, found)


def _visit_function(node: Node, scopes: list[set[str]], found: set[str]) -> None:
    parameters, body = node.child_by_field_name("parameters"), node.child_by_field_name("body")
    assert parameters is not None
    named = {text(one) for one in parameters.named_children if one.type == "identifier"}
    if body is not None:
        _visit(body, [*scopes, named], found)


def _visit_loop(node: Node, clause: Node, scopes: list[set[str]], found: set[str]) -> None:
    first, *rest = clause.named_children
    named = {text(first)}
    if first.type == "variable_list":
        named = {text(one) for one in first.named_children}
    for one in rest:
        _visit(one, scopes, found)
    body = node.child_by_field_name("body")
    if body is not None:
        _visit(body, [*scopes, named], found)
