"""A call whose event cannot be appended takes back what it has written before (rule 31)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from eventsched.errors import UnexpectedReply
from eventsched.store.client import Client
from eventsched.store.node_commands import NodeGrant, NodeResult
from tests.fixtures_store import TimedStore
from tests.scripts.jobs_of import assigned
from tests.scripts.test_playback import mark, opened

GREATEST = "18446744073709551615-18446744073709551615"
"""A stream that has had this id takes no more entries."""
FULL = "exhausted the last possible ID"
READS: dict[Any, tuple[Any, ...]] = {
    b"hash": ("HGETALL",),
    b"set": ("SMEMBERS",),
    b"string": ("GET",),
    b"zset": ("ZRANGE", 0, -1, "WITHSCORES"),
    b"stream": ("XRANGE", "-", "+"),
}


@asynccontextmanager
async def full_log(redis: Client, store: TimedStore) -> AsyncIterator[None]:
    """The log takes no entry while the block runs."""
    last = await store.last_id(store.keys.log)
    await redis.execute_command("XSETID", store.keys.log, GREATEST)
    try:
        yield
    finally:
        await redis.execute_command("XSETID", store.keys.log, str(last))


async def values(redis: Client, store: TimedStore) -> dict[str, Any]:
    """Return all values of the cell except its clock; the order of fields does not count."""
    found: dict[str, Any] = {}
    async for key in redis.scan_iter(match=f"{store.keys.prefix}*", count=1_000):
        command, *args = READS[await redis.type(key)]
        value = await redis.execute_command(command, key, *args)
        found[key.decode()] = sorted(value) if command == "SMEMBERS" else value
    found.pop(store.keys.clock)
    return found


async def two_running(store: TimedStore) -> tuple[NodeGrant, list[str]]:
    """A node and the keys of its jobs: the first is delivered next, the second is held."""
    node, session = await store.join(slots=4), await store.open("s1")
    for seq in range(2):
        await store.say(session, seq, end_of_utterance=True)
    await store.dispatch()
    return node, [message["j"] for message in await assigned(store, node)]


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("status", ["ok", "no_speech", "failed"])
async def test_rule_31_a_result_that_is_not_in_the_log_changes_nothing(
    redis: Client, store: TimedStore, number: int, status: Any
) -> None:
    node, jobs = await two_running(store)
    code = "BROKEN" if status == "failed" else ""
    result = NodeResult(job=jobs[number], attempt=1, status=status, code=code)
    before = await values(redis, store)
    async with full_log(redis, store):
        with pytest.raises(UnexpectedReply, match=FULL):
            await store.record_results(node.node, node.epoch, [result])
    assert await values(redis, store) == before
    assert await store.record_results(node.node, node.epoch, [result]) == [None]
    other = NodeResult(job=jobs[1 - number], attempt=1, status="ok")
    assert await store.record_results(node.node, node.epoch, [other]) == [None]
    deliveries = [delivery.delivery_no for _, delivery in await store.deliveries()]
    assert deliveries == [0, 1]


async def test_rule_31_a_session_that_is_not_in_the_log_leaves_a_timer_alone(
    redis: Client, store: TimedStore
) -> None:
    room = store.keys.full("acme/r1")
    await store.open("s1", room=room)
    before = await values(redis, store)
    async with full_log(redis, store):
        with pytest.raises(UnexpectedReply, match=FULL):
            await store.open("s2", room=room)
    after = await values(redis, store)
    assert before.pop(store.keys.timers) != after.pop(store.keys.timers)
    assert after == before
    store.tick(600_000)
    await store.timers()
    sessions = {event.session for event in await store.log()}
    assert sessions == {store.keys.full("s1")}


async def test_rule_31_a_playback_whose_end_is_not_in_the_log_goes_on(
    redis: Client, store: TimedStore
) -> None:
    session = await opened(store)
    await mark(store, session, started=True)
    before = await values(redis, store)
    async with full_log(redis, store):
        with pytest.raises(UnexpectedReply, match=FULL):
            await mark(store, session, started=False)
    assert await values(redis, store) == before
    await mark(store, session, started=False)
    assert (await store.types())[-1] == "PlaybackEnded"


async def test_rule_31_an_attempt_whose_end_is_not_in_the_log_goes_on(
    redis: Client, store: TimedStore
) -> None:
    """The node has counted a failure, which is no fault of the log."""
    node, jobs = await two_running(store)
    result = NodeResult(job=jobs[0], attempt=1, status="failed", code="BROKEN", retryable=True)
    before = await values(redis, store)
    async with full_log(redis, store):
        with pytest.raises(UnexpectedReply, match=FULL):
            await store.record_results(node.node, node.epoch, [result])
    after = await values(redis, store)
    assert after[store.keys.node("n1")].pop(b"failures")
    assert after == before


async def test_rule_31_a_job_whose_queuing_is_not_in_the_log_does_not_exist(
    redis: Client, store: TimedStore
) -> None:
    """The entry of the dispatch queue becomes a dead letter, which says why."""
    await store.say(await store.open("s1"), 0, end_of_utterance=True)
    async with full_log(redis, store):
        assert await store.dispatch() == 0
    job = f"acme:{store.keys.full('s1')}:0:translation:es:none"
    assert not await redis.exists(store.keys.job(job))
    assert await redis.zcard(store.keys.waiting_tags) == 0
    ((_, fields),) = await store.read_range(store.keys.dead_letters, "-", "+", 10)
    assert FULL in dict(zip(fields[::2], fields[1::2], strict=True))[b"reason"].decode()
