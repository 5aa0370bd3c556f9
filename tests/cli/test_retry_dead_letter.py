"""The script of `dead-letters retry`: retried entries, skipped targets, entries that stay."""

from __future__ import annotations

from typing import Any

import pytest

from eventsched.errors import InvalidMessage
from eventsched.store.client import Client
from tests.dispatch_entries import fields_of, line_of
from tests.fixtures_store import TimedStore


async def add_dead_letter(store: TimedStore, redis: Client, **fields: str | bytes) -> str:
    """Add a dead letter as the dispatch script writes it."""
    fields_: dict[Any, Any] = {"from": "dispatch", "id": "1-1", "k": "utterance", "reason": "why"}
    entry_id: Any = await redis.xadd(store.keys.dead_letters, fields_ | {"partial": "0"} | fields)
    return entry_id.decode()  # type: ignore[no-any-return]


async def take_queue_entry(store: TimedStore, redis: Client) -> bytes:
    """Return the queue entry of an utterance with two targets, and delete it from the queue."""
    session = await store.open(targets=["es", "fr"])
    await store.say(session, 0, end_of_utterance=True)
    ((entry_id, flat),) = await store.read_range(store.keys.dispatch, "-", "+", 10)
    await redis.xdel(store.keys.dispatch, entry_id)
    return flat[flat.index(b"d") + 1]


async def test_a_retried_entry_is_dispatched_with_the_fields_it_had(
    store: TimedStore, redis: Client
) -> None:
    entry = await take_queue_entry(store, redis)
    dead_id = await add_dead_letter(store, redis, d=entry)
    done = await store.retry_dead_letter(dead_id, force=False)
    assert (done.word, done.retried, done.passed_over) == ("retried", 2, 0)
    assert await redis.xlen(store.keys.dead_letters) == 0
    assert await store.dispatch() == 2


async def test_targets_that_have_a_job_are_skipped(store: TimedStore, redis: Client) -> None:
    entry = await take_queue_entry(store, redis)
    assert entry.count(b" es/0,fr/0 ") == 1
    first = await add_dead_letter(store, redis, d=entry.replace(b" es/0,fr/0 ", b" es/0 "))
    await store.retry_dead_letter(first, force=False)
    assert await store.dispatch() == 1
    done = await store.retry_dead_letter(await add_dead_letter(store, redis, d=entry), force=False)
    assert (done.word, done.retried, done.passed_over) == ("retried", 1, 1)
    assert await store.dispatch() == 1
    done = await store.retry_dead_letter(await add_dead_letter(store, redis, d=entry), force=False)
    assert (done.word, done.retried, done.passed_over) == ("passed_over", 0, 2)
    assert await redis.xlen(store.keys.dead_letters) == 0
    assert await store.dispatch() == 0


async def test_targets_whose_outcome_ended_are_skipped(store: TimedStore, redis: Client) -> None:
    entry = await take_queue_entry(store, redis)
    await store.close_session(entry.partition(b" ")[0].decode(), 1)
    store.tick(60_000)
    await store.timers()
    assert len(await store.log("ResultMissing")) == 2
    done = await store.retry_dead_letter(await add_dead_letter(store, redis, d=entry), force=False)
    assert (done.word, done.passed_over) == ("passed_over", 2)


@pytest.mark.parametrize("d", ["", "{", "7", "c0.s1 0 1-1"])
async def test_an_unreadable_entry_stays(store: TimedStore, redis: Client, d: str) -> None:
    done = await store.retry_dead_letter(await add_dead_letter(store, redis, d=d), force=True)
    assert (done.word, done.retried, done.passed_over) == ("unreadable", 0, 0)
    assert await redis.xlen(store.keys.dead_letters) == 1
    assert await redis.xlen(store.keys.dispatch) == 0


async def test_a_number_without_its_target_cannot_be_read(store: TimedStore, redis: Client) -> None:
    fields = fields_of((await take_queue_entry(store, redis)).decode())
    dead_id = await add_dead_letter(store, redis, d=line_of(fields | {"targets": [0]}).encode())
    assert (await store.retry_dead_letter(dead_id, force=True)).word == "unreadable"
    assert await redis.xlen(store.keys.dead_letters) == 1


async def test_a_partial_entry_is_retried_only_with_force(store: TimedStore, redis: Client) -> None:
    dead_id = await add_dead_letter(
        store, redis, d=await take_queue_entry(store, redis), partial="1"
    )
    assert (await store.retry_dead_letter(dead_id, force=False)).word == "partial"
    assert await redis.xlen(store.keys.dead_letters) == 1
    assert (await store.retry_dead_letter(dead_id, force=True)).word == "retried"


async def test_a_timer_fires_again(store: TimedStore, redis: Client) -> None:
    session = await store.open()
    await store.say(session, 0)
    dead_id = await add_dead_letter(
        store, redis, **{"from": "timers"}, id=f"idle|{session.session}", d=""
    )
    store.tick(3_600_000)
    await redis.delete(store.keys.timers)
    assert (await store.retry_dead_letter(dead_id, force=False)).word == "retried"
    await store.timers()
    (closing,) = await store.log("SessionClosing")
    assert closing.session == session.session


async def test_a_fill_is_queued_again(store: TimedStore, redis: Client) -> None:
    dead_id = await add_dead_letter(store, redis, k="fill", d="n1")
    assert (await store.retry_dead_letter(dead_id, force=False)).word == "retried"
    ((_, fields),) = await store.read_range(store.keys.dispatch, "-", "+", 10)
    assert fields == [b"k", b"fill", b"d", b"n1"]


async def test_an_entry_that_could_not_be_folded_stays(store: TimedStore, redis: Client) -> None:
    dead_id = await add_dead_letter(store, redis, **{"from": "log"}, d="{}")
    assert (await store.retry_dead_letter(dead_id, force=True)).word == "projection"
    assert await redis.xlen(store.keys.dead_letters) == 1


async def test_a_missing_entry_is_unknown(store: TimedStore) -> None:
    assert (await store.retry_dead_letter("1-1", force=False)).word == "unknown"
    with pytest.raises(InvalidMessage):
        await store.retry_dead_letter("latest", force=False)


async def test_the_dead_letter_of_an_event_can_be_discarded(
    store: TimedStore, redis: Client
) -> None:
    """It asks for nothing: the log has the event. All others are work that nothing else does."""
    of_event = await add_dead_letter(store, redis, **{"from": "log"}, d="{}")
    of_timer = await add_dead_letter(store, redis, **{"from": "timers"}, id="idle|c0.s1", d="")
    of_queue = await add_dead_letter(store, redis, k="fill", d="n1")
    assert await store.discard_dead_letter(of_event) == "discarded"
    assert await store.discard_dead_letter(of_event) == "unknown"
    for work in (of_timer, of_queue):
        assert await store.discard_dead_letter(work) == "work"
    assert await redis.xlen(store.keys.dead_letters) == 2
