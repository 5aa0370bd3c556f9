"""Numbers without an outcome, and timers that can do nothing (rule 25, ordered delivery)."""

from __future__ import annotations

from typing import Any

import msgspec

from eventsched.schema.settings import Settings
from eventsched.store.client import Client
from eventsched.store.node_commands import NodeResult
from eventsched.store.session_commands import SessionGrant
from tests.fixtures_store import TimedStore
from tests.scripts.cell_state import zset
from tests.scripts.jobs_of import logged, take_dead_letters

GAP_MS = Settings().delivery_gap_timeout_ms
CLOSE_MS = Settings().close_wait_ms


async def opened_with_a_hole(store: TimedStore, redis: Client) -> SessionGrant:
    """A call failed after it had allocated number 0, before it opened an outcome."""
    await store.join(slots=9)
    session = await store.open("s1")
    await redis.hset(store.keys.session("s1"), "a:es", 1)
    for seq in range(3):
        await store.say(session, seq, end_of_utterance=True)
    await store.dispatch()
    return session


async def ended_numbers(store: TimedStore) -> list[tuple[int, str]]:
    """(number, reason or outcome) of each number that has ended, in order."""
    return [
        (delivery.delivery_no, getattr(event.data, "reason", "") or delivery.outcome)
        for event, delivery in await store.deliveries()
    ]


async def test_rule_25_a_number_without_an_outcome_is_missing_after_the_gap_time(
    store: TimedStore, redis: Client
) -> None:
    session = await opened_with_a_hole(store, redis)
    for message in await inbox_of(store):
        await store.record_results(store.keys.full("n1"), 1, [result_of(message)])
    assert await ended_numbers(store) == []
    store.tick(GAP_MS - 1)
    await store.heartbeat_node(store.keys.full("n1"), 1, load=0, attempts=[])
    assert await ended_numbers(store) == []
    store.tick(1)
    await store.fire_timers()
    expected = [(0, "no_outcome"), (1, "result"), (2, "result"), (3, "result")]
    assert await ended_numbers(store) == expected
    (missing, *_) = [entry for entry in await store.out(session) if entry["t"] == "result"]
    assert (missing["outcome"], missing["code"]) == ("missing", "NO_OUTCOME")
    assert (missing["utterance"], missing["delivery_no"]) == (-1, 0)
    await store.close_session(session.session, session.epoch)
    assert (await logged(store, "SessionClosed"))[0].session == session.session
    assert await take_dead_letters(store) == []


async def test_rule_6_a_close_passes_numbers_without_an_outcome(
    store: TimedStore, redis: Client
) -> None:
    session = await opened_with_a_hole(store, redis)
    await store.close_session(session.session, session.epoch)
    store.tick(CLOSE_MS)
    await store.timers()
    expected = [(0, "no_outcome"), (1, "close"), (2, "close"), (3, "close")]
    assert await ended_numbers(store) == expected
    assert len(await logged(store, "SessionClosed")) == 1
    assert await take_dead_letters(store) == []


async def pauses_of(store: TimedStore, member: str, calls: int) -> list[int]:
    """The pauses in ms after each of the next calls of a timer that is due now."""
    pauses = []
    for _ in range(calls):
        await store.fire_timers()
        due_ms = (await zset(store, store.keys.timers))[member]
        pauses.append(due_ms - store.at_ms)
        store.at_ms = due_ms
    return pauses


async def test_a_close_that_can_end_nothing_backs_off_and_ends_later(
    store: TimedStore, redis: Client
) -> None:
    """The delivery order is ahead of an open outcome, as a change by hand may leave it."""
    await store.configure_cell({"cache_live_state": 0}, overwrite=True)
    session = await store.open("s1")
    await store.say(session, 0, end_of_utterance=True)
    await store.close_session(session.session, session.epoch)
    await redis.hset(store.keys.session("s1"), "d:es", 7)
    store.tick(CLOSE_MS)
    member = f"close|{session.session}"
    pauses = await pauses_of(store, member, 11)
    assert pauses == [min(1_000 * 2**n, 300_000) for n in range(11)]
    assert await zset(store, store.keys.stalled_timers) == {member: 11}
    assert await take_dead_letters(store) == []
    await redis.hdel(store.keys.session("s1"), "d:es")
    await store.timers()
    assert len(await logged(store, "SessionClosed")) == 1
    assert await zset(store, store.keys.stalled_timers) == {}


async def test_a_gap_timer_that_can_deliver_nothing_backs_off(
    store: TimedStore, redis: Client
) -> None:
    await store.configure_cell({"cache_live_state": 0}, overwrite=True)
    session = await opened_with_a_hole(store, redis)
    (first, *_) = await inbox_of(store)
    await store.record_results(store.keys.full("n1"), 1, [result_of(first)])
    await redis.hset(store.keys.session("s1"), "d:es", 7)
    store.tick(GAP_MS)
    await store.heartbeat_node(store.keys.full("n1"), 1, load=0, attempts=[])
    member = f"gap|{session.session}|es"
    store.at_ms = (await zset(store, store.keys.timers))[member]
    assert await pauses_of(store, member, 3) == [1_000, 2_000, 4_000]
    assert (await zset(store, store.keys.stalled_timers))[member] == 3
    await redis.hdel(store.keys.session("s1"), "d:es")
    await store.timers()
    assert (0, "no_outcome") in await ended_numbers(store)
    assert member not in await zset(store, store.keys.stalled_timers)


async def test_a_timer_that_fails_again_is_dead_lettered_once(
    store: TimedStore, redis: Client
) -> None:
    await store.configure_cell({}, overwrite=False)
    await redis.zadd(store.keys.timers, {"nonsense|x": 1})
    assert await pauses_of(store, "nonsense|x", 3) == [1_000, 2_000, 4_000]
    assert [letter["id"] for letter in await take_dead_letters(store)] == ["nonsense|x"]
    await redis.zrem(store.keys.timers, "nonsense|x")
    await redis.zadd(store.keys.timers, {f"idle|{store.keys.full('none')}": 1})
    await store.timers()
    assert await zset(store, store.keys.stalled_timers) == {}, "the timer is gone"


async def inbox_of(store: TimedStore) -> list[dict[str, Any]]:
    entries = await store.read_range(store.keys.inbox("n1"), "-", "+", 100)
    return [
        {"j": fields[3].decode(), "attempt": msgspec.json.decode(fields[7])["attempt"]}
        for _, fields in entries
    ]


def result_of(message: dict[str, Any]) -> NodeResult:
    return NodeResult(job=message["j"], attempt=message["attempt"], status="ok")
