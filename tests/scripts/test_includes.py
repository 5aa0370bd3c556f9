"""Includes are modules: a file includes exactly what it uses, a module returns what it exports."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from importlib.resources import files

import msgspec
import pytest

from eventsched.schema.settings import Settings
from eventsched.store import library as lua_library
from tests.scripts.lua_syntax import (
    BUILTINS,
    calls,
    declared_names,
    free_names,
    members,
    text,
    tree,
    walk,
)

FOLDER = files("eventsched") / "lua"
COLUMNS_MAX = 100
UPVALUES_MAX, LOCALS_MAX = 60, 200
"""Limits of Lua 5.1 for one function."""
READS = {
    "EXISTS", "GET", "HEXISTS", "HGET", "HGETALL", "HKEYS", "HLEN", "HMGET", "LINDEX", "LLEN",
    "LRANGE",
    "SCAN", "SCARD", "SISMEMBER", "SMEMBERS", "TIME", "XINFO", "XLEN", "XPENDING", "XRANGE",
    "XREVRANGE", "ZCARD", "ZRANGE", "ZRANGEBYSCORE", "ZSCORE",
}  # fmt: skip
"""Commands that change nothing. All others go through the module `write`."""


def names_in(folder: str) -> list[str]:
    return sorted(
        file.name.removesuffix(".lua")
        for file in FOLDER.joinpath(folder).iterdir()
        if file.name.endswith(".lua")
    )


MODULES = names_in("include")
FILES = [*names_in("."), *(f"include/{name}" for name in MODULES)]


@cache
def read(path: str) -> str:
    return FOLDER.joinpath(f"{path}.lua").read_text(encoding="utf-8")


def code(path: str) -> str:
    """The file without the line that declares a script's flags."""
    text = read(path)
    return text.partition("\n")[2] if text.startswith("#!") else text


def included(path: str) -> list[str]:
    return re.findall(r"^-- include: (\w+)$", read(path), re.MULTILINE)


@pytest.mark.parametrize("path", FILES)
def test_a_file_includes_exactly_the_modules_that_it_uses(path: str) -> None:
    arguments = set() if "/" in path else lua_library.Arguments.of(read(path)).locals
    used = free_names(code(path)) - BUILTINS - arguments
    assert sorted(used) == included(path)


def test_functions_that_are_created_once_use_no_argument_of_a_call() -> None:
    divided = [path for path in FILES if lua_library.IN_EACH_CALL in read(path)]
    assert divided
    for path in divided:
        functions = code(path).partition(lua_library.IN_EACH_CALL)[0]
        assert not free_names(functions) & lua_library.Arguments.of(read(path)).locals, path


@pytest.mark.parametrize("path", FILES)
def test_an_include_is_a_line_of_its_own(path: str) -> None:
    """The loader reads whole lines only; an indented include would be a comment."""
    lines = [line for line in read(path).splitlines() if "include:" in line]
    assert lines == [f"-- include: {name}" for name in included(path)]
    assert set(included(path)) <= set(MODULES)


@pytest.mark.parametrize("path", FILES)
def test_no_line_is_longer_than_100_columns(path: str) -> None:
    assert [line for line in read(path).splitlines() if len(line) > COLUMNS_MAX] == []


@pytest.mark.parametrize("path", FILES)
def test_no_local_hides_a_module_that_the_file_includes(path: str) -> None:
    arguments = set() if "/" in path else lua_library.Arguments.of(read(path)).locals
    assert {*declared_names(code(path)), *arguments} & set(included(path)) == set()


@pytest.mark.parametrize("name", MODULES)
def test_a_module_ends_with_the_return_of_what_it_exports(name: str) -> None:
    last = tree(read(f"include/{name}")).named_children[-1]
    assert last.type == "return_statement"
    assert len(last.named_children) == 1


def test_every_module_is_included_by_another_file() -> None:
    assert {name for path in FILES for name in included(path)} == set(MODULES)


def test_the_library_keeps_below_the_limits_of_lua() -> None:
    """Every module is a local of one function, and an upvalue of those functions that use it."""
    assert len(MODULES) + len(BUILTINS) < LOCALS_MAX / 2
    counts = Counter({path: len(free_names(code(path))) for path in FILES})
    assert counts.most_common(1)[0][1] < UPVALUES_MAX
    assert set(lua_library.ROOTS) <= set(MODULES)


@pytest.mark.parametrize("path", [path for path in FILES if path != "include/write"])
def test_every_write_goes_through_the_module_write(path: str) -> None:
    for name, arguments in calls(code(path)):
        assert name != "redis.pcall"
        if name == "redis.call":
            assert text(arguments[0]).strip("'") in READS, text(arguments[0])
    named = [text(node) for node in walk(tree(code(path))) if node.type == "dot_index_expression"]
    called = [name for name, _ in calls(code(path), of="redis.call")]
    assert named.count("redis.call") == len(called), "redis.call is called, never passed on"


@pytest.mark.parametrize("path", FILES)
def test_every_member_of_a_module_that_a_file_uses_exists(path: str) -> None:
    """Lua would notice only when the line runs."""
    single_keys = set(
        re.findall(r"'(\w+)'", read("include/keys").partition("local single_keys")[2])
    )
    for node in walk(tree(code(path))):
        if node.type != "dot_index_expression" or len(node.children) != 3:
            continue
        name, member = text(node.children[0]), text(node.children[2])
        if name in {*included(path), path.removeprefix("include/")} - {"settings"}:
            known = members(read(f"include/{name}"), name) | (
                single_keys if name == "keys" else set()
            )
            assert member in known, f"{name}.{member}"


def test_the_defaults_of_the_functions_are_those_of_the_settings() -> None:
    """Another program may have removed a setting."""
    source = read("include/settings")
    listed = source.partition("local defaults = {")[2].partition("}")[0]
    defaults = {name: int(value) for name, value in re.findall(r"(\w+) = (\d+)", listed)}
    assert defaults == {name: int(value) for name, value in msgspec.to_builtins(Settings()).items()}
