"""Eager dispatch: a finalizing call dispatches its jobs itself while a dispatcher is present and
the dispatch queue is empty, with the same decisions and events (rules 10, 11, 16 to 18).
"""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from eventsched.errors import EventschedError
from eventsched.schema.events import Event
from eventsched.store.client import Client
from eventsched.store.operator_commands import Act
from eventsched.store.session_commands import Chunk, SessionGrant
from tests.fixtures_store import TimedStore
from tests.scripts.calls import word_of
from tests.scripts.cell_state import check
from tests.scripts.jobs_of import (
    assigned,
    finish_one,
    logged,
    order_of_dispatch,
    speak,
    take_dead_letters,
)

LEASE_MS = 4_000
EIGHT = ["ar", "de", "es", "fr", "it", "ja", "ko", "pt"]


async def queue_length(store: TimedStore) -> int:
    """The number of entries in the dispatch queue."""
    return len(await store.read_range(store.keys.dispatch, "-", "+", 100))


async def test_rule_11_one_call_finalizes_and_dispatches(store: TimedStore) -> None:
    node = await store.join()
    await store.dispatch_jobs(LEASE_MS)
    session = await speak(store, "s1")
    assert await queue_length(store) == 0
    finalized, dispatched = (await store.log())[-2:]
    assert (finalized.type, dispatched.type) == ("UtteranceFinalized", "JobDispatched")
    assert dispatched.cause == f"log/{finalized.id}"
    (assignment,) = await assigned(store, node)
    assert assignment["j"] == dispatched.job
    await store.say(session, 1)
    finalize = (session.session, session.epoch, 1)
    assert (await store.finalize_utterance(*finalize)).status == "ok"
    assert (await store.finalize_utterance(*finalize)).status == "duplicate"
    assert await order_of_dispatch(store) == ["s1/0", "s1/1"]
    assert await store.dispatch() == 0
    await check(store)


async def test_the_setting_switches_it_off_and_on_while_the_cell_runs(store: TimedStore) -> None:
    await store.join(slots=8)
    await store.configure_cell({"eager_dispatch": 0}, overwrite=True)
    await store.dispatch_jobs(LEASE_MS)
    await speak(store, "s1")
    assert await queue_length(store) == 1
    assert await order_of_dispatch(store) == []
    await store.dispatch_jobs(LEASE_MS)
    assert await order_of_dispatch(store) == ["s1/0"]
    await store.configure_cell({"eager_dispatch": 1}, overwrite=True)
    await speak(store, "s2")
    assert await order_of_dispatch(store) == ["s1/0", "s2/0"]
    assert await queue_length(store) == 0
    await check(store)


async def test_the_events_and_the_assignment_are_those_of_the_dispatcher(store: TimedStore) -> None:
    """The same day twice, the second time through `work`."""
    outcomes = dict[str, Any]()
    for name, lease_ms in (("s1", LEASE_MS), ("s2", 0)):
        node = await store.join(token=name, slots=3, targets=["es", "fr"], features=["tts"])
        await store.dispatch_jobs(lease_ms)
        await speak(
            store, name, count=2, targets=["es", "fr"], features=["tts"], key="0123456789abcdef"
        )
        await store.dispatch()
        assignments = [_same(message) for message in (await assigned(store, node))[-3:]]
        events = [_event_fields(event) for event in await store.log("JobDispatched", "JobQueued")]
        outcomes[name] = (assignments, events[-4:])
        for _ in range(4):
            await finish_one(store, node)
        await store.drain_node(node.node, node.epoch, within_ms=1_000)
        store.tick(LEASE_MS)
    assert len(outcomes["s1"][0]) == 3
    assert outcomes["s1"] == outcomes["s2"]
    await check(store)


def _same(assignment: dict[str, Any]) -> dict[str, Any]:
    own = ("j", "c", "session", "first", "last", "deadline_ms", "epoch", "finalized")
    return {name: value for name, value in assignment.items() if name not in own}


def _event_fields(event: Event) -> tuple[str, dict[str, Any]]:
    own = ("deadline_ms", "epoch", "tag", "member")
    fields = event.data.__struct_fields__
    return event.type, {name: getattr(event.data, name) for name in fields if name not in own}


