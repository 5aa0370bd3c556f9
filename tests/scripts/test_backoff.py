"""Rule 20, dispatching again: after a retryable failure a job backs off, then avoids the node that
failed for a while.
"""

from __future__ import annotations

from typing import Any

import pytest

from eventsched.errors import Backpressure
from eventsched.schema.events import JobQueued
from eventsched.store.node_commands import NodeGrant
from tests.fixtures_store import START_MS, TimedStore
from tests.scripts.cell_state import check, zset
from tests.scripts.jobs_of import (
    assigned,
    last,
    logged,
    order_of_dispatch,
    reply,
    speak,
    take_dead_letters,
)

FAILED: dict[str, Any] = {"status": "failed", "code": "BROKEN", "retryable": True}
AVOID_MS = 2_000
KEY = "0123456789abcdef"


async def failed(store: TimedStore, node: NodeGrant, **report: Any) -> JobQueued:
    """The newest assignment of the node fails with this report; returns the event that follows."""
    message = (await assigned(store, node))[-1]
    return await failed_job(store, node, message["j"], message["attempt"], **report)


async def failed_job(
    store: TimedStore, node: NodeGrant, job: str, attempt: int, **report: Any
) -> JobQueued:
    """The attempt fails with this report; returns the event that follows."""
    assert await reply(store, node, job, attempt, **FAILED | report) == "ok"
    await check(store)
    queued: JobQueued = await last(store, "JobQueued")
    return queued


async def wait_until(store: TimedStore, ms: int) -> None:
    """The time is `ms`, and the timers that are due have fired."""
    store.tick(ms - store.at_ms)
    await store.timers()
    await check(store)


async def busy_node(store: TimedStore, name: str, *, slots: int = 1) -> NodeGrant:
    """A node whose slots are all held by jobs of other sessions."""
    node = await store.join(name, slots=slots)
    await speak(store, f"of-{name}", count=slots)
    await store.dispatch()
    assert len(await assigned(store, node)) == slots
    return node


async def test_rule_20_a_job_backs_off_before_its_next_attempt(store: TimedStore) -> None:
    first = await store.join("n1")
    await speak(store, "s1")
    await store.dispatch()
    second = await store.join("n2")
    queued = await failed(store, first)
    assert (queued.reason, queued.attempt, queued.last) == ("retry_backoff", 2, first.node)
    assert START_MS + 100 <= queued.not_before_ms < START_MS + 125
    assert queued.avoid_until_ms == queued.not_before_ms + AVOID_MS
    assert queued.deadline_ms == queued.not_before_ms + 10_000
    await wait_until(store, queued.not_before_ms - 1)
    assert await assigned(store, second) == []
    await wait_until(store, queued.not_before_ms)
    (again,) = await assigned(store, second)
    assert again["attempt"] == 2
    dispatch = await last(store, "JobDispatched")
    assert (dispatch.rule, dispatch.last, dispatch.affinity.why) == ("load", first.node, "last")


async def test_rule_20_each_backoff_is_four_times_the_one_before(store: TimedStore) -> None:
    node = await store.join(slots=1)
    await speak(store, "s1")
    await store.dispatch()
    for attempt, least in ((1, 100), (2, 400), (3, 1_600)):
        queued = await failed(store, node)
        assert queued.attempt == attempt + 1
        assert least <= queued.not_before_ms - store.at_ms < least * 1.25
        await wait_until(store, queued.not_before_ms)
        assert (await last(store, "JobDispatched")).rule == "last"
    await failed(store, node)
    job_failed = await last(store, "JobFailed")
    assert (job_failed.code, job_failed.attempt) == ("BROKEN", 4)
    assert await zset(store, store.keys.timers) == {
        member: ms
        for member, ms in (await zset(store, store.keys.timers)).items()
        if not member.startswith(("backoff|", "avoid|", "wait|", "age|"))
    }


@pytest.mark.parametrize("retry_in_ms", [1, 700, 10_000])
async def test_rule_20_the_handler_may_choose_the_backoff(
    store: TimedStore, retry_in_ms: int
) -> None:
    node = await store.join()
    await speak(store, "s1")
    await store.dispatch()
    queued = await failed(store, node, retry_in_ms=retry_in_ms)
    assert retry_in_ms <= queued.not_before_ms - START_MS <= retry_in_ms * 1.25


async def test_rule_20_a_backoff_of_0_retries_at_once(store: TimedStore) -> None:
    node = await store.join("n1")
    await speak(store, "s1")
    await store.dispatch()
    other = await store.join("n2")
    (message,) = await assigned(store, node)
    assert await reply(store, node, message["j"], **FAILED, retry_in_ms=0) == "ok"
    assert len(await assigned(store, other)) == 1
    assert await logged(store, "JobQueued") == []
    await check(store)


