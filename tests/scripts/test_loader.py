"""The loader; keys in Lua and Python are the same, and refusal codes are those of rule 32."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from importlib.resources import files
from typing import Any

import pytest
import pytest_asyncio
import redis

from eventsched import errors
from eventsched.schema.keys import Keys
from eventsched.store import library as lua_library
from eventsched.store.client import Client, open_client
from eventsched.store.transport import RedisTransport
from tests.functions import load_functions
from tests.known_keys import is_known
from tests.scripts.added_scripts import add_script
from tests.server_kinds import Server

RULE_32 = {
    "NO_POOL_FOR_LANG_PAIR", "NO_AVAILABLE_NODE", "JOB_TIMEOUT", "NODE_LOST", "NODE_MISMATCH",
    "ATTEMPT_MISMATCH", "LEASE_LOST", "DUPLICATE_RESULT", "JOB_UNKNOWN", "SESSION_UNKNOWN",
    "SESSION_CLOSED", "SESSION_SUPERSEDED", "SEQ_GAP", "CHUNK_TOO_LARGE", "BACKPRESSURE",
    "MODEL_NOT_AVAILABLE", "NODE_UNKNOWN", "NODE_SUPERSEDED", "NODE_DRAINED",
    "INVALID_MESSAGE", "RESULT_UNREADABLE", "STATE_DAMAGED",
}  # fmt: skip


@pytest.fixture
def lua(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Lua files by path, instead of those of the package."""
    texts: dict[str, str] = {}

    def read(path: str) -> str:
        if path not in texts:
            raise lua_library.IncludeError(f"no such Lua file: {path}")
        return texts[path]

    monkeypatch.setattr(lua_library, "_read", read)
    for root in lua_library.ROOTS:
        texts[f"include/{root}.lua"] = f"-- {root}\nreturn {{}}\n"
    return texts


def test_includes_stand_before_their_users_once(lua: dict[str, str]) -> None:
    lua |= {
        "s.lua": "#!lua\n-- include: a\n-- include: b\nreturn 1\n",
        "t.lua": "#!lua flags=allow-oom\n-- include: b\nreturn 2\n",
        "include/a.lua": "-- include: b\n-- a\n",
        "include/b.lua": "-- b\n",
    }
    source = lua_library.library_of(["s", "t"]).source
    assert [line for line in source.splitlines() if re.fullmatch(r"-- \w+|return \d", line)] == [
        *(f"-- {root}" for root in lua_library.ROOTS), "-- b", "-- a", "return 1", "return 2",
    ]  # fmt: skip


def test_a_module_is_a_function_of_its_own(lua: dict[str, str]) -> None:
    lua |= {
        "s.lua": "#!lua\n-- include: a\nreturn a\n",
        "include/a.lua": "local own = 1\nreturn own\n",
    }
    source = lua_library.library_of(["s"]).source
    assert "local a = (function()\nlocal own = 1\nreturn own\nend)()\n" in source


def test_functions_before_the_line_of_a_call_are_created_once(lua: dict[str, str]) -> None:
    lua["s.lua"] = "#!lua\nlocal function one() return 1 end\n-- In each call:\nreturn one()\n"
    source = lua_library.library_of(["s"]).source
    functions, _, body = source.partition("function scripts.s(KEYS, ARGV)\n")
    assert "local function one() return 1 end" in functions
    assert body.strip().startswith("return one()")


HEADED = """#!lua
-- s: does nothing.
-- ARGV
--   now_arg   ms        not used
--   name      name
--   then per chunk, at most 2: session (name, in full), seq,
--     payload (any bytes, at most 4,096 B)
-- Reply: none
return { name, chunk_count }
"""


def test_arguments_are_locals_and_items_have_fields(lua: dict[str, str]) -> None:
    arguments = lua_library.Arguments.of(HEADED)
    assert arguments == lua_library.Arguments(
        {"now_arg": 255, "name": 255}, "chunk", {"session": 255, "seq": 255, "payload": 4_096}, 2
    )
    lua["s.lua"] = HEADED
    source = lua_library.library_of(["s"]).source
    assert "local now_arg, name = ARGV[1], ARGV[2]\nlocal chunk_count = (#ARGV - 2) / 3\n" in source
    assert (
        "chunk.session, chunk.seq, chunk.payload = args[at + 1], args[at + 2], args[at + 3]"
        in source
    )