async def test_without_a_dispatcher_jobs_wait_in_the_dispatch_queue(store: TimedStore) -> None:
    """The presence lease of the dispatcher has ended."""
    await store.join(slots=8)
    await store.dispatch_jobs(LEASE_MS)
    store.tick(LEASE_MS - 1)
    await speak(store, "s1")
    assert await queue_length(store) == 0
    store.tick(1)
    await speak(store, "s2")
    assert await queue_length(store) == 1
    assert await order_of_dispatch(store) == ["s1/0"]
    await store.dispatch_jobs(LEASE_MS)
    await speak(store, "s3")
    assert await order_of_dispatch(store) == ["s1/0", "s2/0", "s3/0"]
    await check(store)


async def test_a_dispatcher_that_cannot_dispatch_is_not_there(store: TimedStore) -> None:
    await store.join()
    key = store.keys.dispatch
    await store.transport.command("DEL", key, key=key)
    await store.transport.command("SET", key, "no stream", key=key)
    with pytest.raises(EventschedError, match="WRONGTYPE"):
        await store.dispatch_jobs(LEASE_MS)
    await store.transport.command("DEL", key, key=key)
    await speak(store, "s1")
    await speak(store, "s2")
    assert await queue_length(store) == 2
    assert await order_of_dispatch(store) == []


async def test_rule_15_only_jobs_with_full_nodes_count_as_waiting(store: TimedStore) -> None:
    """A dispatcher pauses for them, but not for jobs that no node can serve."""
    await store.join(slots=1)
    await speak(store, "s1", targets=["fr"])
    await speak(store, "s2", count=4)
    reply = await store.dispatch_jobs()
    assert (reply.jobs, reply.waiting) == (5, 3)
    await check(store)


async def test_no_job_overtakes_the_dispatch_queue(store: TimedStore) -> None:
    await store.join(slots=64)
    await speak(store, "s1", count=14)
    await store.dispatch_jobs(LEASE_MS)  # takes twelve of them
    await speak(store, "s2")
    assert await queue_length(store) == 3
    await store.dispatch_jobs(LEASE_MS)
    await speak(store, "s3")
    assert (await order_of_dispatch(store))[-4:] == ["s1/12", "s1/13", "s2/0", "s3/0"]
    await check(store)


async def test_rule_18_a_job_that_finds_no_slot_waits_as_it_would(store: TimedStore) -> None:
    await store.dispatch_jobs(LEASE_MS)
    await speak(store, "s1")
    (queued,) = await logged(store, "JobQueued")
    assert queued.data.reason == "NO_POOL_FOR_LANG_PAIR"
    node = await store.join(slots=1)
    await speak(store, "s2")
    assert [event.data.reason for event in await logged(store, "JobQueued")][1:] == [
        "NO_AVAILABLE_NODE"
    ]
    await finish_one(store, node)
    assert await order_of_dispatch(store) == ["s1/0", "s2/0"]
    assert await queue_length(store) == 0
    await check(store)


async def test_a_call_dispatches_at_most_eight_jobs(store: TimedStore) -> None:
    await store.join(slots=64, targets=EIGHT)
    await store.dispatch_jobs(LEASE_MS)
    session = await store.open("s1", targets=EIGHT[:3])
    chunks = [_final(session, seq) for seq in range(4)]
    assert [word_of(reply) for reply in await store.append_audio(chunks)] == ["ok"] * 4
    assert await order_of_dispatch(store) == ["s1/0"] * 3 + ["s1/1"] * 3
    assert await queue_length(store) == 2
    await store.dispatch()
    await speak(store, "s2", targets=EIGHT)
    assert await queue_length(store) == 0
    assert len(await order_of_dispatch(store)) == 20
    await check(store)


def _final(session: SessionGrant, seq: int) -> Chunk:
    return Chunk(
        session=session.session,
        epoch=session.epoch,
        seq=seq,
        ms=100,
        payload=b"ab",
        end_of_utterance=True,
    )


async def test_a_pause_and_a_close_dispatch_too(store: TimedStore) -> None:
    await store.join()
    paused, closing = await store.open("s1"), await store.open("s2")
    await store.say(paused, 0)
    store.tick(3_000)
    await store.say(closing, 0)
    await store.dispatch_jobs(LEASE_MS)
    await store.timers()
    await store.close_session(closing.session, closing.epoch)
    assert await order_of_dispatch(store) == ["s1/0", "s2/0"]
    assert await queue_length(store) == 0
    await check(store)


