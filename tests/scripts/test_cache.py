"""The Lua cache: its values equal the stored values, unless another program wrote to the cell."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import msgspec
import pytest

from eventsched.errors import Backpressure, Refused, UnexpectedReply
from eventsched.projection.installed import load_core
from eventsched.projection.store import ProjectionStore
from eventsched.schema.settings import Settings
from eventsched.store import library as lua_library
from eventsched.store.cell import Store
from eventsched.store.client import Client
from eventsched.store.node_commands import NodeGrant, NodeResult
from eventsched.store.replies import decode_text
from eventsched.store.session_commands import SessionGrant
from eventsched.store.transport import RedisTransport
from tests.fixtures_store import TimedStore
from tests.scripts.added_scripts import add_script
from tests.scripts.calls import chunk, events
from tests.scripts.cell_state import check, members, zset
from tests.scripts.snapshot import snapshot
from tests.scripts.test_any_sequence import FEATURES, Play

LUA = files("eventsched") / "lua"
CHANGE = r"([\w.]+)\('(SET|HSET\w*|HINCRBY|HDEL|DEL|UNLINK|SADD|SREM)',\s*([^\n]+)"
STABLE = (
    r"live\b|keys\.(?:settings|archive)\b|keys\.of\('(?:active_revision|node|class|pair|members)'"
)
NOT_CACHED = {
    ("heartbeat_node", "'seen'"),
    ("record_seal", "'to'"),
    ("node_failures", "'failures'"),
}
"""Fields of the same keys that are not cached, or cached as live state."""
ITEMS_MAX = 32_768
CACHE_SCRIPT = """#!lua
-- include: cache
-- include: keys
-- include: numbers
local cell, text = cache.contents(keys.log), numbers.text
if not cell then return '{}' end
local found = { nodes = {}, leases = {}, classes = {}, free_nodes = {}, sessions = {},
  affinity = {}, generation = cell.generation, settings = cell.settings,
  group_view = cell.group_view,
  backpressure_reasons = cell.backpressure_reasons,
  keeps_audio = cell.keeps_audio, pairs = cell.pairs,
  dispatcher_lease = cell.dispatcher_lease, places = cell.places,
  waiting_heads = cell.waiting_heads, tenant_counts = cell.tenant_counts,
  tenant_outbox = cell.tenant_outbox, tenant_lag = cell.tenant_lag,
  outboxes = cell.outboxes, outcomes = cell.outcomes, count = cell.stable + cell.live,
  live = cell.live, matches = cell.matches, matches_by_key = cell.matches_by_key, orders = {} }
for name, s in pairs(cell.sessions) do
  found.sessions[name] = { status = s.status, epoch = text[s.epoch], tenant = s.tenant, tp = s.tp,
    utterance = text[s.utterance], turn = rawget(s, 'turn') and text[s.turn],
    buffer = table.concat({ text[s.next_seq], text[s.seen_at], text[s.buf_count], text[s.buf_bytes],
      text[s.buf_ms], text[s.buf_seq], text[s.buf_at], s.buf_first, s.buf_last }, '|'),
    tokens = rawget(s, 'tokens'),
    secret_sha1 = rawget(s, 'secret_sha1'), archived = rawget(s, 'archived') }
end
for name, node in pairs(cell.nodes) do
  found.nodes[name] = node and { status = node.status, epoch = node.epoch_text, class = node.class,
    slots = text[node.slots], sources = rawget(node, 'sources'), targets = rawget(node, 'targets'),
    features = rawget(node, 'features'), suspended = rawget(node, 'suspended') }
  found.leases[name] = node and cell.leases[node.leases] or nil
end
for id, class in pairs(cell.classes) do
  found.classes[id] = { features = class.features, suspended = class.suspended,
    draining = class.draining, total = class.total }
end
for id, free in pairs(cell.free_nodes) do
  if free.nodes then
    found.free_nodes[id] = { nodes = free.nodes, count = free.count, evidence = free.evidence }
  end