ITEMS = HEADED.replace(
    "return { name, chunk_count }",
    """local seen = {}
for i, chunk in each_chunk(ARGV) do seen[i] = table.concat({ chunk.session, chunk.seq }, '-') end
return { name, chunk_count, seen }""",
)


async def test_items_are_read_in_order_and_too_many_or_a_part_are_refused(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_script(monkeypatch, "items", ITEMS)
    transport, declared = RedisTransport(client, client), Keys("c7").declared
    await client.hset(Keys("c7").clock, "record", "server|0|0|0.1")

    async def run(*args: str) -> Any:
        return await transport.run("items", declared, ["", "n", *args])

    assert await run() == [b"n", 0, []]
    assert await run("a", "1", "x", "b", "2", "y") == [b"n", 2, [b"a-1", b"b-2"]]
    for wrong in (("a", "1"), ("a", "1", "x") * 3):
        with pytest.raises(errors.InvalidMessage, match="chunks: up to 2, of 3 arguments each"):
            await run(*wrong)


def test_a_function_has_the_flags_of_its_file(lua: dict[str, str]) -> None:
    lua |= {"s.lua": "#!lua\nreturn 1\n", "t.lua": "#!lua flags=allow-oom\nreturn 2\n"}
    library = lua_library.library_of(["s", "t"])
    for script, flags in (("s", "{  }"), ("t", "{ 'allow-oom' }")):
        assert f"'{library.function(script)}', flags = {flags}" in library.source


def test_a_file_that_does_not_begin_as_a_script_is_named(lua: dict[str, str]) -> None:
    lua["s.lua"] = "return 1\n"
    with pytest.raises(lua_library.IncludeError, match=r"s\.lua does not begin with #!lua"):
        lua_library.library_of(["s"])


@pytest.mark.parametrize("changed", ["s.lua", "include/a.lua"])
def test_other_code_has_other_names(lua: dict[str, str], changed: str) -> None:
    lua |= {"s.lua": "#!lua\n-- include: a\nreturn 1\n", "include/a.lua": "-- a\n"}
    before = lua_library.library_of(["s"])
    lua[changed] += "-- more\n"
    after = lua_library.library_of(["s"])
    assert (before.name, before.function("s")) != (after.name, after.function("s"))


def test_a_missing_script_or_include_is_named(lua: dict[str, str]) -> None:
    lua["s.lua"] = "#!lua\n-- include: gone\n"
    with pytest.raises(lua_library.IncludeError, match=r"include/gone\.lua"):
        lua_library.library_of(["s"])
    with pytest.raises(lua_library.IncludeError, match=r"nowhere\.lua"):
        lua_library.library_of(["nowhere"])


def test_a_missing_file_of_the_package_is_named() -> None:
    with pytest.raises(lua_library.IncludeError, match=r"no such Lua file: nowhere\.lua"):
        lua_library.library_of(["nowhere"])


@pytest.mark.parametrize(
    ("leads", "circle"),
    [({"a": "a"}, "a -> a"), ({"a": "b", "b": "c", "c": "a"}, "a -> b -> c -> a")],
)
def test_a_circular_include_is_named_with_its_way(
    lua: dict[str, str], leads: dict[str, str], circle: str
) -> None:
    lua["s.lua"] = "#!lua\n-- include: a\n"
    lua |= {f"include/{name}.lua": f"-- include: {to}\n" for name, to in leads.items()}
    with pytest.raises(lua_library.IncludeError, match=re.escape(circle)):
        lua_library.library_of(["s"])


def test_the_server_lists_the_functions_under_the_names_that_the_loader_tells(
    server: Server,
) -> None:
    library = lua_library.library()
    with redis.Redis.from_url(server.url) as direct:
        load_functions(direct)
        listed: Any = direct.function_list(library.name)
    for name in lua_library.names():
        assert library.function(name).encode() in repr(listed).encode()


# --- twins ------------------------------------------------------------------------------------

INCLUDES = files("eventsched") / "lua" / "include"
CALL_LUA, KEYS_LUA = (
    (INCLUDES / name).read_text(encoding="utf-8") for name in ("call.lua", "keys.lua")
)
ONES = re.findall(r"'(\w+)'", KEYS_LUA.partition("local single_keys = {")[2].partition("}")[0])
IN_PYTHON = {"counters": "counters", "class": "node_class"}
ARGS: dict[str, tuple[str | int, ...]] = {
    "audio": ("s",), "inbox": ("n",), "outbox": ("s",), "partials": ("s",), "session": ("s",),
    "outcomes": ("s",),
    "out_of_order": ("s",), "out_of_order_at": ("s", "es"), "playing": ("s",), "room": ("acme/r",),
    "job": ("a:c0.s:0:translation:es:none",), "node": ("n",), "leases": ("n", 3), "class": ("k",),
    "members": ("k",), "free": ("k",), "pair": ("en", "es"), "requirements": ("k",),
    "waiting": (1, "en:es:"), "lease": ("core",), "checkpoint": ("core",),
    "active_revision": ("job",),
    "view": ("job", "1.1", "j"), "view_ids": ("job", "1.1"), "session_index": ("s",),
    "node_index": ("n",),
    "tenant_sessions": ("acme",),
}  # fmt: skip


@pytest_asyncio.fixture(name="client")
async def _client(server: Server) -> AsyncIterator[Client]:
    client = await open_client(server.url)
    yield client
    await client.aclose()


async def _in_lua(client: Client, body: str) -> Any:
    modules = "".join(
        f"local {name} = (function()\n{text}end)()\n"
        for name, text in (("call", CALL_LUA), ("keys", KEYS_LUA))
    )
    source = f"#!lua\n{modules}call.begin(KEYS, ARGV)\n{body}"
    return await client.execute_command("EVAL", source, 1, Keys("c7").log)


async def test_single_keys_are_the_same_in_lua_and_python(client: Client) -> None:
    for kind in ONES:
        key = await _in_lua(client, f"return keys.{kind}")
        assert key.decode() == getattr(Keys("c7"), IN_PYTHON.get(kind, kind))
    assert (await _in_lua(client, "return keys.log")).decode() == Keys("c7").log
    assert (await _in_lua(client, "return keys.full('x')")).decode() == Keys("c7").full("x")


async def test_keys_with_an_id_are_the_same_in_lua_and_python(client: Client) -> None:
    keys = Keys("c7")
    for kind, args in ARGS.items():
        name = "requirements_of" if kind == "requirements" else IN_PYTHON.get(kind, kind)
        key = getattr(keys, name)(*args)
        parts = [str(args[0]), ":".join(map(str, args[1:]))]
        arguments = ", ".join(f"'{part}'" for part in parts if part)
        assert (await _in_lua(client, f"return keys.of('{kind}', {arguments})")).decode() == key


def test_every_kind_that_scripts_build_is_a_row_of_the_table() -> None:
    folder = files("eventsched") / "lua"
    texts = [
        file.read_text(encoding="utf-8")
        for place in (folder, folder / "include")
        for file in place.iterdir()
        if file.name.endswith(".lua")
    ]
    built = {kind for text in texts for kind in re.findall(r"keys\.of\('(\w+)'", text)}
    assert built <= set(ARGS)
    used = {name for text in texts for name in re.findall(r"\bkeys\.(\w+)", text)}
    others = {
        "prefix",
        "log",
        "cell_name",
        "full_pattern",
        "whole_pattern",
        "room_pattern",
        "room",
        "name",
        "full",
        "of",
        "py",
    }
    assert used - others <= set(ONES)
    keys = Keys("c7")
    for kind in ONES:
        key = getattr(keys, IN_PYTHON.get(kind, kind))
        assert any(is_known(key, type_) for type_ in ("stream", "hash", "set", "zset", "string"))


@pytest.mark.parametrize(
    ("full", "name"),
    [
        ("c7.abc", b"abc"), ("c7.A_b-9", b"A_b-9"), ("c8.abc", None), ("abc", None), ("c7.", None),
        ("c7.a:b", None), ("c7.a.b", None), ("", None), ("c7." + "x" * 64, b"x" * 64),
        ("c7." + "x" * 65, None), ("C7.abc", None), ("c7.a b", None),
    ],
)  # fmt: skip
async def test_rule_34_only_a_full_id_of_this_cell_has_a_name(
    client: Client, full: str, name: bytes | None
) -> None:
    assert await _in_lua(client, f"return keys.name('{full}') or false") == name


def test_rule_32_every_code_is_in_one_table() -> None:
    assert set(errors.BY_CODE) | errors.JOB_CODES == RULE_32
    assert not set(errors.BY_CODE) & errors.JOB_CODES


def test_rule_32_a_reply_becomes_the_class_of_its_code() -> None:
    for code, kind in errors.BY_CODE.items():
        refused = errors.from_reply(f"{code} field=a limit=1 to 2 ms")
        assert type(refused) is kind
        assert (refused.code, refused.fields) == (code, {"field": "a", "limit": "1 to 2 ms"})
        assert type(errors.from_reply(code)) is kind
    assert errors.from_reply("ERR unknown command") is None
    assert errors.from_reply("OOM command not allowed") is None


def test_rule_32_every_refusal_says_what_to_do_about_it() -> None:
    """INVALID_MESSAGE brings its own remedy; of the others each has one."""
    for code, kind in errors.BY_CODE.items():
        fields = {"field": "a", "limit": "1", "remedy": "send 1"}
        assert str(kind(code, fields)).endswith("; send 1")
        if kind is not errors.InvalidMessage:
            assert str(kind(code, {"epoch": "2"})) == f"{code} epoch=2; {kind.remedy}"
            assert kind.remedy


# --- declared keys ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", lua_library.names())
async def test_a_call_that_does_not_declare_the_absent_key_is_refused(
    client: Client, name: str
) -> None:
    transport, keys = RedisTransport(client, client), Keys("unused")
    with pytest.raises(errors.InvalidMessage, match="keys: the log and the key `absent`"):
        await transport.run(name, [keys.log], [""])
    assert await client.exists(keys.clock) == 0


# --- foreign slots ----------------------------------------------------------------------------


@pytest.mark.parametrize("server", ["embedded-cluster"], indirect=True)
@pytest.mark.parametrize("name", lua_library.names())
def test_a_key_of_another_slot_is_refused_by_the_server(server: Server, name: str) -> None:
    assert server.process is not None
    server.process.call("FUNCTION", "LOAD", "REPLACE", lua_library.library().source)
    keys, before = (Keys("here").log, Keys("there").log), server.process.call("DBSIZE")
    with pytest.raises(Exception, match="same slot"):
        server.process.call("FCALL", lua_library.library().function(name), 2, *keys, "")
    assert server.process.call("DBSIZE") == before


@pytest.mark.parametrize("server", ["embedded-cluster"], indirect=True)
def test_a_function_cannot_reach_a_slot_that_it_was_not_given(
    server: Server, lua: dict[str, str]
) -> None:
    assert server.process is not None
    parts = ", ".join(f"{name} = function() end" for name in ("begin", "commit", "fail"))
    lua["include/call.lua"] = f"return {{ {parts} }}\n"
    lua["include/damage.lua"] = "return { is_reason = function() return false end }\n"
    lua["include/clock.lua"] = "return { is_configured = function() return true end }\n"
    lua["s.lua"] = f"#!lua\nreturn redis.call('SET', '{Keys('there').log}', KEYS[1])\n"
    library = lua_library.library_of(["s"])
    server.process.call("FUNCTION", "LOAD", library.source)
    with pytest.raises(Exception, match=r"do not hash to the same slot|non local key"):
        server.process.call("FCALL", library.function("s"), 2, *Keys("here").declared)
    assert server.process.call("EXISTS", Keys("there").log) == 0
    server.process.call("FUNCTION", "DELETE", library.name)
