"""Modules stay on the server from call to call: no state of one call is left for the next, except
the cache.

test_cache.py tests the cache.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import msgspec
import pytest

from eventsched.errors import UnexpectedReply
from eventsched.schema.keys import Keys
from eventsched.schema.settings import Settings
from eventsched.store.client import Client
from eventsched.store.session_commands import Receipt
from eventsched.store.transport import RedisTransport
from tests.fixtures_store import TimedStore
from tests.scripts.added_scripts import add_script
from tests.scripts.calls import chunk
from tests.scripts.lua_syntax import reassigned_names
from tests.scripts.test_any_sequence import Play

INCLUDES = {
    file.name.removesuffix(".lua"): file.read_text(encoding="utf-8")
    for file in (files("eventsched") / "lua" / "include").iterdir()
}
MODULES = [name for name, text in INCLUDES.items() if f"\nlocal {name} =" in text]
PROBE = """#!lua
%s
local function plain(value)
  if type(value) == 'function' then return 'function' end
  if type(value) ~= 'table' then return tostring(value) end
  local fields = {}
  for name, field in pairs(value) do fields[tostring(name)] = plain(field) end
  return fields
end
local modules = {}
for name, module in pairs({ %s }) do modules[name] = plain(module) end
return cjson.encode(modules)
"""
STEPS = 150


def test_a_module_stores_its_state_in_its_table() -> None:
    """So the probe below sees all there is: no function gives a local of its file a new value."""
    for name, text in INCLUDES.items():
        assert reassigned_names(text) == set(), name


def test_a_function_that_reassigns_a_local_of_its_file_is_noticed() -> None:
    source = "local a, b = 1, 2\nlocal function f(b) a, b = b, a end\nreturn f\n"
    assert reassigned_names(source) == {"a"}


async def state(store: TimedStore) -> Any:
    """The state of the modules at the beginning of a call, without the cache.

    The entry function has read the record of the clock already.
    """
    modules = json.loads(await store.transport.run("probe", store.keys.declared, ["7"]))
    assert modules["clock"].pop("stored").startswith("manual|")
    return modules


@pytest.fixture
async def probed(
    redis: Client, cells: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> TimedStore:
    """A store whose library has the script `probe`, and no state of an earlier call."""
    modules = ", ".join(f"{name} = {name}" for name in MODULES)
    probe = PROBE % ("".join(f"-- include: {name}\n" for name in MODULES), modules)
    add_script(monkeypatch, "probe", probe)
    store = TimedStore(RedisTransport(redis, redis), cells())
    await store.configure_cell(msgspec.to_builtins(Settings()), overwrite=False, manual_clock=True)
    return store


async def test_a_call_begins_as_the_first_one_did(probed: TimedStore) -> None:
    first = await state(probed)
    assert len(first) == len(MODULES)
    play = Play(probed, random.Random(7))
    for step in range(STEPS):
        await play.rng.choice(play.steps())()
        if step % 10 == 0:
            assert await state(probed) == first
    assert await state(probed) == first


@pytest.mark.parametrize("broken", ["session", "tenant_queued", "audio", "free"])
async def test_a_call_after_one_that_failed_in_its_commit_begins_as_the_first_one_did(
    probed: TimedStore, redis: Client, broken: str
) -> None:
    """A commit handler that fails does not empty the state of its module."""
    store, keys = probed, probed.keys
    first = await state(store)
    node, session = await store.join("n1", slots=1), await store.open("s1")
    await store.dispatch_jobs(60_000)
    await store.say(session, 0, end_of_utterance=True)
    (assignment,) = await store.inbox(node)
    (class_id,) = await redis.execute_command("SMEMBERS", keys.classes)
    key = {
        "session": keys.session("s1"),
        "tenant_queued": keys.tenant_queued,
        "audio": keys.audio("s1"),
        "free": keys.free(class_id.decode()),
    }[broken]
    await redis.set(key, "another type")
    speaks = broken in ("session", "tenant_queued")
    call = (
        store.say(session, 1, end_of_utterance=True) if speaks else store.answer(node, assignment)
    )
    with pytest.raises(UnexpectedReply, match="WRONGTYPE"):
        await call
    assert await state(store) == first
    await redis.delete(key)


async def test_a_call_that_fails_halfway_has_written_what_it_deferred(
    redis: Client, store: TimedStore
) -> None:
    """The first chunk is stored with its number: a repeated chunk changes nothing."""
    first, broken = await store.open("s1"), await store.open("s2")
    key = store.keys.session("s2")
    whole = await redis.dump(key) or b""
    await redis.set(key, "no hash")
    with pytest.raises(UnexpectedReply, match="WRONGTYPE"):
        await store.append_audio([chunk(first, 0), chunk(broken, 0)])
    assert await redis.xlen(store.keys.audio("s1")) == 1
    (again,) = await store.append_audio([chunk(first, 0)])
    assert isinstance(again, Receipt)
    assert again.status == "duplicate"
    await redis.restore(key, 0, whole, replace=True)


UNIT = """#!lua
-- include: call
-- include: unit
if ARGV[2] == 'fail' then error('halfway', 0) end
if ARGV[2] == 'log' then return unit.log end
unit.log = { 'decides' }
return function() return unit.log end
"""
UNIT_MODULE = """-- include: call
local unit = { log = {} }
local function note(what)
  return function()
    unit.log[#unit.log + 1] = what
    if what == 'second commits' and call.now_arg == 'broken' then error('no commit', 0) end
  end
end
call.on_commit(note('second commits'))
call.on_commit(note('first commits'))
call.on_error(note('fails'))
return unit
"""


async def test_a_module_that_was_loaded_later_commits_first_and_each_one_once(
    redis: Client, cells: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_script(monkeypatch, "unit", UNIT, **{"include/unit": UNIT_MODULE})
    keys = Keys(cells())
    transport, declared = RedisTransport(redis, redis), keys.declared
    await redis.hset(keys.clock, "record", "server|0|0|0.1")

    async def run(*args: str) -> Any:
        return await transport.run("unit", declared, args)

    assert await run("", "") == [b"decides", b"first commits", b"second commits"]
    with pytest.raises(UnexpectedReply, match="halfway"):
        await run("", "fail")
    ended = [b"first commits", b"second commits"]
    assert (await run("", "log"))[:6] == [b"decides", *ended, *ended, b"fails"]
    assert await run("", "") == [b"decides", *ended]
    with pytest.raises(UnexpectedReply, match="no commit"):
        await run("broken", "")
    assert (await run("", "log"))[:5] == [b"decides", *ended, ended[-1], b"fails"]
