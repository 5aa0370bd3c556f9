"""Repair brings each kind of corruption to a state that verify finds clean."""

from __future__ import annotations

from typing import Any

import pytest

from eventsched.audit.repair import Plan, Repairer
from eventsched.history.log import History
from eventsched.roles.rebuild import Rebuild
from eventsched.schema.events import Data
from eventsched.store.operator_commands import Act
from tests.fixtures_store import TimedStore
from tests.scripts.calls import contents
from tests.scripts.jobs_of import speak
from tests.scripts.test_suspensions import busy as busy_node
from tests.scripts.test_suspensions import unreadable
from tests.verify import test_verify
from tests.verify.test_verify import (
    CORE,
    FORGED,
    STORED,
    BusyCell,
    Corruption,
    append,
    names,
    project,
    verified,
    views_of,
)

busy = test_verify.busy
WHY, BY = "a change by hand", "test"


def repairer_of(store: TimedStore) -> Repairer:
    views = views_of(store)

    async def rebuild(name: str, act: Act) -> bool:
        return await Rebuild(views, CORE, [name], act=act).run() is not None

    return Repairer(views, CORE, History(views, None, CORE), rebuild)


async def planned(store: TimedStore) -> Plan:
    return await repairer_of(store).plan()


async def test_a_clean_cell_has_nothing_to_repair(busy: BusyCell) -> None:
    plan = await planned(busy.store)
    assert plan.report.is_clean
    assert plan.changes == []
    done = await repairer_of(busy.store).apply(WHY, BY)
    assert (done.rounds, done.applied, done.left) == (1, [], [])


@pytest.mark.parametrize(
    ("invariant", "corrupt"), STORED, ids=[f"{i}{c.__name__}" for i, c in STORED]
)
async def test_corrupted_state_is_repaired(
    busy: BusyCell, redis: Any, invariant: str, corrupt: Corruption
) -> None:
    await corrupt(busy, redis)
    before = await contents(redis, busy.store)
    plan = await planned(busy.store)
    assert plan.changes, plan.report.violations
    assert await contents(redis, busy.store) == before, "a plan writes nothing"
    done = await repairer_of(busy.store).apply(WHY, BY)
    assert done.left == [], (invariant, [(c.where, c.what) for c in done.applied])
    recorded: list[Any] = [event.data for event in await busy.store.log("CellRepaired")]
    written = [change for change in done.applied if change.step != "rebuild"]
    assert len(recorded) == len(written)
    assert {data.why for data in recorded} <= {WHY}
    await project(busy.store)
    assert (await verified(busy.store)).violations == []


@pytest.mark.parametrize(
    ("invariant", "what", "data", "utterance", "node"),
    FORGED,
    ids=[f"{row[0]} {row[1]}" for row in FORGED],
)
async def test_a_forged_event_is_accepted_and_what_follows_is_repaired(
    busy: BusyCell, redis: Any, invariant: str, what: str, data: Data, utterance: int, node: str
) -> None:
    await append(busy, redis, data, utterance=utterance, node=node)
    done = await repairer_of(busy.store).apply(WHY, BY)
    assert done.left == [], (invariant, what, [(c.where, c.what) for c in done.applied])
    assert any(change.accepts for change in done.applied)


async def test_the_suspension_of_a_whole_node_is_repaired(store: TimedStore) -> None:
    """Its field and its timer are lost: `verify` finds both, and the repair restores both."""
    await busy_node(store, "n2")
    node = await store.join("n1", slots=1)
    await speak(store, "s1")
    await store.dispatch()
    await unreadable(store, node, 3)
    await project(store)
    key = store.keys.node("n1")
    assert (await store.read_hash(key))["suspended"] == "*"
    await store.transport.command("HSET", key, "suspended", "", key=key)
    await store.transport.command("ZREM", store.keys.timers, "suspension|n1|*", key=key)
    assert names(await verified(store)) >= {"I7", "I8"}
    done = await repairer_of(store).apply(WHY, BY)
    assert done.left == []
    assert (await store.read_hash(key))["suspended"] == "*"
    timers = await store.transport.command("ZRANGE", store.keys.timers, 0, -1, key=key)
    assert b"suspension|n1|*" in timers


@pytest.mark.parametrize("field", ["tenant", "room", "features_hash", "source", "utterance"])
async def test_a_session_that_has_lost_a_field_is_repaired(
    busy: BusyCell, redis: Any, field: str
) -> None:
    key = busy.store.keys.session("s1")
    before = await redis.hget(key, field)
    await redis.hdel(key, field)
    await _repaired(busy)
    assert (await redis.hget(key, field) or b"") == (before or b"")


@pytest.mark.parametrize("field", ["epoch", "class", "sources", "slots"])
async def test_a_node_that_has_lost_a_field_is_repaired(
    busy: BusyCell, redis: Any, field: str
) -> None:
    key = busy.store.keys.node("n1")
    before = await redis.hget(key, field)
    await redis.hdel(key, field)
    await _repaired(busy)
    assert await redis.hget(key, field) == before


