"""dispatch_jobs: reading, choosing and trimming are one step, for any number of callers; entries
that cannot be dispatched become dead letters (rules 10, 11, 25).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import msgspec
import pytest
import pytest_asyncio

from eventsched.errors import InvalidMessage
from eventsched.store.cell import Store
from eventsched.store.client import open_client
from eventsched.store.replies import named_fields_of
from eventsched.store.transport import RedisTransport
from tests.dispatch_entries import fields_of, line_of
from tests.fixtures_store import TimedStore
from tests.job_record import job_record
from tests.scripts.added_scripts import add_script
from tests.scripts.cell_state import check
from tests.scripts.jobs_of import (
    assigned,
    last,
    logged,
    order_of_dispatch,
    reply,
    speak,
    take_dead_letters,
)
from tests.server_kinds import Server


@pytest_asyncio.fixture
async def dispatchers(store: TimedStore, server: Server) -> AsyncIterator[list[Store]]:
    """Four dispatchers, each with a connection of its own."""
    clients = [await open_client(server.url) for _ in range(4)]
    yield [
        Store(RedisTransport(client, client), store.cell, now_ms=lambda: store.at_ms)
        for client in clients
    ]
    for client in clients:
        await client.aclose()


async def test_rule_11_12_entries_a_call_and_how_many_are_left(store: TimedStore) -> None:
    await store.join(slots=64)
    await speak(store, "s1", count=18)
    entries = await store.read_range(store.keys.dispatch, "-", "+", 100)
    reply = await store.dispatch_jobs()
    assert (reply.jobs, reply.left, reply.last_id) == (12, 6, entries[11][0])
    reply = await store.dispatch_jobs()
    assert (reply.jobs, reply.left, reply.last_id) == (6, 0, entries[17][0])
    reply = await store.dispatch_jobs()
    assert (reply.jobs, reply.left, reply.last_id) == (0, 0, "0-0")
    await check(store)


async def test_rule_11_racing_dispatchers_dispatch_each_job_once(
    store: TimedStore, dispatchers: list[Store]
) -> None:
    node = await store.join(slots=256)
    for i in range(10):
        await speak(store, f"s{i}", count=20)
    jobs = 0

    async def run(dispatcher: Store) -> None:
        nonlocal jobs
        while True:
            reply = await dispatcher.dispatch_jobs()
            jobs += reply.jobs
            if not reply.left:
                return

    async with anyio.create_task_group() as group:
        for dispatcher in dispatchers:
            group.start_soon(run, dispatcher)
    assert jobs == 200
    messages = [message["j"] for message in await assigned(store, node)]
    assert len(messages) == len(set(messages)) == 200
    for name in {name.partition("/")[0] for name in await order_of_dispatch(store)}:
        own = [n for n in await order_of_dispatch(store) if n.startswith(f"{name}/")]
        assert own == [f"{name}/{i}" for i in range(20)]
    await check(store)


async def newest_entry(store: TimedStore) -> tuple[str, dict[str, Any]]:
    """The newest entry of the dispatch queue as text, and decoded."""
    ((_, fields),) = await store.read_range(store.keys.dispatch, "-", "+", 1, newest_first=True)
    named = named_fields_of(fields)
    assert named["k"] == b"utterance"
    text = named["d"].decode()
    return text, fields_of(text)


async def put_entry(store: TimedStore, d: str | dict[str, Any], k: str = "utterance") -> None:
    text = d if isinstance(d, str) else msgspec.json.encode(d).decode()
    key = store.keys.dispatch
    await store.transport.command("XADD", key, "*", "k", k, "d", text, key=key)


async def test_rule_10_a_repeated_entry_has_no_effect_at_any_time(store: TimedStore) -> None:
    """While the job runs, waits, or has ended: its key exists."""
    node = await store.join(slots=1)
    await speak(store, "s1")
    first, _ = await newest_entry(store)
    await store.dispatch()
    await speak(store, "s2")
    second, _ = await newest_entry(store)
    await store.dispatch()
    before = await store.types()
    await put_entry(store, first)
    await put_entry(store, second)
    assert await store.dispatch() == 0
    await reply(store, node, (await assigned(store, node))[0]["j"])
    after = await store.types()
    await put_entry(store, first)
    assert await store.dispatch() == 0
    assert await store.types() == after
    assert after[: len(before)] == before
    assert (await store.read_hash(store.keys.counters))["obsolete"] == "3"
    await check(store)


async def test_rule_34_the_longest_names_there_are_are_dispatched(store: TimedStore) -> None:
    longest = "s-_9" * 16
    await store.join(slots=4, features=[longest])
    await speak(store, longest, token="t", tenant=longest, features=[longest])
    assert await store.dispatch() == 1
    assert await order_of_dispatch(store) == [f"{longest}/0"]
    await check(store)


async def test_rule_10_a_target_that_is_named_twice_is_one_job(store: TimedStore) -> None:
    await store.join(slots=4)
    await speak(store, "s1")
    entry, _ = await newest_entry(store)
    key = store.keys.dispatch
    await store.transport.command("XDEL", key, await store.last_id(key), key=key)
    assert entry.count(" es/0 ") == 1
    await put_entry_at_now(store, entry.replace(" es/0 ", " es/0,es/0 "))
    assert await store.dispatch() == 1
    assert (await store.read_hash(store.keys.counters))["obsolete"] == "1"
    await check(store)


async def test_rule_25_an_entry_whose_outcome_has_ended_is_obsolete(store: TimedStore) -> None:
    await store.join()
    session = await speak(store, "s1", count=2)
    await store.close_session(session.session, session.epoch)
    store.tick(30_000)
    await store.timers()
    assert len(await logged(store, "ResultMissing")) == 2
    before = await store.types()
    assert await store.dispatch() == 0
    assert await store.types() == before
    assert (await store.read_hash(store.keys.counters))["obsolete"] == "2"
    assert await store.dispatch_jobs() == await store.dispatch_jobs()
    await check(store)


async def test_rule_25_an_entry_of_a_retired_session_is_obsolete(store: TimedStore) -> None:
    await store.join()
    session = await speak(store, "s1")
    entry, _ = await newest_entry(store)
    await store.dispatch()
    (dispatched,) = await logged(store, "JobDispatched")
    await store.close_session(session.session, session.epoch)
    for _ in range(20):
        store.tick(300_000)
        await store.timers()
    assert await logged(store, "SessionRetired") != []
    assert await job_record(store, dispatched.job) == {}
    await put_entry(store, entry)
    assert await store.dispatch() == 0
    assert len(await logged(store, "JobDispatched")) == 1


LINE = "c0.s3 0 1-1 acme none en 0 100 1 "
REST = '"tp":"","tenant":"acme"}'
POISON: dict[str, dict[str, Any] | str] = {
    "a line without its end": f"{LINE} es/0",
    "a line whose end is something else": f'{LINE} es/0 "tenant":"acme"}}',
    "a line that was cut": f"{LINE} es/0 {REST[:-1]}",
    "a line with a word more": f"{LINE} more es/0 {REST}",
    "a line with a word less": f"c0.s3 0 acme none en 0 100 1  es/0 {REST}",
    "a line with a number that is none": f"c0.s3 zero 1-1 acme none en 0 100 1  es/0 {REST}",
    "a line of a priority that is none": f"c0.s3 0 1-1 acme none en 0 100 3  es/0 {REST}",
    "a line of another cell": f"other.s3 0 1-1 acme none en 0 100 1  es/0 {REST}",
    "a line of a name that is too long": f"c0.{'s' * 65} 0 1-1 acme none en 0 100 1  es/0 {REST}",
    "a line whose target has no number": f"{LINE} es {REST}",
    "a line of two targets and one number": f"{LINE} es/0,fr {REST}",
    "a line whose trace is no text": f'{LINE} es/0 "tp":7}}',
    "no JSON": "{",
    "no object": "7",
    "empty": "",
    "an unknown kind of field": {"session": 1},
    "no session": {"session": None},
    "a session of another cell": {"session": "other.s1"},
    "no targets": {"targets": None},
    "a target without a number": {"targets": [{"target": "es"}]},
    "a target that is none": {"targets": [7]},
    "a number without its target": {"targets": [{"delivery_no": 0}]},
    "no length": {"ms": None},
    "no priority": {"priority": None},
    "no log id": {"log": None},
}


@pytest.mark.parametrize("case", POISON)
async def test_an_unreadable_entry_is_dead_lettered_before_a_write_and_the_others_go_on(
    store: TimedStore, case: str
) -> None:
    node = await store.join(slots=1)  # one job runs, one waits
    await speak(store, "s1")
    await speak(store, "s3")
    _, good = await newest_entry(store)
    store.tick(1)
    wrong = POISON[case]
    if isinstance(wrong, dict):
        wrong = line_of({k: v for k, v in (good | wrong).items() if v is not None})
    key = store.keys.dispatch
    await store.transport.command("XDEL", key, await store.last_id(key), key=key)
    await put_entry_at_now(store, wrong)  # instead of the valid entry, whose outcome is open
    store.tick(1)
    await speak(store, "s2")
    await store.dispatch()
    (parked,) = await take_dead_letters(store)
    assert (parked["from"], parked["k"], parked["partial"]) == ("dispatch", "utterance", "0")
    assert parked["d"] == wrong
    assert parked["reason"]
    assert "table:" not in parked["reason"]
    assert await order_of_dispatch(store) == ["s1/0"]
    assert len(await assigned(store, node)) == 1
    assert len(await logged(store, "JobQueued")) == 1
    await check(store)


async def put_entry_at_now(store: TimedStore, d: str) -> None:
    key = store.keys.dispatch
    parts = ("XADD", key, f"{store.at_ms}-*", "k", "utterance", "d", d)
    await store.transport.command(*parts, key=key)


async def test_an_entry_that_fails_after_a_write_is_dead_lettered_as_partial(
    store: TimedStore,
) -> None:
    """The node's inbox is broken from outside: the error comes after the slot was taken."""
    await store.join()
    key = store.keys.inbox("n1")
    await store.transport.command("SET", key, "x", key=key)
    await speak(store, "s1")
    await speak(store, "s2", targets=["fr"])
    assert await store.dispatch() == 1
    (parked,) = await take_dead_letters(store)
    assert parked["partial"] == "1"
    assert "WRONGTYPE" in parked["reason"]
    assert (await last(store, "JobQueued")).target == "fr"
    await store.transport.command("DEL", key, key=key)