@pytest.mark.parametrize("retry_in_ms", [-1, 10_001, 10**14])
async def test_rule_20_a_backoff_beyond_10_s_is_malformed(
    store: TimedStore, retry_in_ms: int
) -> None:
    node = await store.join()
    await speak(store, "s1")
    await store.dispatch()
    (message,) = await assigned(store, node)
    before = await store.types()
    report = FAILED | {"retry_in_ms": retry_in_ms}
    assert await reply(store, node, message["j"], **report) == "INVALID_MESSAGE"
    assert await store.types() == before


async def test_rule_20_jobs_that_failed_together_are_not_dispatched_together(
    store: TimedStore,
) -> None:
    node = await store.join(slots=20)
    await speak(store, "s1", count=20)
    await store.dispatch()
    for message in await assigned(store, node):
        await reply(store, node, message["j"], **FAILED)
    ends = {event.data.not_before_ms for event in await logged(store, "JobQueued")}
    assert len(ends) > 5
    await check(store)


async def test_rule_20_a_job_waits_for_another_node_that_is_full(store: TimedStore) -> None:
    """Neither a free slot of the node that failed nor a new job there ends the avoidance."""
    sound = await busy_node(store, "n2")
    broken = await store.join("n1", slots=2)
    await speak(store, "s1")
    await store.dispatch()
    queued = await failed(store, broken)
    await wait_until(store, queued.not_before_ms)
    waiting = await last(store, "JobQueued")
    assert (waiting.reason, waiting.last) == ("NO_AVAILABLE_NODE", broken.node)
    assert waiting.avoid_until_ms == queued.avoid_until_ms
    assert (waiting.tag, waiting.member) == (queued.tag, queued.member)
    assert waiting.deadline_ms == store.at_ms + 10_000
    await speak(store, "s2")
    await store.dispatch()
    assert (await order_of_dispatch(store))[-1] == "s2/0", "a new job may run on that node"
    await reply(store, broken, (await assigned(store, broken))[-1]["j"])
    await check(store)
    assert (await order_of_dispatch(store)).count("s1/0") == 1
    await reply(store, sound, (await assigned(store, sound))[0]["j"])
    dispatch = await last(store, "JobDispatched")
    assert (dispatch.rule, dispatch.attempt) == ("fill", 2)
    assert (await assigned(store, sound))[-1]["attempt"] == 2
    await check(store)
    await wait_until(store, queued.avoid_until_ms + 1)


async def test_rule_20_the_node_that_failed_is_taken_after_2_s(store: TimedStore) -> None:
    await busy_node(store, "n2")
    broken = await store.join("n1", slots=1)
    await speak(store, "s1")
    await store.dispatch()
    queued = await failed(store, broken)
    await wait_until(store, queued.not_before_ms)
    waiting = await last(store, "JobQueued")
    await wait_until(store, queued.avoid_until_ms - 1)
    assert len(await assigned(store, broken)) == 1
    await wait_until(store, queued.avoid_until_ms)
    assert (await store.types())[-2:] == ["JobQueued", "JobDispatched"]
    again = await last(store, "JobQueued")
    assert (again.last, again.avoid_until_ms, again.not_before_ms) == ("", 0, 0)
    assert (again.tag, again.member, again.deadline_ms) == (
        waiting.tag, waiting.member, waiting.deadline_ms,
    )  # fmt: skip
    assert (await assigned(store, broken))[-1]["attempt"] == 2


async def test_rule_20_the_only_able_node_is_taken_when_the_backoff_ends(
    store: TimedStore,
) -> None:
    """A node of other languages, one that drains and one that is gone are no other node."""
    await store.join("n2", targets=["fr"])
    await store.drain_node((await busy_node(store, "n3")).node, 1, within_ms=60_000)
    await store.drain_node((await store.join("n4")).node, 1, within_ms=0)
    broken = await store.join("n1", slots=1)
    await speak(store, "s1")
    await store.dispatch()
    queued = await failed(store, broken)
    await wait_until(store, queued.not_before_ms)
    assert (await last(store, "JobDispatched")).rule == "last"


