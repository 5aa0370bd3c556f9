"""Rules 19, lease duration, and 20, dispatching again: leases, and what follows the end of an
attempt.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from eventsched.schema.events import Affinity
from eventsched.store.session_commands import Chunk, Receipt
from tests.fixtures_store import START_MS, TimedStore
from tests.job_record import job_record
from tests.scripts.cell_state import check
from tests.scripts.jobs_of import (
    assigned,
    cancelled,
    last,
    logged,
    order_of_dispatch,
    refusal,
    reply,
    speak,
    take_dead_letters,
)

LEASES = [  # base s, factor, audio s -> lease s
    (30, 0.5, 0, 30),
    (30, 0.5, 1, 31),
    (30, 0.5, 10, 35),
    (30, 0.5, 60, 60),
    (30, 0.5, 100, 60),
    (30, 0.5, 200, 60),
    (10, 0.01, 0.1, 15),
    (20, 0.5, 20, 30),
    (40, 0.5, 20, 50),
    (30, 0.3, 20, 36),
    (30, 0.7, 20, 44),
]


@pytest.mark.parametrize(("base_s", "factor", "audio_s", "lease_s"), LEASES)
async def test_rule_19_lease_cases(
    store: TimedStore, base_s: int, factor: float, audio_s: float, lease_s: int
) -> None:
    await store.configure_cell(
        {
            "lease_base_ms": base_s * 1_000,
            "lease_factor_thousandths": int(factor * 1_000),
            "audio_ms_max": 1_000_000,
            "audio_bytes_max": 100_000_000,
        },
        overwrite=True,
    )
    node = await store.join()
    session = await store.open()
    await say_for(store, session, int(audio_s * 1_000))
    assert await store.dispatch() == 1
    dispatch = await last(store, "JobDispatched")
    assert dispatch.audio_ms == int(audio_s * 1_000)
    assert dispatch.deadline_ms == store.at_ms + lease_s * 1_000
    (message,) = await assigned(store, node)
    assert message["deadline_ms"] == dispatch.deadline_ms
    while store.at_ms < dispatch.deadline_ms - 1:
        store.tick(min(10_000, dispatch.deadline_ms - 1 - store.at_ms))
        await store.heartbeat_node(node.node, node.epoch, load=0, attempts=[])
        await store.timers()
    assert await logged(store, "AttemptEnded") == []
    store.tick(1)
    await store.timers()
    assert (await last(store, "AttemptEnded")).reason == "lease"


async def say_for(store: TimedStore, session: Any, ms: int) -> None:
    """One utterance of this many milliseconds; for 0, a byte that is shorter than a millisecond."""
    seq = 0
    while ms > 1_000:
        await store.say(session, seq, ms=1_000)
        seq, ms = seq + 1, ms - 1_000
    if ms:
        await store.say(session, seq, ms=ms, end_of_utterance=True)
        return
    chunk = Chunk(
        session=session.session,
        epoch=session.epoch,
        seq=seq,
        ms=0,
        payload=b"x",
        end_of_utterance=True,
    )
    (receipt,) = await store.append_audio([chunk])
    assert isinstance(receipt, Receipt)
    assert receipt.finalized == (0,)


async def test_rule_19_heartbeats_do_not_move_a_lease(store: TimedStore) -> None:
    node = await store.join(slots=1)
    await speak(store, "s1", ms=1_000)
    await store.dispatch()
    (message,) = await assigned(store, node)
    for _ in range(31):
        store.tick(1_000)
        held = [(message["j"], 1)]
        await store.heartbeat_node(node.node, node.epoch, load=1, attempts=held)
        await store.timers()
    assert (await last(store, "AttemptEnded")).reason == "lease"
    assert (await logged(store, "AttemptEnded"))[0].ms == START_MS + 31_000
    held = [(message["j"], 1)]
    lost = await store.heartbeat_node(node.node, node.epoch, load=1, attempts=held)
    assert lost == [message["j"]]
    await check(store)


async def test_rule_19_the_handler_may_ask_for_more_up_to_300_s_after_dispatch(
    store: TimedStore,
) -> None:
    await store.configure_cell({"idle_ms": 600_000}, overwrite=True)
    node = await store.join(slots=1)
    await speak(store, "s1")
    await store.dispatch()
    (message,) = await assigned(store, node)
    job = message["j"]

    async def extend(more_ms: int) -> int:
        until = await store.extend_lease(node.node, 1, job=job, attempt=1, more_ms=more_ms)
        return until - START_MS

    assert await extend(1_000) == 31_000  # a lease never becomes shorter
    assert await extend(60_000) == 60_000
    assert await extend(60_000) == 60_000
    store.tick(50_000)
    await store.heartbeat_node(node.node, 1, load=0, attempts=[])
    await store.timers()
    assert await extend(60_000) == 110_000
    assert await extend(300_000) == 300_000
    for _ in range(24):
        store.tick(10_000)
        await store.heartbeat_node(node.node, 1, load=0, attempts=[])
        await store.timers()
    assert await extend(300_000) == 300_000
    assert await logged(store, "AttemptEnded") == []
    store.tick(10_000)
    await store.heartbeat_node(node.node, 1, load=0, attempts=[])
    await store.timers()
    assert (await last(store, "AttemptEnded")).reason == "lease"
    await check(store)


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ({"epoch": -1}, "epoch"),
        ({"attempt": 0}, "attempt"),
        ({"more_ms": 0}, "more_ms"),
        ({"more_ms": 300_001}, "more_ms"),
    ],
)
async def test_rule_19_a_malformed_extension_is_refused(
    store: TimedStore, overrides: dict[str, Any], field: str
) -> None:
    node = await store.join()
    await speak(store, "s1")
    await store.dispatch()
    (message,) = await assigned(store, node)
    before = await store.types()
    arguments = {"epoch": 1, "job": message["j"], "attempt": 1, "more_ms": 1_000} | overrides
    refused = await refusal(store.extend_lease(node.node, **arguments))
    assert (refused.code, refused.fields["field"]) == ("INVALID_MESSAGE", field)
    assert await store.types() == before


async def test_rule_20_after_a_lease_end_another_node_gets_the_job_and_the_old_one_a_cancel(
    store: TimedStore,
) -> None:
    old = await store.join("n1", slots=1)
    await speak(store, "s1", ms=1_000)
    await store.dispatch()
    store.tick(30_000)
    new = await store.join("n2", slots=1)
    await store.heartbeat_node(old.node, 1, load=0, attempts=[])
    store.tick(1_000)
    await store.timers()
    (cancel,) = await cancelled(store, old)
    (message,) = await assigned(store, new)
    assert (cancel["attempt"], cancel["epoch"], cancel["reason"]) == (1, 1, "lease")
    assert message["j"] == cancel["j"]
    assert message["attempt"] == 2
    assert (await store.types())[-2:] == ["AttemptEnded", "JobDispatched"]
    dispatch = await last(store, "JobDispatched")
    assert (dispatch.rule, dispatch.last) == ("load", old.node)
    assert dispatch.affinity == Affinity(node=old.node, why="last")
    assert dispatch.deadline_ms == store.at_ms + 31_000
    await check(store)


async def test_rule_20_another_node_is_preferred_even_when_it_is_more_loaded(
    store: TimedStore,
) -> None:
    """The second of its class counts: n2 is half full, n1 would be empty."""
    node = await store.join("n1", slots=4)
    await speak(store, "s1")
    await store.dispatch()
    await store.join("n2", slots=2)
    await speak(store, "s2")
    await store.dispatch()
    (message,) = await assigned(store, node)
    await reply(
        store, node, message["j"], status="failed", code="BROKEN", retryable=True, retry_in_ms=0
    )
    event = (await logged(store, "JobDispatched"))[-1]
    assert event.node == store.keys.full("n2")
    await check(store)


async def test_rule_20_the_last_node_is_taken_if_it_is_the_only_candidate(
    store: TimedStore,
) -> None:
    node = await store.join("n1", slots=1)
    await speak(store, "s1")
    await store.dispatch()
    await reply(
        store,
        node,
        (await assigned(store, node))[0]["j"],
        status="failed",
        code="BROKEN",
        retryable=True,
        retry_in_ms=0,
    )
    dispatch = await last(store, "JobDispatched")
    assert (dispatch.rule, dispatch.last, dispatch.attempt) == ("last", node.node, 2)
    await check(store)


async def test_rule_20_a_fill_excludes_nobody(store: TimedStore) -> None:
    node = await store.join("n1", slots=1)
    await speak(store, "s1")
    await speak(store, "s2")
    await store.dispatch()
    await reply(
        store,
        node,
        (await assigned(store, node))[0]["j"],
        status="failed",
        code="BROKEN",
        retryable=True,
        retry_in_ms=0,
    )
    assert await order_of_dispatch(store) == ["s1/0", "s2/0"]
    assert (await last(store, "JobQueued")).attempt == 2
    await reply(store, node, (await assigned(store, node))[1]["j"])
    dispatch = (await logged(store, "JobDispatched"))[-1]
    assert dispatch.node == node.node
    assert (dispatch.data.rule, dispatch.data.attempt) == ("fill", 2)
    await check(store)


async def test_rule_20_at_most_three_dispatches_again_then_job_timeout(store: TimedStore) -> None:
    await store.configure_cell({"idle_ms": 600_000}, overwrite=True)
    node = await store.join(slots=1)
    session = await speak(store, "s1")
    await store.dispatch()
    for _ in range(4 * 31 + 5):
        store.tick(1_000)
        await store.heartbeat_node(node.node, 1, load=0, attempts=[])
        await store.timers()
    assert [e.data.attempt for e in await logged(store, "JobDispatched")] == [1, 2, 3, 4]
    failed = await last(store, "JobFailed")
    assert (failed.code, failed.attempt) == ("JOB_TIMEOUT", 4)
    assert (await store.types())[-3:] == ["AttemptEnded", "JobFailed", "ResultDelivered"]
    (entry,) = await store.out(session)
    assert (entry["outcome"], entry["code"]) == ("failed", "JOB_TIMEOUT")
    await check(store)
    # The node had sent no report: this one is late, not a duplicate.
    job = (await logged(store, "JobFailed"))[0].job
    assert await reply(store, node, job, 4) == "LEASE_LOST"
    assert await reply(store, node, job, 3) == "ATTEMPT_MISMATCH"


async def test_rule_20_at_most_three_dispatches_again_then_node_lost(store: TimedStore) -> None:
    await store.join("n1", slots=1)
    await speak(store, "s1")
    await store.dispatch()
    for i in range(4):
        await store.join("n1", token=f"newer{i}", slots=1)
    failed = await last(store, "JobFailed")
    assert (failed.code, failed.attempt) == ("NODE_LOST", 4)
    await check(store)


async def test_rule_20_at_most_three_dispatches_again_then_the_nodes_code(
    store: TimedStore,
) -> None:
    node = await store.join("n1", slots=1)
    await speak(store, "s1")
    await store.dispatch()
    job = (await assigned(store, node))[0]["j"]
    failure: dict[str, Any] = {"status": "failed", "retryable": True, "retry_in_ms": 0}
    for attempt in range(1, 5):
        assert await reply(store, node, job, attempt, code=f"BROKEN{attempt}", **failure) == "ok"
    assert (await last(store, "JobFailed")).code == "BROKEN4"
    assert await reply(store, node, job, 4, code="BROKEN4", **failure) == "DUPLICATE_RESULT"
    await check(store)


async def test_rule_20_a_failure_that_is_not_retriable_ends_the_job_at_once(
    store: TimedStore,
) -> None:
    node = await store.join(slots=1)
    session = await speak(store, "s1")
    await speak(store, "s2")
    await store.dispatch()
    job = (await assigned(store, node))[0]["j"]
    assert await reply(store, node, job, status="failed", code="BROKEN") == "ok"
    assert (await store.types())[-4:] == [
        "AttemptEnded",
        "JobFailed",
        "ResultDelivered",
        "JobDispatched",
    ]
    ended = await last(store, "AttemptEnded")
    assert (ended.reason, ended.code) == ("failed", "BROKEN")
    (entry,) = await store.out(session)
    assert (entry["outcome"], entry["code"]) == ("failed", "BROKEN")
    await check(store)


async def test_rule_20_a_timer_whose_cause_has_ended_does_nothing(store: TimedStore) -> None:
    node = await store.join(slots=1)
    await speak(store, "s1")
    await speak(store, "s2")
    await store.dispatch()
    first = (await assigned(store, node))[0]["j"]
    second = (await logged(store, "JobQueued"))[0].job
    await reply(store, node, first)
    await reply(store, node, second)
    key = store.keys.timers
    for kind in ("wait", "age"):
        for job in (first, second, "acme:nothing"):
            await store.transport.command("ZADD", key, 1, f"{kind}|{job}", key=key)
    for stale in (
        "suspension|n1|tts",
        "drain|n1",
        "leases|n1|1",
        "leases|none|1",
        "suspension|none|tts",
        "drain|none",
        "node|none",
        f"lost|{node.node}|1|node_lost",
        f"lost|{node.node}|7|node_lost",
    ):
        await store.transport.command("ZADD", key, 1, stale, key=key)
    before = await store.types()
    await store.timers()
    assert await store.types() == before
    assert await store.read_range(store.keys.dead_letters, "-", "+", 10) == []
    await check(store)


async def test_an_unknown_timer_is_dead_lettered_and_the_others_fire(store: TimedStore) -> None:
    await store.join()
    key = store.keys.timers
    await store.transport.command("ZADD", key, 1, "nonsense|x", 2, "without a bar", key=key)
    store.tick(15_000)
    await store.timers()
    assert (await last(store, "NodeLost")).reason == "silent"
    parked = await take_dead_letters(store)
    assert [letter["id"] for letter in parked] == ["nonsense|x", "without a bar"]
    assert {(letter["from"], letter["partial"]) for letter in parked} == {("timers", "0")}


@pytest.mark.parametrize("tp", ["", f"00-{'a' * 32}-{'b' * 16}-01"], ids=["none", "traced"])
async def test_whatever_its_traceparent_is_a_job_goes_again_waits_and_ends(
    store: TimedStore, tp: str
) -> None:
    node = await store.join(slots=1)
    await speak(store, "s1", count=2, traceparent=tp)
    await store.dispatch()
    (first,) = await assigned(store, node)
    assert (
        await reply(
            store, node, first["j"], status="failed", code="BAD", retryable=True, retry_in_ms=0
        )
        == "ok"
    )
    second = (await assigned(store, node))[-1]
    empty = await reply(store, node, second["j"], status="no_speech", code="ASR_EMPTY")
    assert (empty, await reply(store, node, second["j"])) == ("ok", "ok")
    again = (await assigned(store, node))[-1]
    own = ("attempt", "c")
    assert without(again, *own) == without(first, *own)
    assert await reply(store, node, first["j"], 2, status="failed", code="BAD") == "ok"
    assert [event.traceparent for event, _ in await store.deliveries()] == [tp, tp]
    for job, code in ((first["j"], "BAD"), (second["j"], "")):
        fields = await job_record(store, job)
        expected = {name: first[name] for name in ("session", "target", "finalized", "tp")}
        core = msgspec.json.decode(fields["core"])
        assert (fields["status"], fields["code"]) == ("ended", code)
        assert without(core, "utterance", "delivery_no", "code") == expected
    assert await take_dead_letters(store) == []
    await check(store)


def without(message: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in message.items() if name not in names}
