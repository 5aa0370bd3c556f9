"""Rule 19, lease duration: each lease ends at its own time, although one timer covers a
registration.
"""

from __future__ import annotations

from typing import Any

import pytest

from eventsched.store.client import Client
from eventsched.store.node_commands import NodeGrant
from eventsched.store.role_commands import TimerReply
from tests.fixtures_store import START_MS, TimedStore
from tests.job_record import falsify
from tests.scripts.cell_state import check, zset
from tests.scripts.jobs_of import assigned, last, logged, reply, speak, take_dead_letters

HOUR_MS = 3_600_000
LEASE_MS = 31_000
"""Of the short utterances that are spoken here."""


@pytest.fixture
async def calm(store: TimedStore) -> TimedStore:
    """Within the hour only leases end."""
    slow = {"node_lost_ms": HOUR_MS, "idle_ms": HOUR_MS, "queue_timeout_ms": HOUR_MS}
    await store.configure_cell(slow | {"delivery_gap_timeout_ms": HOUR_MS}, overwrite=True)
    return store


async def say(store: TimedStore, name: str, count: int = 1) -> None:
    await speak(store, name, count=count)
    await store.dispatch()


async def until(store: TimedStore, ms: int) -> None:
    """Advance to this time after the start; each timer fires exactly when it is due."""
    while store.at_ms < START_MS + ms:
        await store.timers()
        next_ms = (await store.fire_timers()).next_ms or HOUR_MS
        store.at_ms = min(next_ms, START_MS + ms)
    await store.timers()


async def ended(store: TimedStore) -> list[tuple[str, int]]:
    """Attempts that ended without a result: `<session>/<utterance>`, and the ms after the start."""
    ends = []
    for event in await logged(store, "AttemptEnded"):
        assert event.data.reason == "lease"
        ends.append((utterance_name(event.job), event.ms - START_MS))
    return ends


def utterance_name(job: str) -> str:
    _, session, utterance, *_ = job.split(":")
    return f"{session.partition('.')[2]}/{utterance}"


async def extend(store: TimedStore, node: NodeGrant, job: str, more_ms: int) -> int:
    defaults: dict[str, Any] = {"job": job, "attempt": 1, "more_ms": more_ms}
    return await store.extend_lease(node.node, node.epoch, **defaults) - START_MS


async def timers_of(store: TimedStore) -> dict[str, int]:
    """The time after the start at which the leases of each registration are checked."""
    timers = await zset(store, store.keys.timers)
    return {member: ms - START_MS for member, ms in timers.items() if member.startswith("leases|")}


async def test_rule_19_a_registration_has_one_timer_however_much_it_holds(
    calm: TimedStore,
) -> None:
    await calm.join(slots=3)
    await say(calm, "s1", 2)
    calm.tick(5_000)
    await say(calm, "s2")
    assert await timers_of(calm) == {"leases|n1|1": 15_000}
    await check(calm)


async def test_rule_19_a_short_lease_after_a_long_one_ends_before_it(calm: TimedStore) -> None:
    await calm.join()
    await calm.configure_cell({"lease_base_ms": 60_000}, overwrite=True)
    await say(calm, "s1")
    await calm.configure_cell({"lease_base_ms": 1_000}, overwrite=True)
    await until(calm, 500)
    await say(calm, "s2")
    await until(calm, 15_499)
    assert await ended(calm) == []
    await calm.configure_cell({"lease_base_ms": 60_000}, overwrite=True)
    await until(calm, 60_000)
    assert await ended(calm) == [("s2/0", 15_500), ("s1/0", 60_000)]
    await check(calm)


async def test_rule_19_a_lease_that_was_extended_ends_at_its_new_time(calm: TimedStore) -> None:
    node = await calm.join()
    await say(calm, "s1", 2)
    first = (await assigned(calm, node))[0]["j"]
    for _ in range(2):  # a repeated call gets the same reply
        assert await extend(calm, node, first, 45_000) == 45_000
    await until(calm, 32_000)
    assert await ended(calm) == [("s1/1", LEASE_MS)]
    assert await extend(calm, node, first, 18_007) == 50_007
    await until(calm, 51_000)
    assert await ended(calm) == [("s1/1", LEASE_MS), ("s1/0", 50_007)]
    await check(calm)