async def test_a_command_that_fails_before_the_first_write_names_its_error(
    store: TimedStore,
) -> None:
    await store.join()
    await speak(store, "s1")
    key = store.keys.active_revision("group")
    await store.transport.command("HSET", key, "a", "b", key=key)
    await store.dispatch()
    (parked,) = await take_dead_letters(store)
    assert parked["partial"] == "0"
    assert "WRONGTYPE" in parked["reason"]
    await store.transport.command("DEL", key, key=key)
    await put_entry(store, parked["d"])  # the restored entry is dispatched
    assert await store.dispatch() == 1
    await check(store)


async def group_of(store: TimedStore) -> dict[str, Any]:
    """The consumer group of the dispatch queue as the server reports it."""
    key = store.keys.dispatch
    (reply,) = await store.transport.command("XINFO", "GROUPS", key, key=key)
    flat = [part for pair in reply.items() for part in pair] if isinstance(reply, dict) else reply
    return {_word(flat[i]): flat[i + 1] for i in range(0, len(flat), 2)}


def _word(text: bytes | str) -> str:
    return text if isinstance(text, str) else text.decode()


async def test_the_group_says_how_far_dispatch_is(store: TimedStore) -> None:
    """For readers of XINFO: the lag is the length of the queue."""
    await store.join(slots=64)
    await speak(store, "s1", count=30)
    for left in (18, 6, 0):
        reply = await store.dispatch_jobs(consumer="d1")
        group = await group_of(store)
        assert _word(group["last-delivered-id"]) == reply.last_id
        assert (group["lag"], group["pending"], group["consumers"]) == (left, 0, 1)
        assert await store.transport.command("XLEN", key := store.keys.dispatch, key=key) == left