end
for key, order in pairs(cell.orders) do
  local heads, blocks, marked = {}, {}, {}
  for _, block in ipairs(order.heads) do
    blocks[#blocks + 1] = #block
    for _, entry in ipairs(block) do heads[#heads + 1] = { entry.load, entry.name, entry.id } end
  end
  for _, entry in ipairs(order.marked) do marked[entry.id] = true end
  found.orders[key] = { heads = heads, blocks = blocks, marked = marked,
    sums = { order.count, order.free, order.full, order.draining } }
end
for name, used in pairs(cell.affinity) do
  found.affinity[name] = used.node == '' and '' or used.node .. '|' .. used.turn
end
return cjson.encode(found)
"""


@pytest.fixture
def cache_script(monkeypatch: pytest.MonkeyPatch) -> None:
    add_script(monkeypatch, "cached_contents", CACHE_SCRIPT)


@pytest.fixture
async def played(redis: Client, cells: Callable[[], str], cache_script: None) -> TimedStore:
    store = TimedStore(RedisTransport(redis, redis), cells())
    await store.configure_cell(msgspec.to_builtins(Settings()), overwrite=False, manual_clock=True)
    return store


async def assign_jobs(store: TimedStore, count: int = 1) -> tuple[NodeGrant, SessionGrant]:
    """Assign the jobs of `count` utterances of one session to a node with two slots."""
    node, session = await store.join("n1", slots=2), await store.open("s1")
    for seq in range(count):
        await store.say(session, seq, end_of_utterance=True)
    assert await store.dispatch() == count
    return node, session


WRITERS = {
    r"node\.leases|keys\.of\('leases'": {"nodes"},
    r"free\b|class\.key_of_free|keys\.of\('free'": {"class_nodes"},
    r"keys\.requirements": {"queue"},
    r"keys\.of\('requirements'": {"classes"},
    r"keys\.tenant_queued": {"queue"},
    r"keys\.tenant_outbox": {"outbox"},
    r"keys\.tenant_lag": {"backpressure"},
    r"key, |session, |keys\.of\('session'": {
        "sessions", "closing", "delivery", "outbox", "affinity", "open_session",
        "playback", "resume_session", "record_seal", "outcome_timers", "retire_timer",
        "job_retention",
    },
}  # fmt: skip
"""The modules that write live state and update the cache, by the key of the state."""
COUNTED = (
    "nodes", "classes", "pairs", "matches", "matches_by_key", "orders", "places", "waiting_heads",
    "tenant_counts", "tenant_outbox", "tenant_lag",
    "sessions", "outboxes", "outcomes", "affinity",
)  # fmt: skip


def item_count(cached: Any) -> int:
    """The number of items that the cache has to count."""
    pending = sum(len(outcomes["fields"]) for outcomes in dict(cached["outcomes"]).values())
    entries: int = sum(order["sums"][0] for order in dict(cached["orders"]).values())
    return sum(len(cached[part]) for part in COUNTED) + pending + entries


async def cached_contents(store: Store) -> Any:
    """The cached values of a cell; empty if the cell has changed since."""
    contents = json.loads(await store.transport.run("cached_contents", store.keys.declared, [""]))
    return contents if contents.get("generation") == await generation_of(store) else {}


async def generation_of(store: Store) -> str:
    key = store.keys.clock
    clock = await store.transport.command("HGET", key, "record", key=key)
    return str(clock.decode().rpartition("|")[2])


def words(joined: str) -> dict[str, bool]:
    return {word: True for word in joined.split(",") if word}


async def assert_stored(store: TimedStore) -> int:
    """Every cached value equals the stored one. Returns the number of items."""
    cached = await cached_contents(store)
    if not cached:
        return 0
    store = await snapshot(store)
    for name, node in dict(cached["nodes"]).items():
        stored = await store.read_hash(store.keys.node(name))
        assert {f: stored[f] for f in node} == node if node else not stored, name
    for class_id, known in dict(cached["classes"]).items():
        stored = await store.read_hash(store.keys.node_class(class_id))
        assert words(stored["features"]) == dict(known["features"])
        assert words(stored["suspended"]) == dict(known["suspended"])
        assert int(stored["draining"]) == known["draining"]
        assert len(await members(store, store.keys.members(class_id))) == known["total"]
    for pair, ids in dict(cached["pairs"]).items():
        assert sorted(await members(store, store.keys.pair(*pair.split(":")))) == list(ids)
    if cached.get("settings"):
        stored = await store.read_hash(store.keys.settings)
        assert {f: int(v) for f, v in stored.items()} == cached["settings"]
    if "group_view" in cached:
        key = store.keys.active_revision("group")
        live = await store.transport.command("GET", key, key=key)
        assert cached["group_view"] == (f"group:{decode_text(live)}" if live else False)
    if "keeps_audio" in cached:
        archive = await store.read_hash(store.keys.archive)
        assert cached["keeps_audio"] == (archive.get("audio") == "1")
    if "backpressure_reasons" in cached:
        counters = await store.read_hash(store.keys.counters)
        assert cached["backpressure_reasons"] == counters.get("backpressure", "")
    await assert_slots_stored(store, cached)
    await assert_orders_stored(store, cached)
    await assert_requirements_stored(store, cached)
    await assert_sessions_stored(store, cached)
    assert cached["count"] >= item_count(cached)
    return item_count(cached)


async def assert_sessions_stored(store: TimedStore, cached: Any) -> None:
    names = {*cached["sessions"], *cached["outboxes"], *cached["affinity"], *cached["outcomes"]}
    sessions = {name: await store.read_hash(store.keys.session(name)) for name in names}
    for name, session in dict(cached["sessions"]).items():
        stored = sessions[name]
        assert {field: stored.get(field, "") for field in session} == session, name
    for name, box in dict(cached["outboxes"]).items():
        stored = sessions[name]
        assert box["is_open"] == (stored["status"] in ("open", "closing"))
        expected = [box[counter] for counter in ("number", "total", "low")]
        assert int(stored.get("out_counted", 0)) == box["counted"]
        assert [int(stored[counter]) for counter in ("out_no", "out_bytes", "out_low")] == expected
        for target, number in dict(box["next_no"]).items():
            assert int(stored.get(f"d:{target}", 0)) == number
            assert (f"w:{target}" in stored) == box["has_held"][target]
    for name, used in dict(cached["affinity"]).items():
        assert sessions[name]["used"] == used
    for name, pending in dict(cached["outcomes"]).items():
        assert _record(pending) == sessions[name].get("outcomes", "")
        known = dict(pending["fields"] or {})
        assert len(known) == pending["known"] <= pending["count"]
        outcomes = await store.read_hash(store.keys.outcomes(name))
        assert known.items() <= outcomes.items()


def _record(pending: Any) -> str:
    """The field `outcomes` of the session record."""
    if not pending["count"]:
        return ""
    return "{count}|{utterance}|{left}|{first}".format(**pending)


async def assert_slots_stored(store: TimedStore, cached_cell: Any) -> None:
    for name, leased in dict(cached_cell["leases"]).items():
        epoch = dict(cached_cell["nodes"])[name]["epoch"]
        assert len(await zset(store, store.keys.leases(name, int(epoch)))) == leased, name
    for class_id, cached in dict(cached_cell["free_nodes"]).items():
        free = await zset(store, store.keys.free(class_id))
        assert len(free) == cached["count"]
        known = [(node["name"], node["load"]) for node in cached["nodes"]]
        assert known == list(free.items())[: len(known)]
        if "evidence" in cached:
            assert json.loads(cached["evidence"]) == await evidence(store, class_id, free)


async def assert_orders_stored(store: TimedStore, cached: Any) -> None:
    """Requirements match the stored classes; the orders have their stored heads in order."""
    ids = await members(store, store.keys.classes) if cached["matches"] else set()
    stored = {class_id: await store.read_hash(store.keys.node_class(class_id)) for class_id in ids}
    for requirement, match in dict(cached["matches"]).items():
        source, target, joined = requirement.split(":")
        features = set(words(joined))
        able = {
            class_id: not (features | {"*"}) & set(words(fields["suspended"]))
            for class_id, fields in stored.items()
            if source in words(fields["sources"]) and target in words(fields["targets"])
            and features <= set(words(fields["features"]))
        }  # fmt: skip
        assert {each: True for each in able if able[each]} == dict(match["has"])
        assert {each: True for each in able if not able[each]} == dict(match["suspended"])
        assert cached["matches_by_key"][match["key"]] == match
    for key, order in dict(cached["orders"]).items():
        known, marked = dict(cached["matches_by_key"][key]["has"]), set(order["marked"])
        heads, sums = [], [len(known), 0, 0, 0]
        for class_id in known:
            free = await zset(store, store.keys.free(class_id))
            heads += [[load, name, class_id] for name, load in list(free.items())[:1]]
            draining = int(stored[class_id]["draining"])
            count = len(await members(store, store.keys.members(class_id)))
            sums[1] += len(free)
            sums[2] += count - len(free) - draining
            sums[3] += draining
        unmarked = [head for head in order["heads"] if head[2] not in marked]
        assert unmarked == sorted(head for head in heads if head[2] not in marked)
        assert marked or sums == order["sums"]
        assert all(0 < count <= 64 for count in order["blocks"]) or order["blocks"] == [0]


async def evidence(store: TimedStore, class_id: str, free: dict[str, int]) -> dict[str, Any]:
    """The state of a class as an event of this moment would have it."""
    draining = int((await store.read_hash(store.keys.node_class(class_id)))["draining"])
    full = len(await members(store, store.keys.members(class_id))) - len(free) - draining
    first = [{"head": store.keys.full(node), "load": load} for node, load in free.items()][:1]
    counts = {"free": len(free), "full": full, "draining": draining}
    return {"id": class_id} | (first[0] if first else {}) | counts


async def assert_requirements_stored(store: TimedStore, cached: Any) -> None:
    places = await store.read_hash(store.keys.requirements)
    for requirement, place in dict(cached["places"]).items():
        assert (place or None) == places.get(requirement)
    for class_id, waiting in dict(cached["waiting_heads"]).items():
        stored = list(await zset(store, store.keys.requirements_of(class_id)))
        assert len(stored) == waiting["count"]
        assert list(waiting.get("first", stored[:2])) == stored[:2]
    backlog = await store.read_hash(store.keys.tenant_queued)
    for tenant, count in dict(cached["tenant_counts"]).items():
        assert int(backlog.get(tenant, 0)) == count
    unread = await store.read_hash(store.keys.tenant_outbox)
    for tenant, count in dict(cached["tenant_outbox"]).items():
        assert int(unread.get(tenant, 0)) == count
    lags = await store.read_hash(store.keys.tenant_lag)
    for tenant, entries in dict(cached["tenant_lag"]).items():
        assert int(lags.get(tenant, 0)) == entries
    if "dispatcher_lease" in cached:
        counters = await store.read_hash(store.keys.counters)
        assert int(counters.get("dispatcher", 0)) == cached["dispatcher_lease"]


async def test_rule_17_cached_values_equal_stored_values(played: TimedStore) -> None:
    play, views = Play(played, random.Random(11)), ProjectionStore(played.transport, played.cell)

    async def configure() -> None:
        queue_timeout_ms = play.rng.choice([20_000, 30_000])
        settings = msgspec.structs.replace(Settings(), queue_timeout_ms=queue_timeout_ms)
        await played.configure_cell(msgspec.to_builtins(settings), overwrite=True)

    async def press() -> None:
        for raised in (True, False):
            await played.set_backpressure("memory", is_active=raised, seen=1, limit=1)
            await assert_stored(played)

    async def lag() -> None:
        for entries in (play.rng.randrange(1, 100), 0):
            await played.set_tenant_lag("acme", entries)
            await assert_stored(played)

    async def hold() -> None:
        await views.acquire(load_core(), "me", 1_500)

    seen, parts = 0, set[str]()
    for _ in range(300):
        await play.rng.choice([*play.steps(), *play.steps(), configure, press, lag, hold])()
        seen += await assert_stored(played)
        cached = await cached_contents(played)
        parts |= {part for part in COUNTED if cached.get(part)}
    assert parts == set(COUNTED)
    assert seen > 2_000


class ManyClasses(Play):
    """Random calls with up to 24 nodes in as many classes."""

    async def join(self) -> None:
        self.count += 1
        features = {f"only{self.rng.randrange(20)}", *self.rng.choice(FEATURES)}
        grant = await self.store.join(
            f"n{self.rng.randrange(24)}", token=f"t{self.count}", features=sorted(features),
            targets=self.rng.choice([["es"], ["es", "fr"]]), slots=self.rng.choice([1, 1, 2, 5]),
        )  # fmt: skip
        self.nodes.append(grant)


@pytest.mark.parametrize("cache_live_state", [1, 0])
async def test_rule_17_the_order_of_many_classes_equals_the_stored_one(
    played: TimedStore, cache_live_state: int
) -> None:
    """Nodes register, drain, are lost and suspended, and slots are taken and released."""
    await played.configure_cell({"cache_live_state": cache_live_state}, overwrite=True)
    play, longest, fresh = ManyClasses(played, random.Random(3)), 0, 0
    for _ in range(16):
        await play.join()
    for _ in range(250):
        await play.rng.choice([*play.steps(), play.beat, play.beat])()
        await assert_stored(played)
        orders = dict((await cached_contents(played)).get("orders", {})).values()
        longest = max([longest, *(len(order["heads"]) for order in orders)])
        fresh += sum(not order["marked"] for order in orders)
    await check(played, idle=False)
    assert longest > 8
    assert fresh > 10


async def test_rule_15_the_cached_least_loaded_nodes_equal_the_stored_ones(
    played: TimedStore,
) -> None:
    """Of more nodes than are known at a time, whatever is taken and given back. Each session speaks
    once, so that load decides."""
    rng, seen = random.Random(5), set[int]()
    held: list[tuple[str, str]] = []
    nodes = {f"n{no}": await played.join(f"n{no}", slots=rng.randint(1, 4)) for no in range(20)}
    for step in range(150):
        if held and rng.random() < (0.3 if step % 60 < 40 else 0.8):
            name, job = held.pop(rng.randrange(len(held)))
            ended = NodeResult(job=job, attempt=1, status="no_speech")
            assert await played.record_results(nodes[name].node, 1, [ended]) == [None]
        else:
            await played.say(await played.open(f"s{step}"), 0, end_of_utterance=True)
            assert await played.dispatch() == 1
            dispatch = (await events(played, "JobDispatched"))[-1]
            held.append((dispatch.node.partition(".")[2], dispatch.job))
        assert await assert_stored(played)
        (free,) = dict((await cached_contents(played))["free_nodes"]).values()
        seen.add(len(free["nodes"]))
    assert {1, 2, 8} <= seen
    assert max(seen) == 8
    await check(played)


async def test_rule_16_two_utterances_of_one_call_go_to_one_node(played: TimedStore) -> None:
    for name in ("n1", "n2"):
        await played.join(name, slots=2)
    await played.dispatch_jobs(4_000)
    session = await played.open("s1")
    await played.append_audio([chunk(session, seq, end_of_utterance=True) for seq in (0, 1, 2)])
    dispatches = [(event.node, event.data.rule) for event in await events(played, "JobDispatched")]
    n1, n2 = played.keys.full("n1"), played.keys.full("n2")
    assert dispatches == [(n1, "load"), (n1, "session"), (n2, "load")]
    await assert_stored(played)


async def test_rule_16_a_slot_without_a_lease_is_not_released(
    redis: Client, played: TimedStore
) -> None:
    """The lease was removed in a call that failed later; then the node sends the result."""
    await played.configure_cell({"queue_timeout_ms": 300_000}, overwrite=True)
    node = await played.join("n1", slots=1)
    session = await played.open("s1")
    for seq in range(4):
        await played.say(session, seq, end_of_utterance=True)
    await played.dispatch()
    (running,) = await played.inbox(node)
    await redis.set(played.keys.tenant_finish_tag, "no sorted set")
    played.tick(40_000)
    await played.heartbeat_node(node.node, 1, load=0, attempts=[])
    await played.timers()
    assert await redis.xlen(played.keys.dead_letters) >= 1
    await redis.delete(played.keys.tenant_finish_tag)
    ended = NodeResult(job=running["j"], attempt=1, status="ok")
    await played.record_results(node.node, 1, [ended])
    await played.heartbeat_node(node.node, 1, load=0, attempts=[])
    assert await assert_stored(played)
    assert await redis.zcard(played.keys.leases("n1", 1)) == 1


async def test_rule_16_a_set_of_free_nodes_that_lacks_a_node_is_read_again(
    redis: Client, played: TimedStore
) -> None:
    """The set was not written in a call that failed: the node has a free slot and is not listed."""
    node, session = await assign_jobs(played)
    class_id = (await played.read_hash(played.keys.node("n1")))["class"]
    assert await redis.zrem(played.keys.free(class_id), "n1") == 1
    await played.configure_cell({"queue_timeout_ms": 20_000}, overwrite=True)  # empties the cache
    await played.say(session, 1, end_of_utterance=True)
    await played.dispatch()
    assert await assert_stored(played)
    first, _ = await played.inbox(node)
    await played.answer(node, first)
    assert await assert_stored(played)
    await played.say(await played.open("s2"), 0, end_of_utterance=True)
    await played.dispatch()
    assert await redis.zcard(played.keys.leases("n1", 1)) == 2


async def test_rule_24_an_order_that_was_not_written_is_not_cached(
    redis: Client, played: TimedStore
) -> None:
    """A delivery fails and becomes a dead letter; the same call continues with the next ones."""
    session = await played.open("s1")
    for seq in range(3):
        await played.say(session, seq, end_of_utterance=True)
    await played.dispatch()  # no node can serve them: the three fail together
    await redis.set(played.keys.outbox("s1"), "no stream")
    played.tick(10_000)
    await played.fire_timers()
    numbers = [event.data.delivery_no for event in await events(played, "ResultDelivered")]
    assert numbers == [0]
    assert sorted(await played.read_hash(played.keys.outcomes("s1"))) == ["es/1", "es/2"]
    await redis.delete(played.keys.outbox("s1"))
    await assert_stored(played)


async def test_rule_6_a_session_whose_delivery_failed_closes(
    redis: Client, played: TimedStore
) -> None:
    """The outcome has ended in the log, but its count was not written: the close counts again."""
    session = await played.open("s1")
    for seq in range(2):
        await played.say(session, seq, end_of_utterance=True)
    await played.dispatch()
    await redis.set(played.keys.outbox("s1"), "no stream")
    played.tick(10_000)
    await played.fire_timers()
    await redis.delete(played.keys.outbox("s1"))
    await played.close_session(session.session, 1)
    played.tick(30_000)
    await played.timers()
    stored = await played.read_hash(played.keys.session("s1"))
    assert (stored["status"], stored["outcomes"]) == ("closed", "")


async def test_a_value_that_is_read_again_is_counted_once(played: TimedStore) -> None:
    node = await played.join("n1", slots=1, targets=["es", "fr"])
    session = await played.open("s1", targets=["es", "fr"])
    for seq in range(40):
        await played.say(session, seq, end_of_utterance=True)
    await played.dispatch()
    for _ in range(60):
        last = (await played.inbox(node))[-1]
        ended = NodeResult(job=last["j"], attempt=1, status="ok")
        await played.record_results(node.node, 1, [ended])
    cached = await cached_contents(played)
    assert item_count(cached) <= cached["count"] <= item_count(cached) + 5


async def test_rule_18_backpressure_applies_from_the_next_call_on(played: TimedStore) -> None:
    await played.open("before")
    await played.set_backpressure("memory", is_active=True, seen=1, limit=1)
    with pytest.raises(Backpressure):
        await played.open("amid")
    await played.set_backpressure("memory", is_active=False, seen=0, limit=1)
    await played.open("after")


async def test_rule_13_values_that_another_release_changed_are_not_used(
    played: TimedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its functions keep their own: as those of a server do that was the primary for a while."""
    node, session = await assign_jobs(played)
    assert dict((await cached_contents(played))["nodes"])["n1"]["status"] == "alive"
    with monkeypatch.context() as other:
        add_script(other, "later", "#!lua\nreturn 'of another release'\n")
        await played.drain_node(node.node, node.epoch, within_ms=60_000)
    await played.say(session, 1, end_of_utterance=True)
    assert await played.dispatch() == 1
    assert [event.data.utterance for event in await events(played, "JobQueued")] == [1]


async def test_rule_16_leases_that_another_release_gave_are_counted(
    played: TimedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await played.join("n1", slots=1)
    session = await played.open("s1")
    for seq in range(3):
        await played.say(session, seq, end_of_utterance=True)
    with monkeypatch.context() as other:
        add_script(other, "later", "#!lua\nreturn 'of another release'\n")
        assert await played.dispatch() == 3
    (first,) = await played.inbox(node)
    await played.record_results(node.node, 1, [NodeResult(job=first["j"], attempt=1, status="ok")])
    with monkeypatch.context() as other:
        add_script(other, "later", "#!lua\nreturn 'of another release'\n")
        await played.say(session, 3, end_of_utterance=True)
        await played.dispatch()
    await check(played)
    second = (await played.inbox(node))[-1]
    await played.record_results(node.node, 1, [NodeResult(job=second["j"], attempt=1, status="ok")])
    assert len(await events(played, "JobDispatched")) == 3
    await check(played)


async def test_data_that_a_server_lost_is_not_in_the_cache_of_the_earlier_primary(
    redis: Client, played: TimedStore, cells: Callable[[], str]
) -> None:
    """All data go back to what they were two calls ago, as on a primary that returns as the replica
    of one that had not heard of them."""
    node = await played.join("n1", slots=1)
    session = await played.open("s1")
    for seq in range(2):
        await played.say(session, seq, end_of_utterance=True)
    every = f"es1:{{{played.cell}}}:*"
    before = {key: await redis.dump(key) or b"" async for key in redis.scan_iter(every)}
    assert await played.dispatch() == 2
    (lost,) = await played.inbox(node)
    await played.record_results(node.node, 1, [NodeResult(job=lost["j"], attempt=1, status="ok")])
    async for key in redis.scan_iter(every):
        await redis.delete(key)
    for key, value in before.items():
        await redis.restore(key, 0, value)
    assert await cached_contents(played) == {}
    assert await played.dispatch() == 2
    assert len(await events(played, "JobDispatched")) == 1
    assert len(await events(played, "JobQueued")) == 1
    await check(played)


async def test_each_call_stores_a_generation_that_the_cell_never_had(
    redis: Client, played: TimedStore
) -> None:
    """Even if the time does not advance, each call stores another generation."""
    seen = [await generation_of(played)]

    async def see() -> None:
        seen.append(await generation_of(played))

    session = await played.open("s1")
    await see()
    for seq in range(4):
        await played.say(session, seq, end_of_utterance=True)
        await see()
        await played.join(f"n{seq}")
        await see()
    seconds, _, number = seen[-1].partition(".")
    ahead = f"{int(seconds) + 10**6}.{number}"  # as a server's whose clock was set back
    await redis.hset(played.keys.clock, "record", f"manual|0|{played.at_ms}|{ahead}")
    await played.dispatch()
    seen.append(ahead)
    await see()
    assert seen == sorted(set(seen), key=_parts)


async def test_a_new_generation_has_the_time_of_the_server(
    redis: Client, played: TimedStore
) -> None:
    """So that two servers of one cell do not make the same generation."""
    seconds, _ = await redis.time()
    await played.configure_cell({"queue_timeout_ms": 20_000}, overwrite=True)  # empties the cache
    await played.dispatch()
    assert _parts(await generation_of(played))[0] >= seconds


def _parts(generation: str) -> tuple[int, int]:
    seconds, _, number = generation.partition(".")
    return int(seconds), int(number)


@pytest.mark.parametrize(
    "generation",
    [
        "9007199256.740993",  # the year 2255: as microseconds a number above 2^53
        "9007199254740990.7",
        "7.9007199254740990",
        "9007199254740993.1",
        "1.99999999999999999999",
        "99999999999999999999",
    ],
)
async def test_whatever_generation_is_stored_each_call_stores_another_one(
    redis: Client, played: TimedStore, generation: str
) -> None:
    """In a double, 2^53 + 1 is 2^53: two releases, or two servers, would trust a stale cache."""
    await redis.hset(played.keys.clock, "record", f"manual|0|{played.at_ms}|{generation}")
    seen = [generation]
    for _ in range(4):
        await played.dispatch()
        seen.append(await generation_of(played))
    assert len(set(seen)) == len(seen)


async def test_the_cache_is_empty_after_a_call_that_failed_or_added_a_dead_letter(
    redis: Client, played: TimedStore
) -> None:
    """It may have ended anywhere."""
    node, session = await assign_jobs(played)
    assert await cached_contents(played)
    leases, jobs = (
        played.keys.leases("n1", 1),
        [message["j"] for message in await played.inbox(node)],
    )
    whole = await redis.dump(leases) or b""
    await redis.set(leases, "no sorted set")
    results = [NodeResult(job=jobs[0], attempt=1, status="no_speech")]
    with pytest.raises(UnexpectedReply, match="WRONGTYPE"):
        await played.record_results(node.node, 1, results)
    assert not await cached_contents(played)
    await played.heartbeat_node(node.node, 1, load=0, attempts=[])
    assert await cached_contents(played)
    await played.say(session, 1, end_of_utterance=True)
    await played.dispatch()
    assert await redis.xlen(played.keys.dead_letters) == 1
    assert not await cached_contents(played)
    await redis.restore(leases, 0, whole, replace=True)


async def unknown_beats(store: Store, name: str) -> None:
    with pytest.raises(Refused, match="NODE_UNKNOWN"):
        await store.heartbeat_node(f"{store.cell}.{name}", 1, load=0, attempts=[])


async def unknown_nodes_beat(redis: Client, played: TimedStore, numbers: range) -> None:
    """Send the heartbeats together, past the client: one by one they take seconds."""
    function, keys = lua_library.library().function("heartbeat_node"), played.keys.declared
    pipeline = redis.pipeline(transaction=False)
    for number in numbers:
        pipeline.fcall(function, len(keys), *keys, played.at_ms, f"n{number}", 1, 0)
    replies = await pipeline.execute(raise_on_error=False)
    assert all("NODE_UNKNOWN" in str(reply) for reply in replies)


async def test_the_cache_is_bounded(
    redis: Client, played: TimedStore, cells: Callable[[], str]
) -> None:
    """By things in all cells of a server, whatever nodes somebody asks for: at one of the calls
    that follow everything goes, and the rest is known again."""
    other = TimedStore(RedisTransport(redis, redis), cells())
    await other.configure_cell(msgspec.to_builtins(Settings()), overwrite=False)
    await unknown_beats(other, "n1")
    counts = []
    for first in range(0, ITEMS_MAX + 600, 100):
        await unknown_nodes_beat(redis, played, range(first, first + 100))
        counts.append((await cached_contents(played))["count"])
    assert max(counts) <= ITEMS_MAX
    assert counts[-1] < ITEMS_MAX // 2
    assert not await cached_contents(other)


async def test_configuring_the_stored_settings_changes_nothing(played: TimedStore) -> None:
    await played.join()
    await unknown_beats(played, "n9")
    before, settings = await cached_contents(played), msgspec.to_builtins(Settings())
    assert before
    assert await played.configure_cell(settings, overwrite=False) == "kept"
    assert await played.configure_cell(settings, overwrite=True) == "changed"
    assert await cached_contents(played) == before
    await played.configure_cell(settings | {"delivery_gap_timeout_ms": 7}, overwrite=True)
    assert not await cached_contents(played)


async def test_without_the_cache_of_live_state_each_call_reads_it_anew(
    redis: Client, played: TimedStore
) -> None:
    """Somebody else takes the node from those with a free slot: the next job waits."""
    await played.configure_cell({"cache_live_state": 0}, overwrite=True)
    _, session = await assign_jobs(played)
    (class_id,) = await redis.smembers(played.keys.classes)
    free, leases = played.keys.free(decode_text(class_id)), played.keys.leases("n1", 1)
    load = await redis.zscore(free, "n1") or 0
    await redis.zrem(free, "n1")
    await redis.zadd(leases, {"another job": played.at_ms})
    await played.say(session, 1, end_of_utterance=True)
    assert await played.dispatch() == 1
    assert [event.data.utterance for event in await events(played, "JobQueued")] == [1]
    await redis.zadd(free, {"n1": load})
    await redis.zrem(leases, "another job")


async def test_a_slot_is_free_although_the_call_that_released_it_failed(
    redis: Client, played: TimedStore
) -> None:
    """Nothing is rolled back: the deferred load of the node is written however the call ends."""
    node, _ = await assign_jobs(played, 2)
    jobs = [message["j"] for message in await played.inbox(node)]
    key = played.keys.job(jobs[1])
    whole = await redis.get(key)
    assert whole is not None
    await redis.delete(key)
    await redis.sadd(key, "what no script wrote")
    results = [NodeResult(job=job, attempt=1, status="no_speech") for job in jobs]
    with pytest.raises(UnexpectedReply):
        await played.record_results(node.node, node.epoch, results)
    (class_id,) = await redis.smembers(played.keys.classes)
    free = await redis.zscore(played.keys.free(decode_text(class_id)), "n1")
    assert free == 500
    await redis.delete(key)
    await redis.set(key, decode_text(whole))
    await check(played)


def lua_texts() -> dict[str, str]:
    texts = {file.name[:-4]: file.read_text() for file in LUA.iterdir() if file.name[-4:] == ".lua"}
    return texts | {file.name[:-4]: file.read_text() for file in (LUA / "include").iterdir()}


def test_live_state_is_written_only_by_modules_that_update_the_cache() -> None:
    """Every module that writes live state has to update the cache."""
    reads = "ZRANGE|ZCARD|ZSCORE|HGET|HEXISTS|HMGET|SMEMBERS|EXISTS"
    for key, writers in WRITERS.items():
        writes = re.compile(rf"\('(?!{reads})[A-Z]+', (?:{key})")
        assert {name for name, text in lua_texts().items() if writes.search(text)} == writers, key


def test_stable_state_is_written_through_the_cache_alone() -> None:
    """A write that bypasses the cache fails this test."""
    count = 0
    for name, text in lua_texts().items():
        for call in re.finditer(CHANGE, text):
            if not re.match(STABLE, call[3]) and "'pressure'" not in call[3]:
                continue
            count += 1
            if (name, call[1]) == ("configure_cell", "write"):
                continue  # a new cell: no call has cached anything
            is_soft = any(name == file and field in call[3] for file, field in NOT_CACHED)
            assert call[1] == ("write" if is_soft else "cache.write_stable"), f"{name}: {call[0]}"
    assert count > 15