async def test_rule_20_a_job_that_avoids_a_node_does_not_hold_up_other_jobs_there(
    store: TimedStore,
) -> None:
    """The head of the queue avoids n1: jobs behind it, of its requirement and of others, run."""
    await busy_node(store, "n2")
    broken = await store.join("n1", targets=["es", "fr"], slots=1)
    await speak(store, "s1", priority=0)
    await store.dispatch()
    await speak(store, "s2", targets=["fr"], priority=2)
    await speak(store, "s3", priority=2)
    await store.dispatch()
    queued = await failed(store, broken)
    assert (await order_of_dispatch(store))[-1] == "s2/0"
    await wait_until(store, queued.not_before_ms)
    await reply(store, broken, (await assigned(store, broken))[-1]["j"])
    assert (await order_of_dispatch(store))[-1] == "s3/0"
    dispatch = await last(store, "JobDispatched")
    assert (dispatch.rule, dispatch.compared, dispatch.runner_up) == ("fill", 2, None)
    await check(store)
    await wait_until(store, queued.avoid_until_ms)
    await reply(store, broken, (await assigned(store, broken))[-1]["j"])
    assert (await order_of_dispatch(store))[-1] == "s1/0"
    await check(store)


async def test_rule_18_a_job_that_waited_keeps_its_tag_through_a_backoff(
    store: TimedStore,
) -> None:
    await speak(store, "s1")
    await store.dispatch()
    first = await last(store, "JobQueued")
    node = await store.join(slots=1)
    before = await zset(store, store.keys.tenant_finish_tag)
    queued = await failed(store, node)
    assert (queued.tag, queued.member) == (first.tag, first.member)
    assert await zset(store, store.keys.tenant_finish_tag) == before
    await wait_until(store, queued.not_before_ms)
    assert (await last(store, "JobDispatched")).attempt == 2


async def test_rule_18_jobs_that_back_off_count_as_waiting_jobs_of_their_tenant(
    store: TimedStore,
) -> None:
    """A tenant whose jobs fail again and again is refused at its limit, alone."""
    await store.configure_cell({"tenant_queue_max": 3}, overwrite=True)
    node = await store.join(slots=4)
    session = await speak(store, "s1", count=3)
    await store.dispatch()
    for number, message in enumerate(await assigned(store, node), 1):
        await reply(store, node, message["j"], **FAILED, retry_in_ms=10_000)
        assert await store.read_hash(store.keys.tenant_queued) == {"acme": str(number)}
        await check(store)
    with pytest.raises(Backpressure) as refused:
        await store.say(session, 3)
    assert (refused.value.fields["cause"], refused.value.fields["seen"]) == ("tenant_queue", "3")
    await speak(store, "s2", tenant="other")
    await store.dispatch()
    assert await store.read_hash(store.keys.tenant_queued) == {"acme": "3"}
    await check(store)


@pytest.mark.parametrize("how", ["cancelled", "closed and erased", "exhausted", "dispatched"])
async def test_rule_18_a_job_that_ends_its_backoff_counts_no_more(
    store: TimedStore, how: str
) -> None:
    settings = {"close_wait_ms": 5_000, "delivery_gap_timeout_ms": 3_000}
    await store.configure_cell(settings, overwrite=True)
    node = await store.join(slots=2)
    session = await speak(store, "s1", count=2, key=KEY)
    await store.dispatch()
    first, second = await assigned(store, node)
    await reply(store, node, second["j"], **FAILED if how == "exhausted" else {})
    queued = await failed_job(store, node, first["j"], 1, retry_in_ms=10_000)
    assert "acme" in await store.read_hash(store.keys.tenant_queued)
    if how == "cancelled":
        await wait_until(store, START_MS + 3_000)
        assert len(await logged(store, "ResultMissing")) == 1
    elif how == "closed and erased":
        await store.configure_cell({"delivery_gap_timeout_ms": 60_000}, overwrite=True)
        await store.close_session(session.session, session.epoch)
        await wait_until(store, START_MS + 5_000)
        assert await logged(store, "SessionClosed")
        assert await store.erase_session(session.session, KEY) == "ok"
    elif how == "dispatched":
        await store.configure_cell({"delivery_gap_timeout_ms": 60_000}, overwrite=True)
        await wait_until(store, queued.not_before_ms)
    else:
        await exhaust(store, node)
        assert len(await logged(store, "JobFailed")) == 2
    assert await store.read_hash(store.keys.tenant_queued) == {}
    await check(store)


async def exhaust(store: TimedStore, node: NodeGrant) -> None:
    """Both jobs fail until they have no attempt left."""
    await store.configure_cell({"delivery_gap_timeout_ms": 60_000}, overwrite=True)
    while backoffs := await zset(store, store.keys.backoffs):
        await wait_until(store, min(backoffs.values()))
        for message in await assigned(store, node):
            report = FAILED | {"attempt": message["attempt"]}
            await reply(store, node, message["j"], **report)
            await check(store)