async def test_the_lag_is_right_after_a_call_that_dispatched_some_of_its_entries(
    store: TimedStore,
) -> None:
    languages = ["es", "fr", "it", "pt", "nl"]
    await store.join(slots=64, targets=languages)
    await speak(store, "s1", count=8, targets=languages)
    for left in (4, 0):
        assert (await store.dispatch_jobs()).left == left
        group = await group_of(store)
        assert (group["lag"], group["pending"]) == (left, 0)
    await speak(store, "s2", count=1, targets=languages)
    assert (await group_of(store))["lag"] == 1


@pytest.mark.parametrize("count", [1, 20])
@pytest.mark.parametrize("noack", [True, False])
async def test_entries_that_another_consumer_has_read_are_dispatched_once(
    store: TimedStore, redis: Any, count: int, noack: bool
) -> None:
    await store.join(slots=64)
    await speak(store, "s1", count=14)
    streams = {store.keys.dispatch: ">"}
    for left in (2, 0):
        await redis.xreadgroup("dispatch", "other", streams, count=count, noack=noack)
        assert (await store.dispatch_jobs()).left == left
    assert await order_of_dispatch(store) == [f"s1/{n}" for n in range(14)]
    assert (await group_of(store))["lag"] == 0
    await check(store)


@pytest.mark.parametrize("place", ["0-0", "$", "1-1"])
async def test_a_group_that_is_moved_by_hand_changes_no_dispatch(
    store: TimedStore, redis: Any, place: str
) -> None:
    await store.join(slots=64)
    await speak(store, "s1", count=14)
    await store.dispatch_jobs()
    await redis.xgroup_setid(store.keys.dispatch, "dispatch", place)
    assert (await store.dispatch_jobs()).left == 0
    assert await order_of_dispatch(store) == [f"s1/{n}" for n in range(14)]
    assert (await group_of(store))["lag"] == 0
    await check(store)