async def test_rule_19_leases_of_two_nodes_end_each_at_its_own_time(calm: TimedStore) -> None:
    await calm.join("n1", slots=1)
    await say(calm, "s1")
    await until(calm, 4_001)
    await calm.join("n2", slots=2)
    await say(calm, "s2")
    await until(calm, 4_002)
    await say(calm, "s3")
    assert await timers_of(calm) == {"leases|n1|1": 15_000, "leases|n2|1": 19_001}
    await until(calm, 36_000)
    assert await ended(calm) == [("s1/0", 31_000), ("s2/0", 35_001), ("s3/0", 35_002)]
    await check(calm)


async def ends_at_once(calm: TimedStore, leases: int) -> TimerReply:
    """All leases of one node, in one call at their last ms."""
    await calm.join(slots=leases)
    await say(calm, "s1", leases)
    await until(calm, LEASE_MS - 1)
    calm.tick(1)
    return await calm.fire_timers()


async def test_rule_19_what_ends_at_once_ends_16_a_call_by_its_key(calm: TimedStore) -> None:
    fired = await ends_at_once(calm, 20)
    assert (fired.fired, fired.next_ms) == (1, calm.at_ms)
    assert len(await ended(calm)) == 16
    await check(calm)
    await calm.timers()
    keys = [event.job for event in await logged(calm, "AttemptEnded")]
    assert keys == sorted(event.job for event in (await logged(calm, "JobDispatched"))[:20])
    assert await timers_of(calm) == {"leases|n1|1": LEASE_MS + 15_000}
    await check(calm)


async def test_rule_19_16_that_end_at_once_are_all_in_one_call(calm: TimedStore) -> None:
    fired = await ends_at_once(calm, 16)
    assert (fired.fired, fired.next_ms) == (1, calm.at_ms + 15_000)
    assert len(await ended(calm)) == 16


async def test_rule_19_remaining_leases_of_a_node_end_before_those_of_another(
    calm: TimedStore,
) -> None:
    """Of leases that end at the same time, in the next call: a call stays short."""
    await calm.join("n1", slots=17)
    await say(calm, "s1", 17)
    await calm.join("n2", slots=1)
    await say(calm, "s2")
    await until(calm, LEASE_MS - 1)
    calm.tick(1)
    for expected in (16, 18):
        await calm.fire_timers()
        assert len(await ended(calm)) == expected
    assert (await ended(calm))[-1] == ("s2/0", LEASE_MS)
    await check(calm)


async def test_rule_19_leases_whose_timer_was_lost_end_in_the_order_of_their_ends(
    calm: TimedStore, redis: Client
) -> None:
    """Two leases have expired when the timer role returns."""
    node = await calm.join()
    await say(calm, "s1", 2)
    await extend(calm, node, (await assigned(calm, node))[0]["j"], 32_000)
    await redis.zrem(calm.keys.timers, "leases|n1|1")
    calm.tick(40_000)
    await redis.zadd(calm.keys.timers, {"leases|n1|1": calm.at_ms})
    await calm.fire_timers()
    assert [job for job, _ in await ended(calm)] == ["s1/1", "s1/0"]


async def test_rule_19_a_late_timekeeper_ends_leases_in_the_order_of_their_ends(
    calm: TimedStore,
) -> None:
    await calm.join("n1", slots=2)
    await say(calm, "s1")
    calm.tick(1_000)
    await calm.join("n2", slots=1)
    await say(calm, "s2")
    calm.tick(1_000)
    await say(calm, "s3")
    assert len(await calm.log("JobDispatched")) == 3
    calm.tick(60_000)
    await calm.timers()
    assert [job for job, _ in await ended(calm)] == ["s1/0", "s2/0", "s3/0"]
    await check(calm)


async def test_rule_13_the_silence_of_a_node_comes_before_leases_that_ended_later(
    calm: TimedStore,
) -> None:
    """Both are due when the timer is back: the leases were looked at first, and end second."""
    await calm.configure_cell({"node_lost_ms": 20_000}, overwrite=True)
    await calm.join(slots=2)
    await say(calm, "s1", 2)
    calm.tick(60_000)
    await calm.timers()
    assert {event.data.reason for event in await logged(calm, "AttemptEnded")} == {"node_lost"}
    await check(calm)


