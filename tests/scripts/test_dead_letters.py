"""The scripts of `dead-letters retry` and `discard`: what is retried, skipped, discarded, and what
stays.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from eventsched.errors import InvalidMessage
from eventsched.schema.events import DeadLettersDiscarded, DeadLettersRetried
from eventsched.store.client import Client
from eventsched.store.operator_commands import Act, RetryOutcome
from tests.dispatch_entries import fields_of, line_of
from tests.fixtures_store import TimedStore


async def add_dead_letter(store: TimedStore, redis: Client, **fields: str | bytes) -> str:
    """Add a dead letter as the dispatch script writes it."""
    fields_: dict[Any, Any] = {"from": "dispatch", "id": "1-1", "k": "utterance", "reason": "why"}
    entry_id: Any = await redis.xadd(store.keys.dead_letters, fields_ | {"partial": "0"} | fields)
    return entry_id.decode()  # type: ignore[no-any-return]


async def retry(store: TimedStore, dead_id: str, *, force: bool) -> RetryOutcome:
    (outcome,) = await store.retry_dead_letters([dead_id], act(), force=force)
    return outcome


def act(request: str = "") -> Act:
    return Act.of("ann@host", "the cause is gone", request)


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
    done = await retry(store, dead_id, force=False)
    assert (done.word, done.retried, done.passed_over) == ("retried", 2, 0)
    assert await redis.xlen(store.keys.dead_letters) == 0
    assert await store.dispatch() == 2


async def test_targets_that_have_a_job_are_skipped(store: TimedStore, redis: Client) -> None:
    entry = await take_queue_entry(store, redis)
    assert entry.count(b" es/0,fr/0 ") == 1
    first = await add_dead_letter(store, redis, d=entry.replace(b" es/0,fr/0 ", b" es/0 "))
    await retry(store, first, force=False)
    assert await store.dispatch() == 1
    done = await retry(store, await add_dead_letter(store, redis, d=entry), force=False)
    assert (done.word, done.retried, done.passed_over) == ("retried", 1, 1)
    assert await store.dispatch() == 1
    done = await retry(store, await add_dead_letter(store, redis, d=entry), force=False)
    assert (done.word, done.retried, done.passed_over) == ("passed_over", 0, 2)
    assert await redis.xlen(store.keys.dead_letters) == 0
    assert await store.dispatch() == 0


async def test_targets_whose_outcome_ended_are_skipped(store: TimedStore, redis: Client) -> None:
    entry = await take_queue_entry(store, redis)
    await store.close_session(entry.partition(b" ")[0].decode(), 1)
    store.tick(60_000)
    await store.timers()
    assert len(await store.log("ResultMissing")) == 2
    done = await retry(store, await add_dead_letter(store, redis, d=entry), force=False)
    assert (done.word, done.passed_over) == ("passed_over", 2)


@pytest.mark.parametrize("d", ["", "{", "7", "c0.s1 0 1-1"])
async def test_an_unreadable_entry_stays(store: TimedStore, redis: Client, d: str) -> None:
    done = await retry(store, await add_dead_letter(store, redis, d=d), force=True)
    assert (done.word, done.retried, done.passed_over) == ("unreadable", 0, 0)
    assert await redis.xlen(store.keys.dead_letters) == 1
    assert await redis.xlen(store.keys.dispatch) == 0


async def test_a_number_without_its_target_cannot_be_read(store: TimedStore, redis: Client) -> None:
    fields = fields_of((await take_queue_entry(store, redis)).decode())
    dead_id = await add_dead_letter(store, redis, d=line_of(fields | {"targets": [0]}).encode())
    assert (await retry(store, dead_id, force=True)).word == "unreadable"
    assert await redis.xlen(store.keys.dead_letters) == 1


async def test_a_partial_entry_is_retried_only_with_force(store: TimedStore, redis: Client) -> None:
    dead_id = await add_dead_letter(
        store, redis, d=await take_queue_entry(store, redis), partial="1"
    )
    assert (await retry(store, dead_id, force=False)).word == "partial"
    assert await redis.xlen(store.keys.dead_letters) == 1
    assert (await retry(store, dead_id, force=True)).word == "retried"


async def test_a_timer_fires_again(store: TimedStore, redis: Client) -> None:
    session = await store.open()
    await store.say(session, 0)
    dead_id = await add_dead_letter(
        store, redis, **{"from": "timers"}, id=f"idle|{session.session}", d=""
    )
    store.tick(3_600_000)
    await redis.delete(store.keys.timers)
    assert (await retry(store, dead_id, force=False)).word == "retried"
    await store.timers()
    (closing,) = await store.log("SessionClosing")
    assert closing.session == session.session


async def test_a_fill_is_queued_again(store: TimedStore, redis: Client) -> None:
    dead_id = await add_dead_letter(store, redis, k="fill", d="n1")
    assert (await retry(store, dead_id, force=False)).word == "retried"
    ((_, fields),) = await store.read_range(store.keys.dispatch, "-", "+", 10)
    assert fields == [b"k", b"fill", b"d", b"n1"]


async def test_an_entry_that_could_not_be_folded_stays(store: TimedStore, redis: Client) -> None:
    dead_id = await add_dead_letter(store, redis, **{"from": "log"}, d="{}")
    assert (await retry(store, dead_id, force=True)).word == "projection"
    assert await redis.xlen(store.keys.dead_letters) == 1


async def test_a_missing_entry_is_unknown(store: TimedStore) -> None:
    assert (await retry(store, "1-1", force=False)).word == "unknown"
    with pytest.raises(InvalidMessage):
        await retry(store, "latest", force=False)


async def of_event(store: TimedStore, redis: Client, **revisions: str) -> str:
    """Add the dead letter of an event that these revisions of read models could not fold."""
    context = {"set": "core", "projections": list(revisions), "revisions": revisions}
    letter = {"from": "log", "k": "SessionOpened", "d": json.dumps(context)}
    return await add_dead_letter(store, redis, **letter)


async def test_an_event_counts_as_retried_once_its_read_models_were_rebuilt(
    store: TimedStore, redis: Client
) -> None:
    dead_id = await of_event(store, redis, session="1.9", job="1.1")
    await redis.set(store.keys.active_revision("session"), "2.10")
    await redis.set(store.keys.active_revision("job"), "1.1")
    assert (await retry(store, dead_id, force=True)).word == "projection"
    await redis.set(store.keys.active_revision("job"), "1.2")
    assert (await retry(store, dead_id, force=False)).word == "retried"
    assert await redis.xlen(store.keys.dead_letters) == 0


async def test_a_retry_of_several_is_one_event_with_who_and_why(
    store: TimedStore, redis: Client
) -> None:
    first = await add_dead_letter(store, redis, k="fill", d="n1")
    stays = await of_event(store, redis, session="1.1")
    last = await add_dead_letter(store, redis, k="fill", d="n2")
    ids = [first, stays, last, last, "1-1"]
    outcomes = await store.retry_dead_letters(ids, act(), chosen_by="match slot")
    words = [outcome.word for outcome in outcomes]
    assert words == ["retried", "projection", "retried", "unknown", "unknown"]
    (event,) = await store.log("DeadLettersRetried")
    assert event.data == DeadLettersRetried(
        first=first, last=last, count=2, filter="match slot", why="the cause is gone", by="ann@host"
    )


async def test_a_repeated_request_is_one_act(store: TimedStore, redis: Client) -> None:
    dead_id = await add_dead_letter(store, redis, k="fill", d="n1")
    done = await store.retry_dead_letters([dead_id], act("r1"))
    again = await store.retry_dead_letters([dead_id], act("r1"))
    assert done == again
    assert len(await store.log("DeadLettersRetried")) == 1
    assert await redis.xlen(store.keys.dispatch) == 1
    with pytest.raises(InvalidMessage, match="request"):
        await store.discard_dead_letters([dead_id], act("r1"))


async def test_an_act_without_effect_is_no_event(store: TimedStore) -> None:
    await store.retry_dead_letters(["1-1"], act())
    await store.discard_dead_letters(["1-1"], act())
    assert await store.types() == []


async def test_the_requests_that_are_stored_have_a_bound(store: TimedStore, redis: Client) -> None:
    key = store.keys.operator_requests
    requests: dict[Any, Any] = {f"r{number}": f"{number}|00|[]" for number in range(1_024)}
    await redis.hset(key, mapping=requests)
    dead_id = await add_dead_letter(store, redis, k="fill", d="n1")
    await store.retry_dead_letters([dead_id], act("new"))
    stored = await redis.hkeys(key)
    assert len(stored) == 1_024
    assert {b"new", b"r1"} <= set(stored)
    assert b"r0" not in stored


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"why": ""}, "why"),
        ({"why": "x" * 501}, "why"),
        ({"by": ""}, "by"),
        ({"by": "x" * 201}, "by"),
        ({"request": ""}, "request"),
        ({"request": "a b"}, "request"),
    ],
)
async def test_an_act_needs_who_and_why(
    store: TimedStore, redis: Client, change: dict[str, str], field: str
) -> None:
    dead_id = await add_dead_letter(store, redis, k="fill", d="n1")
    wrong = replace(act("r1"), **change)
    for call in (
        store.retry_dead_letters([dead_id], wrong),
        store.discard_dead_letters([dead_id], wrong),
        store.request_drain("c0.n1", wrong, within_ms=0),
    ):
        with pytest.raises(InvalidMessage) as refused:
            await call
        assert refused.value.fields["field"] == field
    assert await redis.xlen(store.keys.dead_letters) == 1


async def test_what_is_no_work_can_be_discarded(store: TimedStore, redis: Client) -> None:
    """An event asks for nothing: the log has it. Nobody can read an unreadable entry."""
    event = await of_event(store, redis, session="1.1")
    unreadable = await add_dead_letter(store, redis, d="c0.s1 0 1-1")
    of_timer = await add_dead_letter(store, redis, **{"from": "timers"}, id="idle|c0.s1", d="")
    of_slot = await add_dead_letter(store, redis, k="fill", d="n1")
    of_utterance = await add_dead_letter(store, redis, d=await take_queue_entry(store, redis))
    ids = [event, unreadable, event, of_timer, of_slot, of_utterance]
    words = await store.discard_dead_letters(ids, act(), chosen_by="limit 6")
    assert words == ["discarded", "discarded", "unknown", "work", "work", "work"]
    assert await redis.xlen(store.keys.dead_letters) == 3
    await redis.delete(store.keys.dead_letters)  # the fixture finds no timer that failed
    (appended,) = await store.log("DeadLettersDiscarded")
    assert appended.data == DeadLettersDiscarded(
        first=event, last=unreadable, count=2, filter="limit 6", why="the cause is gone",
        by="ann@host",
    )  # fmt: skip
