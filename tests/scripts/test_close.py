"""close_session: the close wait, the end and the retirement of a session (rules 6 and 10)."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from eventsched.errors import SessionClosedError, SessionUnknown
from eventsched.store.client import Client
from eventsched.store.node_commands import NodeGrant
from eventsched.store.operator_commands import Act
from eventsched.store.session_commands import SessionGrant
from tests.fixtures_store import TimedStore
from tests.job_record import job_record
from tests.scripts.calls import append, code_of, contents, events, finalized
from tests.scripts.cell_state import check

HOUR_MS = 3_600_000


async def assigned(
    store: TimedStore, count: int, **overrides: Any
) -> tuple[NodeGrant, SessionGrant, list[dict[str, Any]]]:
    await store.configure_cell({"node_lost_ms": 24 * HOUR_MS}, overwrite=True)
    node = await store.join(slots=256, targets=["es", "fr"])
    session = await store.open(**overrides)
    for seq in range(count):
        await append(store, session, seq, ms=20, payload=b"xx", end_of_utterance=True)
    await store.dispatch()
    return node, session, await store.inbox(node)


async def states(store: TimedStore, session: SessionGrant) -> list[str]:
    return [
        entry["state"] if entry["t"] == "state" else entry["outcome"]
        for entry in await store.out(session)
    ]


async def test_rule_6_closing_finalizes_what_is_buffered_and_waits_for_it(
    store: TimedStore,
) -> None:
    node, session, _ = await assigned(store, 0)
    await store.say(session, 0)
    assert await store.close_session(session.session, 1) == "ok"
    assert await finalized(store) == [(0, 0, "close", 220)]
    assert (await store.types())[-2:] == ["SessionClosing", "UtteranceFinalized"]
    await store.dispatch()
    (message,) = await store.inbox(node)
    assert message["padding_ms"] == 220
    await store.answer(node, message)
    assert await states(store, session) == ["closing", "result", "closed"]
    assert (await store.types())[-2:] == ["ResultRecorded", "SessionClosed"]


async def test_rule_6_a_session_that_owes_nothing_closes_at_once(store: TimedStore) -> None:
    session = await store.open()
    assert await store.close_session(session.session, 1) == "ok"
    assert await store.types() == ["SessionOpened", "SessionClosing", "SessionClosed"]
    assert await states(store, session) == ["closing", "closed"]
    ((_, fields),) = await store.read_range(store.keys.log, "-", "+", 1, newest_first=True)
    assert (fields[1], fields[15]) == (b"SessionClosed", b"{}")


async def test_a_repeated_close_is_a_duplicate(store: TimedStore, redis: Client) -> None:
    _, session, _ = await assigned(store, 1)
    replies = await asyncio.gather(*(store.close_session(session.session, 1) for _ in range(10)))
    assert sorted(replies) == ["duplicate"] * 9 + ["ok"]
    before = await contents(redis, store)
    store.tick(1_000)
    assert await store.close_session(session.session, 1) == "duplicate"
    assert await contents(redis, store) == before


@pytest.mark.parametrize("epoch", ["", "x", -1, 2])
async def test_close_refuses_what_is_malformed(
    store: TimedStore, redis: Client, epoch: str | int
) -> None:
    await store.open()
    before = await contents(redis, store)
    refusal = await code_of(store, "close_session", "s1", epoch)
    assert refusal.startswith("INVALID_MESSAGE epoch:")
    assert await contents(redis, store) == before


async def test_rule_6_after_the_wait_what_is_open_ends_as_missing_in_order(
    store: TimedStore,
) -> None:
    node, session, messages = await assigned(store, 4, targets=["es", "fr"])
    for message in messages:
        if (message["target"], message["utterance"]) in (("es", 2), ("fr", 0)):
            await store.answer(node, message)
    await store.close_session(session.session, 1)
    store.tick(29_999)
    assert not [e for e in await store.types() if e in ("ResultMissing", "SessionClosed")]
    store.tick(1)
    await store.timers()
    outcomes = [
        (entry["target"], entry["delivery_no"], entry["outcome"])
        for entry in await store.out(session)
        if entry["t"] == "result"
    ]
    assert [(no, outcome) for target, no, outcome in outcomes if target == "es"] == [
        (0, "missing"), (1, "missing"), (2, "result"), (3, "missing"),
    ]  # fmt: skip
    assert [(no, outcome) for target, no, outcome in outcomes if target == "fr"] == [
        (0, "result"), (1, "missing"), (2, "missing"), (3, "missing"),
    ]  # fmt: skip
    (closed,) = await events(store, "SessionClosed")
    assert closed.data.missing == 6
    assert (await store.types())[-1] == "SessionClosed"
    reasons = {event.data.reason for event in await events(store, "ResultMissing")}
    assert reasons == {"close"}


async def test_rule_6_live_attempts_and_waiting_jobs_stop_with_their_outcomes(
    store: TimedStore,
) -> None:
    node = await store.join(slots=1)
    await store.configure_cell(
        {"node_lost_ms": HOUR_MS, "queue_timeout_ms": HOUR_MS, "lease_base_ms": 60_000},
        overwrite=True,
    )
    session = await store.open()
    for seq in range(3):
        await store.say(session, seq, end_of_utterance=True)
    await store.dispatch()
    await store.close_session(session.session, 1)
    store.tick(30_000)
    await store.timers()
    (ended,) = await events(store, "AttemptEnded")
    assert ended.data.reason == "cancelled"
    assert len(await events(store, "JobDispatched")) == 1  # the slot went to none that ends next
    assert [m["t"] for m in await store.inbox(node)][-1] == "cancel"
    assert await store.read_hash(store.keys.tenant_queued) == {}
    assert not await store.read_range(store.keys.audio("s1"), "-", "+", 10)
    timers = await store.transport.command(
        "ZRANGE", store.keys.timers, 0, -1, key=store.keys.timers
    )
    kinds = sorted(member.decode().partition("|")[0] for member in timers)
    assert kinds == ["leases", "node", "retire"]  # the timer of leases that have ended


async def test_rule_6_a_close_wait_of_many_ends_in_bounded_steps(store: TimedStore) -> None:
    _, session, _ = await assigned(store, 100)
    await store.close_session(session.session, 1)
    store.tick(30_000)
    await store.fire_timers()
    assert len(await events(store, "ResultMissing")) == 8
    assert not await events(store, "SessionClosed")
    await store.timers()
    (closed,) = await events(store, "SessionClosed")
    assert closed.data.missing == 100


async def test_rule_6_a_wait_that_was_not_needed_does_nothing(store: TimedStore) -> None:
    node, session, (message,) = await assigned(store, 1)
    await store.close_session(session.session, 1)
    await store.answer(node, message)
    before = await store.types()
    timers = await store.transport.command(
        "ZRANGE", store.keys.timers, 0, -1, key=store.keys.timers
    )
    assert f"close|{session.session}".encode() not in timers
    store.tick(30_000)
    await store.timers()
    assert await store.types() == before
    assert before.count("SessionClosed") == 1


async def test_rule_6_racing_results_close_the_session_once(store: TimedStore) -> None:
    node, session, messages = await assigned(store, 12)
    await asyncio.gather(
        *(store.answer(node, message) for message in messages),
        store.close_session(session.session, 1),
    )
    types = await store.types()
    assert types.count("SessionClosed") == types.count("SessionClosing") == 1
    assert len(await store.deliveries()) == 12
    (closed,) = await events(store, "SessionClosed")
    assert all(event.id < closed.id for event, _ in await store.deliveries())


async def test_rule_6_a_failure_can_be_what_closes(store: TimedStore) -> None:
    node, session, (message,) = await assigned(store, 1)
    await store.close_session(session.session, 1)
    await store.answer(node, message, status="failed", code="BROKEN", body=b"")
    assert await states(store, session) == ["closing", "failed", "closed"]


async def test_rule_6_a_closed_session_is_closed_to_everything(
    store: TimedStore, redis: Client
) -> None:
    session = await store.open()
    await store.close_session(session.session, 1)
    before = await contents(redis, store)
    for attempt in (
        store.say(session, 0),
        store.finalize_utterance(session.session, 1, 0),
        store.resume(session.session, "t2"),
        store.open(),
    ):
        with pytest.raises(SessionClosedError):
            await attempt
    assert await contents(redis, store) == before


async def test_rule_10_retirement_comes_an_hour_after_the_end(
    store: TimedStore, redis: Client
) -> None:
    node, session, messages = await assigned(store, 2)
    await store.open("other")
    for message in messages:
        await store.answer(node, message)
    await store.close_session(session.session, 1)
    closed_ms = store.at_ms
    for _ in range(120):
        store.tick(30_000 - (store.at_ms == closed_ms))
        await store.keep_alive([(store.keys.full("other"), 1, "")])
        await store.timers()
    assert store.at_ms == closed_ms + HOUR_MS - 1
    assert not await events(store, "SessionRetired")
    assert (await job_record(store, messages[0]["j"]))["status"] == "ended"
    store.tick(1)
    await store.timers()
    (retired,) = await events(store, "SessionRetired")
    assert (retired.session, retired.ms) == (session.session, closed_ms + HOUR_MS)
    left = [key for key in await contents(redis, store) if b":s1" in key or b".s1" in key]
    assert left == []
    with pytest.raises(SessionUnknown):
        await store.resume(session.session, "t2")
    assert (await store.resume(store.keys.full("other"), "t2")).epoch == 2


async def test_rule_10_no_retry_outlives_the_job_record(store: TimedStore) -> None:
    node, session, (message,) = await assigned(store, 1)
    await store.answer(node, message)
    await store.close_session(session.session, 1)
    store.tick(HOUR_MS)
    await store.timers()
    with pytest.raises(Exception, match="JOB_UNKNOWN"):
        await store.answer(node, message)
    assert (
        await store.transport.command(
            "EXISTS", store.keys.session("s1"), key=store.keys.session("s1")
        )
        == 0
    )


async def test_rule_10_retirement_removes_at_most_256_keys_a_call(
    store: TimedStore, redis: Client
) -> None:
    node, session, messages = await assigned(store, 200, targets=["es", "fr"])
    while messages:
        for message in messages:
            await store.answer(node, message)
        messages = (await store.inbox(node))[-len(messages) :]
        messages = [m for m in messages if await is_running(store, m["j"])]
    await store.close_session(session.session, 1)
    assert len(await events(store, "SessionClosed")) == 1
    store.tick(HOUR_MS)
    left = [len(await contents(redis, store))]
    for _ in range(10):
        reply = await store.fire_timers()
        left.append(len(await contents(redis, store)))
        if reply.next_ms is None or reply.next_ms > reply.now_ms:
            break
    steps = [before - after for before, after in pairwise(left)]
    assert max(steps) <= 256
    assert len(steps) > 1
    assert len(await events(store, "SessionRetired")) == 1
    assert not [key for key in await contents(redis, store) if b":job:" in key or b":s1" in key]


async def is_running(store: TimedStore, job: str) -> bool:
    return (await job_record(store, job))["status"] == "running"


async def test_rule_10_a_retiring_session_is_closed_to_everything(store: TimedStore) -> None:
    node, session, messages = await assigned(store, 200, targets=["es", "fr"])
    del node, messages
    await store.close_session(session.session, 1)
    store.tick(30_000)
    await store.timers()
    store.tick(HOUR_MS)
    await store.fire_timers()
    assert (await store.read_hash(store.keys.session("s1")))["status"] == "retired"
    resume = store.resume(session.session, "t")
    for attempt in (store.say(session, 200), store.open(), resume):
        with pytest.raises(SessionClosedError):
            await attempt
    await store.timers()
    assert len(await events(store, "SessionRetired")) == 1
    with pytest.raises(SessionUnknown):
        await store.say(session, 200)


async def test_rule_10_a_retired_id_that_is_opened_anew_is_not_retired_by_its_past(
    store: TimedStore,
) -> None:
    session = await store.open()
    await store.close_session(session.session, 1)
    store.tick(HOUR_MS)
    await store.timers()
    again = await store.open()
    assert (again.epoch, again.next_seq) == (1, 0)
    await store.transport.command(
        "ZADD", store.keys.timers, store.at_ms, f"retire|{session.session}", key=store.keys.timers
    )
    await store.timers()
    await store.say(again, 0)
    assert len(await events(store, "SessionRetired")) == 1


async def test_rule_10_a_queued_entry_of_a_retired_session_is_not_of_its_successor(
    store: TimedStore,
) -> None:
    """The dispatch queue has an utterance of the first session when its name comes back."""
    await _retired_with_a_queued_utterance(store)
    node, session = await store.join(), await store.open(token="second")
    await store.say(session, 0, ms=500, end_of_utterance=True)
    assert await store.dispatch() == 1
    (assignment,) = await store.inbox(node)
    _, second = await events(store, "UtteranceFinalized")
    assert (assignment["first"], assignment["ms"]) == (second.data.first, 500)
    await check(store)


async def test_rule_10_a_dead_letter_of_a_retired_session_is_not_of_its_successor(
    store: TimedStore,
) -> None:
    await _retired_with_a_queued_utterance(store)
    ((_, fields),) = await store.read_range(store.keys.dispatch, "-", "+", 1)
    key = store.keys.dead_letters
    dead_id = await store.transport.command(
        "XADD", key, "*", "from", "dispatch", "id", "1-1", "k", "utterance", "d", fields[3],
        "reason", "a defect", "partial", "0", key=key,
    )  # fmt: skip
    session = await store.open(token="second")
    await store.say(session, 0, ms=500, end_of_utterance=True)
    (outcome,) = await store.retry_dead_letters([dead_id.decode()], Act.of("ann", "again"))
    assert (outcome.word, outcome.retried, outcome.passed_over) == ("passed_over", 0, 1)
    await store.transport.command("DEL", key, key=key)


async def _retired_with_a_queued_utterance(store: TimedStore) -> None:
    session = await store.open()
    await store.say(session, 0, end_of_utterance=True)
    await store.close_session(session.session, 1)
    store.tick(31_000)
    await store.timers()
    store.tick(HOUR_MS)
    await store.timers()
    assert (await store.types())[-1] == "SessionRetired"
    store.tick(1)


async def test_a_late_timekeeper_catches_up_in_order(store: TimedStore) -> None:
    session = await store.open()
    await store.say(session, 0)
    store.tick(10 * HOUR_MS)
    for _ in range(5):
        await store.timers()
        await store.dispatch()
        store.tick(30_000)
    assert await store.types() == [
        "SessionOpened", "UtteranceFinalized", "SessionClosing", "JobQueued", "JobPromoted",
        "JobFailed", "ResultDelivered", "SessionClosed",
    ]  # fmt: skip


async def test_racing_timekeepers_fire_each_timer_once(store: TimedStore) -> None:
    for number in range(40):
        session = await store.open(f"s{number}")
        await store.say(session, 0)
    store.tick(3_000)
    await asyncio.gather(*(store.timers() for _ in range(8)))
    ends = [event.session for event in await events(store, "UtteranceFinalized")]
    assert sorted(ends) == sorted({store.keys.full(f"s{n}") for n in range(40)})


async def test_a_timer_that_another_set_anew_in_the_same_call_is_not_due(
    store: TimedStore,
) -> None:
    """The node's silence re-dispatches the job; the lease that was due too is of the past."""
    await store.join("n1")
    session = await store.open()
    await store.say(session, 0, end_of_utterance=True)
    await store.dispatch()
    store.tick(14_000)
    await store.join("n2")
    store.tick(26_000)
    await store.heartbeat_node(store.keys.full("n2"), 1, load=0, attempts=[])
    await store.timers()
    assert [e.data.reason for e in await events(store, "AttemptEnded")] == ["node_lost"]
    assert len(await events(store, "JobDispatched")) == 2