@pytest.mark.parametrize("how", ["lease", "node lost", "missing model"])
async def test_rule_20_other_ends_of_an_attempt_are_dispatched_again_at_once(
    store: TimedStore, how: str
) -> None:
    await store.configure_cell({"idle_ms": 600_000}, overwrite=True)
    node = await store.join("n1")
    await speak(store, "s1")
    await store.dispatch()
    other = await store.join("n2")
    (message,) = await assigned(store, node)
    if how == "missing model":
        await reply(store, node, message["j"], status="failed", code="MODEL_NOT_AVAILABLE")
    else:
        for _ in range(4):
            store.tick(10_000)
            await store.heartbeat_node(other.node, other.epoch, load=0, attempts=[])
            if how == "lease":
                await store.heartbeat_node(node.node, node.epoch, load=1, attempts=[])
            await store.timers()
    assert [message["attempt"] for message in await assigned(store, other)] == [2]
    assert await logged(store, "JobQueued") == []
    await check(store)


async def test_rule_25_the_end_of_the_close_wait_ends_a_backoff(store: TimedStore) -> None:
    await store.configure_cell({"close_wait_ms": 5_000}, overwrite=True)
    node = await store.join()
    session = await speak(store, "s1")
    await store.dispatch()
    await store.close_session(session.session, session.epoch)
    queued = await failed(store, node, retry_in_ms=10_000)
    await wait_until(store, START_MS + 5_000)
    assert (await store.types())[-2:] == ["ResultMissing", "SessionClosed"]
    assert await zset(store, store.keys.backoffs) == {}
    await wait_until(store, queued.not_before_ms)
    assert len(await assigned(store, node)) == 1


async def test_rule_25_a_skipped_outcome_ends_a_backoff(store: TimedStore) -> None:
    await store.configure_cell({"delivery_gap_timeout_ms": 3_000}, overwrite=True)
    node = await store.join()
    await speak(store, "s1", count=2)
    await store.dispatch()
    first, second = await assigned(store, node)
    await reply(store, node, second["j"])
    await reply(store, node, first["j"], **FAILED, retry_in_ms=10_000)
    await wait_until(store, START_MS + 3_000)
    assert (await store.types())[-2:] == ["ResultMissing", "ResultDelivered"]
    assert await zset(store, store.keys.backoffs) == {}


async def test_rule_21_a_report_of_the_failed_attempt_is_late_during_the_backoff(
    store: TimedStore,
) -> None:
    node = await store.join()
    await speak(store, "s1")
    await store.dispatch()
    await failed(store, node)
    (message,) = await assigned(store, node)
    assert await reply(store, node, message["j"]) == "LEASE_LOST"
    await check(store)


async def test_rule_20_a_timer_role_that_is_away_delays_the_attempt_and_loses_nothing(
    store: TimedStore,
) -> None:
    """The backoff ended 5 s ago: the node is avoided no more, and the job waits from now on."""
    await busy_node(store, "n2")
    broken = await store.join("n1", slots=1)
    await speak(store, "s1")
    await store.dispatch()
    queued = await failed(store, broken)
    await wait_until(store, queued.not_before_ms + 5_000)
    dispatch = await last(store, "JobDispatched")
    assert (dispatch.rule, dispatch.last) == ("last", broken.node)


async def test_rule_20_a_job_without_a_node_after_its_backoff_waits_and_fails(
    store: TimedStore,
) -> None:
    node = await store.join()
    await speak(store, "s1")
    await store.dispatch()
    queued = await failed(store, node)
    await store.drain_node(node.node, node.epoch, within_ms=0)
    await wait_until(store, queued.not_before_ms)
    waiting = await last(store, "JobQueued")
    assert (waiting.reason, waiting.last) == ("NO_POOL_FOR_LANG_PAIR", "")
    await wait_until(store, waiting.deadline_ms)
    assert (await last(store, "JobFailed")).code == "NO_POOL_FOR_LANG_PAIR"


async def test_rule_20_an_avoiding_job_fails_at_its_deadline(store: TimedStore) -> None:
    settings = {"queue_timeout_ms": 1_000, "retry_avoid_ms": 60_000}
    await store.configure_cell(settings, overwrite=True)
    await busy_node(store, "n2")
    broken = await store.join("n1", slots=1)
    await speak(store, "s1")
    await store.dispatch()
    queued = await failed(store, broken)
    await wait_until(store, queued.not_before_ms)
    await wait_until(store, queued.not_before_ms + 500)
    assert (await last(store, "JobPromoted")).priority == 0
    await wait_until(store, queued.not_before_ms + 1_000)
    assert (await last(store, "JobFailed")).code == "NO_AVAILABLE_NODE"
    assert await take_dead_letters(store) == []
