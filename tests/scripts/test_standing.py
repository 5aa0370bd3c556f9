"""What stands in a cell is kept from call to call, and never used when it has changed."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import anyio
import msgspec
import pytest
from redis.exceptions import ResponseError

from eventsched.errors import Backpressure, Refused
from eventsched.projection import load_sets
from eventsched.server.check import Client
from eventsched.settings import Settings
from eventsched.store import NodeResult, Store
from eventsched.transport import RedisTransport
from eventsched.views import Views
from tests.fixtures_store import TimedStore
from tests.scripts.calls import events
from tests.scripts.cell_state import check
from tests.scripts.probing import add_script
from tests.scripts.test_any_sequence import Play

LUA = files("eventsched") / "lua"
CHANGE = r"([\w.]+)\('(SET|HSET\w*|HINCRBY|HDEL|DEL|UNLINK|SADD|SREM)',\s*([^\n]+)"
STANDS = r"live\b|keys\.(?:settings|archive)\b|keys\.of\('(?:live|node|class|pair|members)'"
SOFT = {("heartbeat_node", "'seen'"), ("record_seal", "'to'")}
"""What is written beside it in the same keys, and is not kept."""
KEPT_MAX, CELLS_MAX = 8_192, 64
KEPT = """#!lua
-- include: standing
-- include: nodes
-- include: classes
local cell = standing.cells[log_key]
if not cell then return '{}' end
local told = { generation = cell.generation, settings = cell.settings, live = cell.live,
  is_pressed = cell.is_pressed, keeps_audio = cell.keeps_audio, nodes = {},
  classes = {}, pairs = cell.pairs, count = cell.count }
for name, node in pairs(cell.nodes) do
  told.nodes[name] = node and { status = node.status, epoch = node.epoch_told, class = node.class,
    slots = text.of[node.slots], asr = rawget(node, 'asr'), targets = rawget(node, 'targets'),
    services = rawget(node, 'services'), marked = rawget(node, 'marked') }
end
for id, class in pairs(cell.classes) do
  told.classes[id] = { services = class.services, marked = class.marked, draining = class.draining,
    total = class.total }
end
return cjson.encode(told)
"""


@pytest.fixture
def kept_script(monkeypatch: pytest.MonkeyPatch) -> None:
    add_script(monkeypatch, "kept", KEPT)


@pytest.fixture
async def played(
    redis: Client, cells: Callable[[], str], kept_script: None
) -> TimedStore:
    store = TimedStore(RedisTransport(redis, redis), cells())
    await store.configure_cell(msgspec.to_builtins(Settings()), overwrite=False, manual_clock=True)
    return store


async def kept(store: Store) -> Any:
    """What is kept of a cell; nothing where it has changed since."""
    told = json.loads(await store.transport.run("kept", [store.keys.log], [""]))
    return told if told.get("generation") == await generation(store) else {}


async def generation(store: Store) -> str:
    clock = await store.transport.command("GET", store.keys.clock, key=store.keys.clock)
    return str(clock.decode().rpartition("|")[2])


def text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def words(joined: str) -> dict[str, bool]:
    return {one: True for one in joined.split(",") if one}


async def assert_stored(redis: Client, store: TimedStore) -> int:
    """All that is kept is what is stored. Returns how many things those are."""
    told = await kept(store)
    if not told:
        return 0
    for name, node in dict(told["nodes"]).items():
        stored = await store.read_hash(store.keys.node(name))
        assert {f: stored[f] for f in node} == node if node else not stored, name
    for class_id, known in dict(told["classes"]).items():
        stored = await store.read_hash(store.keys.node_class(class_id))
        assert words(stored["services"]) == dict(known["services"])
        assert words(stored["marked"]) == dict(known["marked"])
        assert int(stored["draining"]) == known["draining"]
        assert await redis.scard(store.keys.members(class_id)) == known["total"]
    for pair, ids in dict(told["pairs"]).items():
        stored_ids = await redis.smembers(store.keys.pair(*pair.split(":")))
        assert sorted(map(text, stored_ids)) == list(ids)
    if told.get("settings"):
        stored = await store.read_hash(store.keys.settings)
        assert {f: int(v) for f, v in stored.items()} == told["settings"]
    if "live" in told:
        live = await redis.get(store.keys.live("group"))
        assert told["live"] == (f"group:{text(live)}" if live else False)
    if "keeps_audio" in told:
        archive = await store.read_hash(store.keys.archive)
        assert told["keeps_audio"] == (archive.get("audio") == "1")
    if "is_pressed" in told:
        pressure = await store.read_hash(store.keys.counters)
        assert told["is_pressed"] == bool(pressure.get("pressure"))
    return sum(len(told[part]) for part in ("nodes", "classes", "pairs"))


async def test_rule_17_what_is_kept_is_what_is_stored(redis: Client, played: TimedStore) -> None:
    play, views = Play(played, random.Random(11)), Views(played.transport, played.cell)

    async def configure() -> None:
        waiting_ms = play.rng.choice([20_000, 30_000])
        settings = msgspec.structs.replace(Settings(), waiting_ms=waiting_ms)
        await played.configure_cell(msgspec.to_builtins(settings), overwrite=True)

    async def press() -> None:
        for raised in (True, False):
            await played.set_pressure("memory", raised=raised, seen=1, limit=1)
            await assert_stored(redis, played)

    async def hold() -> None:
        await views.acquire(load_sets()[0], "me", 1_500)

    seen = 0
    for _ in range(200):
        await play.rng.choice([*play.steps(), configure, press, hold])()
        seen += await assert_stored(redis, played)
    assert seen > 200


async def test_rule_18_pressure_counts_from_the_next_call_on(played: TimedStore) -> None:
    await played.open("before")
    await played.set_pressure("memory", raised=True, seen=1, limit=1)
    with pytest.raises(Backpressure):
        await played.open("amid")
    await played.set_pressure("memory", raised=False, seen=0, limit=1)
    await played.open("after")


async def test_rule_13_what_another_release_changed_is_not_used(
    redis: Client, played: TimedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its functions keep their own: as those of a server do that was the primary for a while."""
    node = await played.join("n1", slots=2)
    session = await played.open("s1")
    await played.say(session, 0, final=True)
    await played.dispatch()
    assert dict((await kept(played))["nodes"])["n1"]["status"] == "alive"
    with monkeypatch.context() as other:
        add_script(other, "later", "#!lua\nreturn 'of another release'\n")
        await played.drain_node(node.node, node.epoch, within_ms=60_000)
    await played.say(session, 1, final=True)
    assert await played.dispatch() == 1
    assert [event.data.utterance for event in await events(played, "JobQueued")] == [1]