async def test_rule_19_leases_of_a_registration_that_is_over_end_too(
    calm: TimedStore, redis: Client
) -> None:
    """16 of 20 leases were dispatched again at its end; the timer for the rest was lost."""
    await calm.join(slots=20)
    await say(calm, "s1", 20)
    calm.tick(5_000)
    await calm.join(token="newer", slots=40)
    assert len(await logged(calm, "AttemptEnded")) == 16
    assert await redis.zrem(calm.keys.timers, f"lost|{calm.keys.full('n1')}|1|superseded") == 1
    await until(calm, LEASE_MS)
    await calm.timers()
    rest = (await logged(calm, "AttemptEnded"))[16:]
    assert {(event.data.reason, event.ms - START_MS) for event in rest} == {("lease", LEASE_MS)}
    assert len(rest) == 4
    assert await timers_of(calm) == {"leases|n1|1": 46_000, "leases|n1|2": 35_000}
    await until(calm, 35_999)
    await check(calm)
    await until(calm, 36_000 + LEASE_MS)
    await calm.timers()
    assert "leases|n1|1" not in await timers_of(calm)
    await check(calm)


async def test_rule_19_a_lease_ends_while_its_node_drains(calm: TimedStore) -> None:
    node = await calm.join()
    await say(calm, "s1")
    await calm.drain_node(node.node, node.epoch, within_ms=300_000)
    await until(calm, LEASE_MS)
    assert await ended(calm) == [("s1/0", LEASE_MS)]
    assert (await calm.types())[-2:] == ["NodeDrained", "JobQueued"]
    await check(calm)


@pytest.mark.parametrize("idle_ms", [10_000, 15_000, 20_000])
async def test_rule_19_a_node_that_was_idle_has_a_timer_again(
    calm: TimedStore, idle_ms: int
) -> None:
    """The timer of earlier leases is still there, due just now, or gone."""
    node = await calm.join()
    await say(calm, "s1")
    calm.tick(100)
    assert await reply(calm, node, (await assigned(calm, node))[0]["j"]) == "ok"
    assert await timers_of(calm) == {"leases|n1|1": 15_000}
    await until(calm, idle_ms)
    await say(calm, "s2")
    await check(calm)
    await until(calm, idle_ms + LEASE_MS)
    assert await ended(calm) == [("s2/0", idle_ms + LEASE_MS)]
    await check(calm)


async def test_rule_19_a_slot_released_and_acquired_in_one_call_has_a_timer(
    calm: TimedStore,
) -> None:
    """After the last lease of a node has ended, in a result or by its time, the next one begins."""
    node = await calm.join(slots=1)
    await say(calm, "s1", 3)
    await until(calm, 16_000)
    first = (await assigned(calm, node))[0]["j"]
    for expected in ("ok", "DUPLICATE_RESULT"):  # a repeated call changes nothing
        assert await reply(calm, node, first) == expected
    assert (await last(calm, "JobDispatched")).rule == "fill"
    await check(calm)
    await until(calm, 16_000 + 2 * LEASE_MS)
    assert await ended(calm) == [("s1/1", 47_000), ("s1/1", 78_000)]
    await check(calm)


async def test_rule_19_a_timer_that_is_due_too_late_comes_sooner(
    calm: TimedStore, redis: Client
) -> None:
    """As a fault may leave it: the next to take a slot mends it."""
    await calm.join()
    await redis.zadd(calm.keys.timers, {"leases|n1|1": START_MS + HOUR_MS})
    await say(calm, "s1")
    assert await timers_of(calm) == {"leases|n1|1": 15_000}


async def test_rule_19_a_lease_that_cannot_be_ended_does_not_keep_others(
    calm: TimedStore, redis: Client
) -> None:
    await calm.join()
    await say(calm, "s1", 2)
    await falsify(redis, calm, (await logged(calm, "JobDispatched"))[0].job, "core", 5)
    await until(calm, LEASE_MS)
    assert await ended(calm) == [("s1/1", LEASE_MS)]
    (parked,) = await take_dead_letters(calm)
    assert (parked["from"], parked["id"], parked["partial"]) == ("timers", "leases|n1|1", "0")


async def test_rule_19_leases_that_cannot_be_ended_are_not_tried_again_and_again(
    calm: TimedStore, redis: Client
) -> None:
    await calm.join(slots=17)
    await say(calm, "s1", 17)
    for event in await logged(calm, "JobDispatched"):
        await falsify(redis, calm, event.job, "core", 5)
    await until(calm, LEASE_MS + 14_999)
    (letter,) = await take_dead_letters(calm)
    assert letter["id"] == "leases|n1|1"
    assert await timers_of(calm) == {"leases|n1|1": LEASE_MS + 15_000}
