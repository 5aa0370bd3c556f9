"""The syntax tree of a Lua file: free names, calls, declared names, members of tables.

Owns: the scopes of Lua 5.1. Never does: run Lua. Read next: test_includes.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import tree_sitter_lua
from tree_sitter import Language, Node, Parser

BUILTINS = frozenset({
    "redis", "cjson", "string", "table", "math", "ipairs", "pairs", "tonumber", "tostring", "type",
    "error", "pcall", "unpack", "next", "setmetatable", "rawget", "select",
})  # fmt: skip
"""What a script may use of Lua and of the server."""
_parser = Parser(Language(tree_sitter_lua.language()))


def tree(source: str) -> Node:
    """The root of the syntax tree. Raises ValueError for text that is not Lua."""
    root = _parser.parse(source.encode()).root_node
    if root.has_error:
        raise ValueError(f"not Lua: {source[:80]!r}")
    return root


def text(node: Node) -> str:
    assert node.text is not None
    return node.text.decode()


def walk(node: Node) -> Iterator[Node]:
    """The node and all its descendants, in the order of the file."""
    yield node
    for child in node.children:
        yield from walk(child)


def calls(source: str, *, of: str | None = None) -> Iterator[tuple[str, list[Node]]]:
    """Each call: the function as written, and its arguments. `of` selects one function."""
    for node in walk(tree(source)):
        if node.type != "function_call":
            continue
        name, arguments = node.child_by_field_name("name"), node.child_by_field_name("arguments")
        assert name is not None
        if of is None or text(name) == of:
            yield text(name), list(arguments.named_children) if arguments is not None else []


@cache
def free_names(source: str) -> frozenset[str]:
    """Names that the file does not declare: builtins and included modules."""
    scopes = _Scopes()
    scopes.visit(tree(source))
    return frozenset(scopes.free)


def reassigned_names(source: str) -> set[str]:
    """Locals of the file to which a function assigns another value."""
    scopes = _Scopes()
    scopes.visit(tree(source))
    return scopes.reassigned


class _Scopes:
    """Walks a tree with the names that are in scope."""

    def __init__(self) -> None:
        self.free = set[str]()
        self.reassigned = set[str]()
        self._open: list[set[str]] = [set()]
        self._by_type = {
            "identifier": self._identifier,
            "variable_declaration": self._declaration,
            "assignment_statement": self._assignment,
            "function_declaration": self._named_function,
            "function_definition": self._function,
            "for_statement": self._loop,
            "repeat_statement": self._repeat,
            "block": self._block,
            "dot_index_expression": self._index,
            "method_index_expression": self._index,
            "field": self._field,
        }

    def visit(self, node: Node) -> None:
        self._by_type.get(node.type, self._children)(node)

    def _children(self, node: Node) -> None:
        for child in node.children:
            self.visit(child)

    def _within(self, named: set[str], node: Node | None) -> None:
        if node is not None:
            self._open.append(named)
            self._children(node)
            self._open.pop()

    def _identifier(self, node: Node) -> None:
        if not any(text(node) in scope for scope in self._open):
            self.free.add(text(node))

    def _declaration(self, node: Node) -> None:
        (named,) = node.named_children
        if named.type == "assignment_statement":
            named, values = named.named_children
            self.visit(values)
        self._open[-1] |= {text(node) for node in named.named_children}

    def _assignment(self, node: Node) -> None:
        for target in node.named_children[0].named_children:
            name, inner = text(target), self._open[1:]
            if inner and name in self._open[0] and not any(name in scope for scope in inner):
                self.reassigned.add(name)
        self._children(node)

    def _named_function(self, node: Node) -> None:
        name = node.child_by_field_name("name")
        assert name is not None
        if node.children[0].type == "local":
            self._open[-1].add(text(name))
        else:
            self.visit(name)
        self._function(node)

    def _function(self, node: Node) -> None:
        parameters = node.child_by_field_name("parameters")
        assert parameters is not None
        named = {text(node) for node in parameters.named_children if node.type == "identifier"}
        self._within(named, node.child_by_field_name("body"))

    def _loop(self, node: Node) -> None:
        clause = node.child_by_field_name("clause")
        assert clause is not None
        first, *rest = clause.named_children
        for child in rest:
            self.visit(child)
        listed = first.named_children if first.type == "variable_list" else [first]
        self._within({text(node) for node in listed}, node.child_by_field_name("body"))

    def _block(self, node: Node) -> None:
        self._within(set(), node)

    def _repeat(self, node: Node) -> None:
        """The names of the block are in scope in the condition as well."""
        self._open.append(set())
        for child in node.children:
            (self._children if child.type == "block" else self.visit)(child)
        self._open.pop()

    def _index(self, node: Node) -> None:
        self.visit(node.children[0])

    def _field(self, node: Node) -> None:
        name, value = node.child_by_field_name("name"), node.child_by_field_name("value")
        assert value is not None
        if name is not None and node.children[0].type == "[":
            self.visit(name)
        self.visit(value)


def declared_names(source: str) -> Iterator[str]:
    """Names of locals, local functions, parameters and loop variables."""
    for node in walk(tree(source)):
        listed = node if node.type == "parameters" else None
        if node.type == "variable_declaration":
            (inner,) = node.named_children
            listed = inner.named_children[0] if inner.type == "assignment_statement" else inner
        if node.type in ("for_generic_clause", "for_numeric_clause"):
            first = node.named_children[0]
            listed = first if first.type == "variable_list" else None
            if listed is None:
                yield text(first)
        if listed is not None:
            yield from (text(node) for node in listed.named_children if node.type == "identifier")
        if node.type == "function_declaration" and node.children[0].type == "local":
            name = node.child_by_field_name("name")
            assert name is not None
            yield text(name)


def functions(source: str) -> dict[str, str]:
    """The text of each top-level function of the file, by name."""
    functions_by_name = {}
    for node in tree(source).named_children:
        if node.type == "function_declaration":
            name = node.child_by_field_name("name")
            assert name is not None
            functions_by_name[text(name)] = text(node)
    return functions_by_name


@cache
def members(source: str, name: str) -> frozenset[str]:
    """The members of the table `name`: in its constructor, assigned, or declared as functions."""
    names = set[str]()
    for node in walk(tree(source)):
        if node.type == "dot_index_expression" and text(node.children[0]) == name:
            assert node.parent is not None
            if node.parent.type in ("variable_list", "function_declaration"):
                names.add(text(node.children[2]))
        if node.type == "assignment_statement":
            targets, values = node.named_children
            for target, value in zip(targets.named_children, values.named_children, strict=False):
                if text(target) == name and value.type == "table_constructor":
                    named = [node.child_by_field_name("name") for node in value.named_children]
                    names |= {text(node) for node in named if node is not None}
    return frozenset(names)
