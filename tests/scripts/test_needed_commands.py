"""The commands that calls need are exactly those of the Lua sources and of the library."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import eventsched
from eventsched.server.testing import LocalServer
from eventsched.store import library as lua_library
from eventsched.store.needed_commands import (
    all_commands,
    commands_of,
    example_of,
    reason_for,
)
from tests.scripts.lua_syntax import calls, text
from tests.scripts.test_includes import READS, code, included

CONTAINERS = ("XGROUP", "XINFO")


def called_in(path: str) -> Iterator[str]:
    """Yield each command that a Lua file calls, from its syntax tree."""
    for name, arguments in calls(code(path)):
        words = [text(node).strip("'") for node in arguments]
        if name == "pcall" and words[0] == "write":
            words = words[1:]
        elif name not in ("redis.call", "write", "cache.write_stable") or words[0] == "...":
            continue
        yield f"{words[0]}|{words[1]}" if words[0] in CONTAINERS else words[0]


def closure_of(path: str) -> set[str]:
    """The file and all modules that it includes."""
    paths = {path}
    for name in included(path):
        paths |= closure_of(f"include/{name}")
    return paths


@pytest.mark.parametrize("script", lua_library.names())
def test_the_commands_of_a_function_are_those_of_its_syntax_tree(script: str) -> None:
    roots = {path for root in lua_library.ROOTS for path in closure_of(f"include/{root}")}
    paths = closure_of(script) | roots
    expected = {command for path in paths for command in called_in(path)}
    if "no-writes" in lua_library.sources_of(script)[0].partition("\n")[0]:
        expected = {command for command in expected if command.partition("|")[0] in READS}
    assert commands_of(script) == expected


def test_every_command_that_the_library_sends_is_listed() -> None:
    """The first argument of `command` and of the `_command` helpers, wherever it is a text."""
    folder = Path(eventsched.__file__).parent
    sent = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if node.func.attr in ("command", "_command") and node.args:
                first = node.args[0]
                if isinstance(first, ast.Constant) and str(first.value).isupper():
                    sent.add(str(first.value).replace(" ", "|"))
    listed = {name.partition("|")[0] for name in all_commands()} | {"BGREWRITEAOF", "FUNCTION|LOAD"}
    assert len(sent) > 8
    assert sent <= listed


def test_every_command_has_a_reason_and_an_example_that_a_server_accepts(
    own_server: LocalServer,
) -> None:
    for command in all_commands():
        assert reason_for(command) != "this call uses it"
        example = example_of(command, "es1:{c0}:log")
        assert own_server.call("ACL", "DRYRUN", "default", *example) == "OK", command