async def test_an_error_of_eager_dispatch_is_dead_lettered_and_the_finalize_succeeds(
    store: TimedStore,
) -> None:
    """As in the dispatch queue: nothing was written, and a retry succeeds after the repair."""
    await store.join()
    await store.dispatch_jobs(LEASE_MS)
    key = store.keys.active_revision("group")
    await store.transport.command("HSET", key, "a", "b", key=key)
    session = await speak(store, "s1")
    (entry,) = await store.read_range(store.keys.dead_letters, "-", "+", 100)
    assert await queue_length(store) == 0
    assert await order_of_dispatch(store) == []
    await store.transport.command("DEL", key, key=key)
    (retried,) = await store.retry_dead_letters([entry[0]], Act.of("ann", "again"))
    assert (retried.word, retried.retried) == ("retried", 1)
    assert await store.dispatch() == 1
    await store.say(session, 1, end_of_utterance=True)
    assert await order_of_dispatch(store) == ["s1/0", "s1/1"]
    await check(store)


async def test_an_entry_that_fails_after_a_write_is_dead_lettered_as_partial(
    store: TimedStore,
) -> None:
    await store.join()
    await store.dispatch_jobs(LEASE_MS)
    key = store.keys.inbox("n1")
    await store.transport.command("SET", key, "x", key=key)
    session = await speak(store, "s1")
    (parked,) = await take_dead_letters(store)
    assert (parked["from"], parked["k"], parked["partial"]) == ("dispatch", "utterance", "1")
    (finalized,) = await store.log("UtteranceFinalized")
    assert parked["id"] == finalized.id
    assert (await store.say(session, 1)).utterance == 1
    await store.transport.command("DEL", key, key=key)


async def test_rule_11_producers_that_finalize_while_dispatchers_run(store: TimedStore) -> None:
    """Six sessions speak, two dispatchers come and go: each job once, each session in order."""
    node = await store.join(slots=256)

    async def speaks(name: str) -> None:
        session = await store.open(name)
        for seq in range(20):
            await store.say(session, seq, end_of_utterance=True)

    async def dispatches(lease_ms: int) -> None:
        for _ in range(30):
            await store.dispatch_jobs(lease_ms)
            store.tick(1)

    async with anyio.create_task_group() as tasks:
        for name in ("s1", "s2", "s3", "s4", "s5", "s6"):
            tasks.start_soon(speaks, name)
        for lease_ms in (1, 2):
            tasks.start_soon(dispatches, lease_ms)
    await store.dispatch()
    messages = [message["j"] for message in await assigned(store, node)]
    assert len(messages) == len(set(messages)) == 120
    order = await order_of_dispatch(store)
    for name in {place.partition("/")[0] for place in order}:
        assert [place for place in order if place.startswith(f"{name}/")] == [
            f"{name}/{number}" for number in range(20)
        ]
    await check(store)


async def test_rule_18_what_a_call_queues_itself_counts_for_its_next_chunk(
    store: TimedStore,
) -> None:
    """Three jobs may wait, there is no node, and each chunk is a job."""
    await store.configure_cell({"tenant_queue_max": 3}, overwrite=True)
    await store.dispatch_jobs(LEASE_MS)
    session = await store.open("s1")
    replies = await store.append_audio([_final(session, seq) for seq in range(4)])
    assert [word_of(reply) for reply in replies] == ["ok"] * 3 + ["BACKPRESSURE"]
    assert len(await logged(store, "JobQueued")) == 3
    await check(store)


async def test_the_node_of_a_session_is_stored_if_a_later_job_of_the_call_waits(
    store: TimedStore, redis: Client
) -> None:
    await store.join("n1", slots=1)
    await store.dispatch_jobs(60_000)
    session = await store.open("s1")
    chunks = [
        Chunk(
            session=session.session,
            epoch=1,
            seq=seq,
            ms=100,
            payload=bytes(3200),
            end_of_utterance=True,
        )
        for seq in range(2)
    ]
    await store.append_audio(chunks)
    assert [event.type for event in await store.log("JobDispatched", "JobQueued")] == [
        "JobDispatched", "JobQueued",
    ]  # fmt: skip
    assert await redis.hget(store.keys.session("s1"), "used") == b"n1|0"