@pytest.mark.parametrize("place", ["0-0", "$", "1-1", "9999999999999-0"])
@pytest.mark.parametrize("entries_read", [None, 0, 3, 50])
async def test_the_lag_is_right_after_a_group_is_moved_by_hand_while_the_queue_is_empty(
    store: TimedStore, redis: Any, place: str, entries_read: int | None
) -> None:
    """The server would count from a wrong number until the group is set right."""
    queue = store.keys.dispatch
    await store.join(slots=64)
    await speak(store, "s1", count=14)
    assert await store.dispatch() == 14
    await redis.xgroup_setid(queue, "dispatch", place, entries_read=entries_read)
    assert (await store.dispatch_jobs()).jobs == 0
    assert (await group_of(store))["lag"] == 0
    await speak(store, "s2", count=13)
    for left in (13, 1, 0):
        assert (await group_of(store))["lag"] == await redis.xlen(queue) == left
        await store.dispatch_jobs()
    await check(store)


async def test_a_call_that_finds_the_queue_empty_and_the_group_right_writes_no_move(
    store: TimedStore, redis: Any
) -> None:
    await store.join(slots=64)
    await speak(store, "s1", count=14)
    assert await store.dispatch() == 14
    before = await group_of(store)
    await store.dispatch_jobs()
    assert await group_of(store) == before