@pytest.mark.parametrize("record", [b"", b"running", b"running|1|n1|1|||||{"])
async def test_a_job_whose_record_is_damaged_is_repaired(
    busy: BusyCell, redis: Any, record: bytes
) -> None:
    (key,) = [key async for key in redis.scan_iter(f"{busy.store.keys.prefix}job:*s1:1:*")]
    await redis.set(key, record)
    await _repaired(busy)
    assert await redis.get(key) != record


async def test_a_repaired_job_has_the_traceparent_of_its_utterance(
    store: TimedStore, redis: Any
) -> None:
    """Its session has another one."""
    await store.join()
    session = await store.open(traceparent=f"00-{'1' * 32}-{'2' * 16}-01")
    await store.say(session, 0)
    traceparent = f"00-{'3' * 32}-{'4' * 16}-01"
    await store.finalize_utterance(session.session, 1, 0, traceparent=traceparent)
    await store.dispatch()
    await project(store)
    (key,) = [key async for key in redis.scan_iter(f"{store.keys.prefix}job:*s1:0:*")]
    before = await redis.get(key)
    await redis.set(key, b"x")
    assert (await repairer_of(store).apply(WHY, BY)).left == []
    assert await redis.get(key) == before
    assert traceparent.encode() in before


@pytest.mark.parametrize(
    ("room", "members", "what"),
    [
        ("r1", {"spy": "fr"}, "spy is no member by the log"),
        ("r1", {"s2": "fr"}, "s2 listens to 'es' by the log, stored 'fr'"),
        ("r9", {"spy": "fr"}, "spy is no member by the log"),
    ],
)
async def test_members_of_a_room_that_the_log_does_not_have_are_found_and_removed(
    store: TimedStore, redis: Any, room: str, members: dict[str, str], what: str
) -> None:
    full = store.keys.full
    for name, language in (("s1", "en"), ("s2", "es")):
        await store.open(name, room=full("acme/r1"), listen_language=language)
    await store.open("spy", tenant="mallory")
    await project(store)
    key = store.keys.room(f"acme/{room}")
    before = await redis.hgetall(key)
    await redis.hset(key, mapping={full(name): language for name, language in members.items()})
    (violation,) = (await verified(store)).violations
    assert (violation.where, violation.what) == (f"room:acme/{room}", full(what))
    done = await repairer_of(store).apply(WHY, BY)
    assert done.left == []
    assert await redis.hgetall(key) == before


OTHER_TYPES = [
    "session:zz", "session:s1", "node:zz", "node:n1", "job:t:c0.zz:0:translation:es:none",
    "outcomes:s1", "playing:s1", "out_of_order:s1", "out_of_order_at:s1:es", "outbox:s1",
    "audio:s1", "leases:n1:1", "room:acme/r9",
]  # fmt: skip


@pytest.mark.parametrize("key", OTHER_TYPES)
async def test_a_key_of_another_type_is_named_and_repaired(
    busy: BusyCell, redis: Any, key: str
) -> None:
    """It hides nothing else: every other difference is found in the same run."""
    await busy.store.dispatch()  # an utterance without audio fails by its job
    await project(busy.store)
    full = f"{busy.store.keys.prefix}{key}"
    await redis.delete(full)
    await redis.sadd(full, "by hand")
    await redis.hset(busy.store.keys.session("s2"), "status", "open")
    found = {(each.where, each.what) for each in (await verified(busy.store)).violations}
    assert (key, f"{key} is of another type") in found
    assert any(where == "session:s2" for where, _ in found)
    await _repaired(busy)
    assert await redis.type(full) != b"set"


async def test_a_record_of_another_type_is_named_and_its_read_model_is_rebuilt(
    busy: BusyCell, redis: Any
) -> None:
    views = views_of(busy.store)
    key = f"view:session:{await views.active_revision('session')}:zz"
    await redis.set(f"{busy.store.keys.prefix}{key}", "by hand")
    found = [each.what for each in (await verified(busy.store)).violations]
    assert found == ["view:session:zz is of another type"]
    await _repaired(busy)


async def test_a_list_of_ids_of_another_type_is_named_and_its_read_model_is_rebuilt(
    busy: BusyCell, redis: Any
) -> None:
    name = f"view_ids:node:{await views_of(busy.store).active_revision('node')}"
    key = f"{busy.store.keys.prefix}{name}"
    await redis.delete(key)
    await redis.set(key, "by hand")
    report = await verified(busy.store)
    assert any(each.where == name and "another type" in each.what for each in report.violations)
    await _repaired(busy)


async def test_an_ending_that_is_no_json_is_repaired(busy: BusyCell, redis: Any) -> None:
    await redis.hset(busy.store.keys.out_of_order("s1"), "es/1", "{not json")
    assert "I7" in names(await verified(busy.store))
    await _repaired(busy)


async def _repaired(busy: BusyCell) -> None:
    """The cell is clean after the repair."""
    await verified(busy.store)
    done = await repairer_of(busy.store).apply(WHY, BY)
    assert done.left == [], [(c.where, c.what) for c in done.applied]