async def test_generations_only_rise(redis: Client, played: TimedStore) -> None:
    seen = [await generation(played)]
    for number in range(5):
        await played.join(f"n{number}")
        seen.append(await generation(played))
    ahead = str(int(seen[-1]) + 10**12)  # as a server's whose clock was set back
    await redis.set(played.keys.clock, f"manual|0|{played.at_ms}|{ahead}")
    await played.join("n9")
    seen += [ahead, await generation(played)]
    assert seen == sorted(set(seen), key=int)


async def test_of_a_cell_that_nobody_configured_nothing_is_kept(
    redis: Client, cells: Callable[[], str], kept_script: None
) -> None:
    store = TimedStore(RedisTransport(redis, redis), cells())
    await unknown_beats(store, "n1")
    assert json.loads(await store.transport.run("kept", [store.keys.log], [""])) == {}


async def unknown_beats(store: Store, name: str) -> None:
    with pytest.raises(Refused, match="NODE_UNKNOWN"):
        await store.heartbeat_node(f"{store.cell}.{name}", 1, load=0, held=[])


async def test_what_is_kept_is_bounded(
    redis: Client, played: TimedStore, cells: Callable[[], str]
) -> None:
    """By things in a cell, whatever nodes somebody asks for, and by cells."""
    for first in range(0, 8_400, 100):
        async with anyio.create_task_group() as tasks:
            for number in range(first, first + 100):
                tasks.start_soon(unknown_beats, played, f"n{number}")
    assert (await kept(played))["count"] == 8_400 - (KEPT_MAX + 1)
    others = [TimedStore(RedisTransport(redis, redis), cells()) for _ in range(CELLS_MAX + 2)]
    for other in others:
        await other.configure_cell(msgspec.to_builtins(Settings()), overwrite=False)
        await unknown_beats(other, "n1")
    assert not await kept(played)
    # of the last three one at most had to make room for the next
    assert sum([bool(await kept(one)) for one in others[-3:]]) >= 2


async def test_a_program_that_asks_for_what_is_there_changes_nothing(played: TimedStore) -> None:
    await played.join()
    before = await generation(played)
    settings = msgspec.to_builtins(Settings())
    assert await played.configure_cell(settings, overwrite=False) == "kept"
    assert await played.configure_cell(settings, overwrite=True) == "changed"
    assert await generation(played) == before
    await played.configure_cell(settings | {"gap_ms": 7}, overwrite=True)
    assert await generation(played) != before


async def test_a_slot_is_free_again_although_the_call_that_gave_it_back_failed(
    redis: Client, played: TimedStore
) -> None:
    """Nothing is rolled back: where the node stands is put off until the call ends, in any way."""
    node = await played.join("n1", slots=2)
    session = await played.open("s1")
    for seq in range(2):
        await played.say(session, seq, final=True)
    assert await played.dispatch() == 2
    jobs = [one["j"] for one in await played.inbox(node)]
    key = played.keys.job(jobs[1])
    whole = await redis.getset(key, "what no script wrote")
    assert whole is not None
    results = [NodeResult(job=job, attempt=1, status="no_text") for job in jobs]
    with pytest.raises(ResponseError):
        await played.record_results(node.node, node.epoch, results)
    (class_id,) = await redis.smembers(played.keys.classes)
    free = await redis.zscore(played.keys.free(text(class_id)), "n1")
    assert free == 500
    await redis.set(key, text(whole))
    await check(played)


def test_what_stands_is_written_through_standing_alone() -> None:
    """Whoever adds a write of it is told here, if not by a decision on what is no more."""
    texts = {one.name[:-4]: one.read_text() for one in [*LUA.iterdir()] if one.name[-4:] == ".lua"}
    texts |= {one.name[:-4]: one.read_text() for one in (LUA / "include").iterdir()}
    found = 0
    for name, text in texts.items():
        for call in re.finditer(CHANGE, text):
            if not re.match(STANDS, call[3]) and "'pressure'" not in call[3]:
                continue
            found += 1
            is_soft = any(name == file and field in call[3] for file, field in SOFT)
            assert call[1] == ("write" if is_soft else "standing.write"), f"{name}: {call[0]}"
    assert found > 15