async def test_a_consumer_that_has_called_within_the_hour_stays(
    store: TimedStore, redis: Any
) -> None:
    await dispatched_by(store, "d1", "d2", "d1")
    assert await consumers_of(store, redis) == {"d1", "d2"}


async def dispatched_by(store: TimedStore, *consumers: str) -> None:
    """Each dispatches an entry: Redis 7.0 creates a consumer when it reads one."""
    for number, consumer in enumerate(consumers):
        await speak(store, f"s{number}")
        await store.dispatch_jobs(consumer=consumer)


async def consumers_of(store: TimedStore, redis: Any) -> set[str]:
    listed = await redis.xinfo_consumers(store.keys.dispatch, "dispatch")
    return {consumer["name"].decode() for consumer in listed}


IDLE_SCRIPT = """#!lua
-- idle: remove the consumers of the dispatch queue that have not read for a time.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   own             name
--   idle_ms         ms
-- Reply: ok
-- Refusals: INVALID_MESSAGE
-- Events: none
-- Bound: the consumers
-- include: groups
-- include: keys
groups.remove_idle(keys.dispatch, 'dispatch', own, tonumber(idle_ms))
return 'ok'
"""


async def test_a_consumer_that_has_not_called_for_a_time_is_removed(
    store: TimedStore, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_script(monkeypatch, "idle", IDLE_SCRIPT)
    await dispatched_by(store, "d1", "d2", "d3")
    await store.run("idle", "d1", 3_600_000)
    assert await consumers_of(store, redis) == {"d1", "d2", "d3"}
    await store.run("idle", "d1", 0)
    assert await consumers_of(store, redis) == {"d1"}


@pytest.mark.parametrize("is_empty", [False, True], ids=["work", "empty"])
async def test_a_group_that_another_program_destroyed_is_created_again(
    store: TimedStore, *, is_empty: bool
) -> None:
    """Nothing that is in the queue is passed over."""
    await store.join()
    if not is_empty:
        await speak(store, "s1")
    key = store.keys.dispatch
    await store.transport.command("XGROUP", "DESTROY", key, "dispatch", key=key)
    assert (await store.dispatch_jobs(1_000)).jobs == int(not is_empty)
    assert len(await store.transport.command("XINFO", "GROUPS", key, key=key)) == 1
    await speak(store, "s2")
    assert await store.types() == [
        "NodeRegistered",
        *(() if is_empty else ("SessionOpened", "UtteranceFinalized", "JobDispatched")),
        *("SessionOpened", "UtteranceFinalized", "JobDispatched"),
    ]
    await check(store)


async def test_backpressure_starts_and_ends_by_events(store: TimedStore) -> None:
    assert await store.set_backpressure("memory", is_active=True, seen=81, limit=80) == "started"
    assert await store.set_backpressure("memory", is_active=True, seen=82, limit=80) == "unchanged"
    assert (
        await store.set_backpressure("dead_letters", is_active=True, seen=10, limit=10) == "started"
    )
    assert await store.set_backpressure("memory", is_active=False, seen=1, limit=80) == "ended"
    assert (await store.read_hash(store.keys.counters))["backpressure"] == "dead_letters"
    assert await store.set_backpressure("group", is_active=False, seen=1, limit=80) == "unchanged"
    assert await store.types() == [
        "BackpressureStarted",
        "BackpressureStarted",
        "BackpressureEnded",
    ]
    await store.set_backpressure("dead_letters", is_active=False, seen=1, limit=80)
    assert (await store.open()).epoch == 1


@pytest.mark.parametrize(
    "args", [["rain", 1, 1, 1], ["memory", 2, 1, 1], ["memory", 1, -1, 1], ["memory", 1, 1, "x"]]
)
async def test_malformed_pressure_is_refused(store: TimedStore, args: list[str | int]) -> None:
    with pytest.raises(InvalidMessage):
        await store.transport.run("set_backpressure", store.keys.declared, [store.at_ms, *args])
    assert await store.types() == []
