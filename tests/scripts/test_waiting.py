"""Rules 15, two reasons to wait, and 18, fair waiting: the queue, its order, and the use of a freed
slot.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from eventsched.schema.events import Event, JobDispatched, JobPromoted, JobQueued
from eventsched.schema.keys import name_of
from eventsched.schema.settings import Settings
from eventsched.store.client import Client
from eventsched.store.node_commands import NodeGrant, NodeResult
from eventsched.store.replies import fields_of
from eventsched.store.transport import RedisTransport
from tests.fixtures_store import TimedStore
from tests.job_record import job_record
from tests.scripts.cell_state import check, zset
from tests.scripts.jobs_of import (
    assigned,
    finish_one,
    last,
    logged,
    order_of_dispatch,
    refusal,
    reply,
    speak,
)


async def entries_left(store: TimedStore) -> list[dict[bytes, bytes]]:
    entries = await store.read_range(store.keys.dispatch, "-", "+", 100)
    return [fields_of(fields) for _, fields in entries]


async def calls_of(redis: Client) -> Counter[str]:
    """How many reads, and writes of sorted sets, the server has run, those of scripts included."""
    stats = await redis.info("commandstats")
    names = ("get", "hget", "hmget", "hgetall", "smembers", "zadd", "zcard", "zrange", "zrem")
    calls = {name: stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in names}
    return Counter(calls)


@pytest.mark.parametrize(
    ("is_served", "code"), [(False, "NO_POOL_FOR_LANG_PAIR"), (True, "NO_AVAILABLE_NODE")]
)
async def test_rule_18_a_job_waits_until_its_deadline_then_fails_with_the_code_of_rule_15(
    store: TimedStore, is_served: bool, code: str
) -> None:
    if is_served:
        await store.join(slots=1)
    await speak(store, "busy")
    await store.dispatch()
    session = await speak(store, "s1")
    await store.dispatch()
    queued = await last(store, "JobQueued")
    assert queued.deadline_ms == store.at_ms + 10_000
    store.tick(9_999)
    await store.timers()
    assert await logged(store, "JobFailed") == []
    store.tick(1)
    await store.timers()
    assert (await last(store, "JobFailed")).code == code
    (entry,) = [m for m in await store.out(session) if m["t"] == "result"]
    assert (entry["outcome"], entry["code"]) == ("failed", code)
    await check(store)


async def test_rule_18_order_is_priority_then_tag_then_age(store: TimedStore) -> None:
    node = await store.join(slots=1)
    await speak(store, "busy")
    await store.dispatch()
    for name, priority in (("late", 2), ("n1", 1), ("n2", 1), ("now", 0)):
        await speak(store, name, priority=priority, tenant=f"t-{name}")
    await store.dispatch()
    for _ in range(4):
        await check(store)
        await finish_one(store, node)
    assert await order_of_dispatch(store) == ["busy/0", "now/0", "n1/0", "n2/0", "late/0"]
    await check(store)


async def test_rule_18_the_tag_is_what_the_tenant_has_had(store: TimedStore) -> None:
    for ms in (3_000, 2_000, 1_000):
        await speak(store, f"acme{ms}", ms=ms)
    await speak(store, "tiny", tenant="tiny")
    await store.dispatch()
    tags = [(name_of(e.session), e.data.tag) for e in await logged(store, "JobQueued")]
    assert tags == [("acme3000", 0), ("acme2000", 3_000), ("acme1000", 5_000), ("tiny", 0)]
    # The 100 ms of tiny are charged as one second.
    assert await zset(store, store.keys.tenant_finish_tag) == {"tiny": 1_000, "acme": 6_000}
    node = await store.join(slots=1)
    for _ in range(3):
        await finish_one(store, node)
    order = await order_of_dispatch(store)
    assert order == ["acme3000/0", "tiny/0", "acme2000/0", "acme1000/0"]
    await check(store)  # V is 5,000 now: tiny's F of 1,000 is dropped
    assert await zset(store, store.keys.tenant_finish_tag) == {"acme": 6_000}


async def test_rule_18_a_newcomer_starts_at_the_virtual_time(store: TimedStore) -> None:
    await speak(store, "s1", ms=1_000, count=3)
    await store.dispatch()
    node = await store.join(slots=1)
    await finish_one(store, node)
    await speak(store, "new", tenant="new")
    await store.dispatch()
    assert (await last(store, "JobQueued")).tag == 1_000
    await check(store)


async def test_rule_18_a_flooding_tenant_does_not_hold_up_a_small_one(store: TimedStore) -> None:
    node = await store.join(slots=1)
    for i in range(4):
        await speak(store, f"flood{i}", tenant="flood", count=25)
    await store.dispatch()
    for i in range(3):
        await speak(store, f"tiny{i}", tenant="tiny")
        await store.dispatch()
        before = len(await order_of_dispatch(store))
        await finish_one(store, node)
        await finish_one(store, node)
        served = (await order_of_dispatch(store))[before:]
        assert f"tiny{i}/0" in served
    await check(store)


async def test_rule_18_at_half_of_its_time_a_job_is_promoted_to_priority_0(
    store: TimedStore,
) -> None:
    node = await store.join(slots=1)
    await speak(store, "busy")
    await store.dispatch()
    await speak(store, "old", priority=2, tenant="a")
    await store.dispatch()
    store.tick(4_999)
    await store.timers()
    assert await logged(store, "JobPromoted") == []
    store.tick(1)
    await store.timers()
    promoted = await last(store, "JobPromoted")
    assert (promoted.priority, promoted.attempt) == (0, 1)
    await check(store)
    await speak(store, "now", priority=0, tenant="b")  # the same tag, but younger
    await store.dispatch()
    await finish_one(store, node)
    assert (await order_of_dispatch(store))[1] == "old/0"
    await check(store)
    await store.timers()
    assert len(await logged(store, "JobPromoted")) == 1


async def test_rule_18_an_interactive_job_is_not_promoted(store: TimedStore) -> None:
    await speak(store, "s1", priority=0)
    await store.dispatch()
    kinds = [member.partition("|")[0] for member in await zset(store, store.keys.timers)]
    assert "wait" in kinds
    assert "age" not in kinds
    store.tick(5_000)
    await store.timers()
    assert len(await logged(store, "JobQueued")) == 1


async def test_rule_18_a_fill_is_of_8_slots_and_leaves_one_entry_in_the_dispatch_queue(
    store: TimedStore,
) -> None:
    """Ten wait and twenty slots come: eight are filled at once, two are left for `work`."""
    await speak(store, "old", count=10)
    await store.dispatch()
    node = await store.join(slots=20)
    assert len(await assigned(store, node)) == 8
    assert await entries_left(store) == [{b"k": b"fill", b"d": b"n1"}]
    await check(store, idle=False)
    await speak(store, "new")
    await store.dispatch()
    order = await order_of_dispatch(store)
    assert order == [f"old/{i}" for i in range(10)] + ["new/0"]
    rules = [e.data.rule for e in await logged(store, "JobDispatched")]
    assert rules == ["fill"] * 10 + ["load"]
    await check(store)


async def test_rule_18_the_entry_of_a_fill_fills_the_remaining_slots(
    store: TimedStore,
) -> None:
    await speak(store, "old", count=10)
    await store.dispatch()
    node = await store.join(slots=20)
    assert await store.dispatch() == 0
    assert len(await assigned(store, node)) == 10
    await check(store)


async def test_rule_18_an_arrival_queues_then_the_same_step_fills(store: TimedStore) -> None:
    await speak(store, "old", count=10)
    await store.dispatch()
    await store.join(slots=20)
    await speak(store, "new", tenant="new")
    key = store.keys.dispatch
    (fill,) = [i for i, f in await store.read_range(key, "-", "+", 9) if f[1] == b"fill"]
    await store.transport.command("XDEL", key, fill, key=key)
    await store.dispatch_jobs()
    queued = (await logged(store, "JobQueued"))[-1]
    assert queued.session == store.keys.full("new")
    rules = [(name_of(e.session), e.data.rule) for e in await logged(store, "JobDispatched")]
    assert sorted(rules[8:]) == [("new", "fill"), ("old", "fill"), ("old", "fill")]
    await check(store)


async def test_rule_18_a_fill_entry_of_a_node_that_went_has_no_effect(store: TimedStore) -> None:
    await speak(store, "old", count=10)
    await store.dispatch()
    node = await store.join(slots=20)
    await store.drain_node(node.node, node.epoch, within_ms=60_000)
    await store.dispatch()
    assert len(await assigned(store, node)) == 8
    await check(store)


async def test_rule_18_a_node_without_a_free_slot_looks_at_nothing(store: TimedStore) -> None:
    for target in ("de", "es"):
        await speak(store, target, targets=[target], count=9)
    await store.dispatch()
    await store.join(targets=["de", "es"], slots=8)
    requirements = store.keys.requirements_of((await last(store, "NodeRegistered")).cls)
    before = await zset(store, requirements)
    key = store.keys.dispatch
    await store.transport.command("XADD", key, "*", "k", "fill", "d", "n1", key=key)
    await store.dispatch()
    assert await zset(store, requirements) == before
    await check(store)


async def test_rule_18_the_best_job_of_any_number_of_requirements_is_next(
    store: TimedStore,
) -> None:
    """70 requirements wait. The only interactive job is of the last one: the first slot is its."""
    targets = [f"a{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(35)]
    pairs = sorted((source, target) for source in ("de", "en") for target in targets)
    for i, (source, target) in enumerate(pairs):
        await speak(store, f"s{i}", source=source, targets=[target], count=2, priority=int(i < 69))
        await store.dispatch()
    node = await store.join(sources=["de", "en"], targets=targets, slots=1)
    assert (await last(store, "JobDispatched")).compared == 70
    await check(store)
    for _ in range(3):
        await finish_one(store, node)
    assert await order_of_dispatch(store) == ["s69/0", "s69/1", "s0/0", "s0/1"]
    assert [each.data.compared for each in await logged(store, "JobDispatched")] == [70, 70, 69, 69]
    await check(store)


async def test_rule_18_a_fill_reads_no_more_if_more_requirements_wait(
    store: TimedStore, redis: Client
) -> None:
    """The commands of a result with its fill, with 50 and with 200 waiting requirements.

    The first fill of a cell does not move virtual time, so it is not compared.
    """
    commands: list[Counter[str]] = []
    targets = [f"a{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(50)]
    names = ("first", ["ca"]), ("few", ["aa"]), ("many", ["ba", "bb", "bc", "bd"])
    for name, sources in names:
        pairs = [(source, target) for source in sources for target in targets]
        count = len(pairs)
        node = await store.join(name, sources=sources, targets=targets, slots=1)
        await speak(store, f"{name}-busy", source=sources[0], targets=targets[:1])
        await store.dispatch()
        for i, (source, target) in enumerate(pairs):
            await speak(store, f"{name}{i}", source=source, targets=[target])
        await store.dispatch()
        (message,) = await assigned(store, node)
        before = await calls_of(redis)
        await store.answer(node, message)
        commands.append(await calls_of(redis) - before)
        assert (await last(store, "JobDispatched")).compared == count
    assert commands[1] == commands[2]
    await check(store)


async def test_rule_18_a_dispatched_again_job_keeps_its_tag_and_does_not_pay_again(
    store: TimedStore,
) -> None:
    await speak(store, "s1", ms=500, count=2)
    await store.dispatch()
    node = await store.join(slots=1)
    (message,) = await assigned(store, node)
    store.tick(3_000)
    await speak(store, "s2", tenant="other", priority=0)
    await store.dispatch()
    before = await zset(store, store.keys.tenant_finish_tag)
    await reply(
        store, node, message["j"], status="failed", code="BROKEN", retryable=True, retry_in_ms=0
    )
    again = [e.data for e in await logged(store, "JobQueued") if e.data.attempt == 2]
    first = (await logged(store, "JobQueued"))[0].data
    assert (again[0].tag, again[0].member) == (first.tag, first.member)
    assert again[0].deadline_ms == store.at_ms + 10_000
    assert await zset(store, store.keys.tenant_finish_tag) == before
    assert (await order_of_dispatch(store))[1] == "s2/0"
    await finish_one(store, node)
    assert (await order_of_dispatch(store))[2] == "s1/0"  # its tag is older than s1/1's
    await check(store)


@pytest.mark.parametrize("how", ["failed", "lease"])
async def test_rule_18_the_slot_of_a_failed_attempt_is_compared_for_all_waiting_jobs(
    store: TimedStore, how: str
) -> None:
    """The job whose attempt ended does not pass by an interactive one of another requirement."""
    node = await store.join(targets=["es", "fr"], slots=1)
    await speak(store, "s1", priority=2)
    await store.dispatch()
    (message,) = await assigned(store, node)
    store.tick(25_000)
    await store.heartbeat_node(node.node, node.epoch, load=0, attempts=[])
    await speak(store, "s2", targets=["fr"], priority=0)
    await store.dispatch()
    if how == "failed":
        await reply(
            store, node, message["j"], status="failed", code="BROKEN", retryable=True, retry_in_ms=0
        )
    else:
        store.tick(6_000)
        await store.timers()
    assert await order_of_dispatch(store) == ["s1/0", "s2/0"]
    assert (await last(store, "JobDispatched")).compared == 2
    await check(store)
    await finish_one(store, node)
    assert await order_of_dispatch(store) == ["s1/0", "s2/0", "s1/0"]
    await check(store)


async def test_rule_18_backlog_refuses_opening_and_ingest_of_that_tenant_only(
    store: TimedStore,
) -> None:
    await store.configure_cell({"tenant_queue_max": 3}, overwrite=True)
    session = await speak(store, "s1", count=2)
    await store.dispatch()
    await store.say(session, 2)
    await speak(store, "s2")
    await store.dispatch()
    assert await store.read_hash(store.keys.tenant_queued) == {"acme": "3"}
    for call in (store.say(session, 3), store.open("s3")):
        refused = await refusal(call)
        assert refused.code == "BACKPRESSURE"
        assert int(refused.fields["retry_after_ms"]) > 0
    assert (await store.finalize_utterance(session.session, 1, 2)).status == "ok"
    await store.dispatch()
    assert await store.read_hash(store.keys.tenant_queued) == {"acme": "4"}
    await speak(store, "other", tenant="other")
    node = await store.join(slots=4)
    assert await store.read_hash(store.keys.tenant_queued) == {}
    assert (await store.say(session, 3)).status == "ok"
    await store.dispatch()
    assert len(await assigned(store, node)) == 4
    await check(store)


async def test_rule_18_a_waiting_job_of_a_closing_session_leaves_the_queue_with_its_outcome(
    store: TimedStore,
) -> None:
    await store.configure_cell({"queue_timeout_ms": 60_000}, overwrite=True)
    session = await speak(store, "s1")
    await store.dispatch()
    await store.close_session(session.session, session.epoch)
    store.tick(30_000)
    await store.timers()
    assert (await last(store, "ResultMissing")).reason == "close"
    await check(store)
    node = await store.join()
    assert await assigned(store, node) == []


STEP = st.one_of(
    st.tuples(
        st.just("arrive"),
        st.sampled_from(["acme", "tiny"]),
        st.sampled_from([0, 1, 1, 2]),
        st.sampled_from([20, 100, 900]),
        st.sampled_from(["es", "es", "fr"]),
    ),
    st.tuples(st.just("finish")),
    st.tuples(st.just("fail")),
    st.tuples(st.just("tick"), st.sampled_from([500, 2_500, 5_000])),
)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    derandomize=True,
)
@given(steps=st.lists(STEP, min_size=10, max_size=60), slots=st.integers(1, 2))
async def test_rule_18_from_half_of_its_time_on_only_smaller_tags_of_its_requirement_precede_a_job(
    redis: Client, cells: Callable[[], str], steps: list[tuple[Any, ...]], slots: int
) -> None:
    store = TimedStore(RedisTransport(redis, redis), cells())
    await store.configure_cell(msgspec.to_builtins(Settings()), overwrite=False, manual_clock=True)
    node = await store.join(targets=["es", "fr"], slots=slots)
    for i, (kind, *rest) in enumerate(steps):
        if kind == "arrive":
            tenant, priority, ms, target = rest
            await speak(store, f"s{i}", tenant=tenant, priority=priority, ms=ms, targets=[target])
            await store.dispatch()
        elif kind == "tick":
            store.tick(rest[0])
            await store.heartbeat_node(node.node, node.epoch, load=0, attempts=[])
            await store.timers()
        else:
            await end_one(store, fails=kind == "fail")
        await store.dispatch()
    await check(store)
    types = ("JobQueued", "JobPromoted", "JobDispatched", "JobFailed")
    assert_order_of_dispatch(await logged(store, *types))


async def end_one(store: TimedStore, *, fails: bool) -> None:
    key = store.keys.leases("n1", 1)
    for job in await store.transport.command("ZRANGE", key, 0, 0, key=key):
        attempt = int((await job_record(store, job.decode()))["attempt"])
        failure: dict[str, Any] = (
            {"status": "failed", "code": "BROKEN", "retryable": True, "retry_in_ms": 0}
            if fails
            else {}
        )
        grant = await store.join(targets=["es", "fr"])
        assert await reply(store, grant, job.decode(), attempt, **failure) == "ok"


def assert_order_of_dispatch(events: list[Event]) -> None:
    """The bound, and the complete order of rule 18, in the events of the log."""
    waiting: dict[str, JobQueued] = {}
    since: dict[str, int] = {}
    for event in events:
        match event.data:
            case JobQueued() as data:
                since[event.job] = event.ms
                waiting[event.job] = data
            case JobPromoted(priority=priority):
                waiting[event.job] = msgspec.structs.replace(waiting[event.job], priority=priority)
            case JobDispatched() as data:
                taken = waiting.pop(event.job, None)
                passed = {j: w for j, w in waiting.items() if w.target == data.target}
                if taken is None:
                    assert not passed, f"{event.job} did not queue behind {list(passed)}"
                    continue
                for job, other in passed.items():
                    if event.ms - since[job] >= 5_000:
                        assert (taken.tag, taken.member) < (other.tag, other.member)
                best = min([taken, *waiting.values()], key=lambda w: (w.priority, w.tag, w.member))
                assert best is taken
                assert data.winner is not None
                assert data.winner.tag == taken.tag
            case _:
                waiting.pop(event.job, None)


async def avoided_queues(store: TimedStore, count: int) -> tuple[NodeGrant, NodeGrant]:
    """A node that `count` queues of one job each avoid, and another one, which is full."""
    settings = {
        "retry_avoid_ms": 60_000, "queue_timeout_ms": 600_000, "fast_failure_ms": 1,
        "node_lost_ms": 600_000, "idle_ms": 600_000,
    }  # fmt: skip
    await store.configure_cell(settings, overwrite=True)
    sources = [f"{a}{b}" for a in "abcdefgh" for b in "abcdefgh"][: (count + 7) // 8]
    targets = [f"{a}z" for a in "abcdefgh"]
    abilities: dict[str, Any] = {"sources": ["en", *sources], "targets": ["es", *targets]}
    sound = await store.join("n2", slots=1, **abilities)
    await speak(store, "of-n2")
    await store.dispatch()
    broken = await store.join("n1", slots=8, **abilities)
    for number, source in enumerate(sources):
        await speak(store, f"a{number}", source=source, targets=targets)
        await store.dispatch()
        messages = await assigned(store, broken)
        store.tick(2)
        failed = [
            NodeResult(
                job=message["j"],
                attempt=1,
                status="failed",
                code="BROKEN",
                retryable=True,
                retry_in_ms=1,
            )
            for message in messages[-8:]
        ]
        assert await store.record_results(broken.node, broken.epoch, failed) == [None] * 8
        store.tick(2)
        await store.timers()
    assert await logged(store, "NodeSuspended") == []
    queues = await store.read_hash(store.keys.requirements)
    assert len([queue for queue in queues if queue.endswith("|n1")]) == count
    return broken, sound


async def test_rule_18_a_job_behind_200_queues_that_avoid_the_node_is_found_in_two_calls(
    store: TimedStore, redis: Client
) -> None:
    """The first call asks for the next one, which goes on where the first one has stopped."""
    broken, sound = await avoided_queues(store, 200)
    await speak(store, "busy", count=8)
    await store.dispatch()
    await speak(store, "behind", priority=2, count=2)
    await store.dispatch()
    assert (await last(store, "JobQueued")).priority == 2
    before = await calls_of(redis)
    await reply(store, broken, (await assigned(store, broken))[-1]["j"])
    assert sum((await calls_of(redis) - before).values()) < 60, "the work of a call is bounded"
    assert (await order_of_dispatch(store))[-1] == "busy/7"
    await store.dispatch()
    assert (await order_of_dispatch(store))[-1] == "behind/0"
    dispatch = (await logged(store, "JobDispatched"))[-1]
    assert (dispatch.data.rule, dispatch.node) == ("fill", broken.node)
    await check(store)
    await reply(store, sound, (await assigned(store, sound))[0]["j"])
    assert (await order_of_dispatch(store))[-1] == "a0/0", "the other node takes the first of them"
    await check(store)


async def test_rule_18_a_node_that_all_queues_avoid_ends_its_search(store: TimedStore) -> None:
    broken, _ = await avoided_queues(store, 200)
    await speak(store, "busy")
    await store.dispatch()
    await reply(store, broken, (await assigned(store, broken))[-1]["j"])
    assert (await store.dispatch(), await logged(store, "JobFailed")) == (0, [])
    key = store.keys.dispatch
    assert await store.transport.command("XLEN", key, key=key) == 0
    await check(store)
