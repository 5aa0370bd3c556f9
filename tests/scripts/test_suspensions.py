"""Rule 14, suspended nodes: MODEL_NOT_AVAILABLE suspends the node for the feature, or for the
language pair, for 60 s, three results whose text cannot be read suspend it for every job. The job
is dispatched again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from eventsched.store.node_commands import NodeGrant
from tests.fixtures_store import START_MS, TimedStore
from tests.scripts.cell_state import check
from tests.scripts.jobs_of import assigned, cancelled, last, logged, reply, speak

TTS: dict[str, Any] = {"features": ["tts"], "features_hash": "0123456789abcdef"}
MISSING: dict[str, Any] = {
    "status": "failed",
    "code": "MODEL_NOT_AVAILABLE",
    "feature": "tts",
    "retryable": True,
}


async def test_rule_14_a_missing_model_suspends_the_node_and_dispatches_the_job_again(
    store: TimedStore,
) -> None:
    first = await store.join("n1", features=["tts"])
    await speak(store, "s1", **TTS)
    await store.dispatch()
    second = await store.join("n2", features=["tts"])
    (message,) = await assigned(store, first)
    assert await reply(store, first, message["j"], **MISSING) == "ok"
    assert (await store.types())[-3:] == ["NodeSuspended", "AttemptEnded", "JobDispatched"]
    suspended = await last(store, "NodeSuspended")
    assert (suspended.scope, suspended.subject) == ("feature", "tts")
    assert (suspended.reason, suspended.until_ms) == ("MODEL_NOT_AVAILABLE", START_MS + 60_000)
    ended = await last(store, "AttemptEnded")
    assert (ended.reason, ended.code) == ("suspended", "MODEL_NOT_AVAILABLE")
    (again,) = await assigned(store, second)
    assert again["attempt"] == 2
    dispatch = await last(store, "JobDispatched")
    assert dispatch.affinity.why == "suspended"
    assert dispatch.last == first.node
    assert len(await cancelled(store, first)) == 1
    await check(store)


async def test_rule_14_a_suspended_node_serves_requirements_without_that_feature(
    store: TimedStore,
) -> None:
    node = await store.join(features=["tts"], slots=4)
    await speak(store, "s1", **TTS)
    await store.dispatch()
    (message,) = await assigned(store, node)
    await reply(store, node, message["j"], **MISSING)
    assert (await last(store, "JobQueued")).reason == "NO_AVAILABLE_NODE"
    await speak(store, "s2")
    await store.dispatch()
    assert len(await assigned(store, node)) == 2
    await check(store)


async def test_rule_14_the_end_of_a_suspension_serves_waiting_jobs(store: TimedStore) -> None:
    node = await store.join(features=["tts"])
    await store.configure_cell({"queue_timeout_ms": 100_000}, overwrite=True)
    await speak(store, "s1", **TTS)
    await store.dispatch()
    (message,) = await assigned(store, node)
    await reply(store, node, message["j"], **MISSING)
    for _ in range(5):
        store.tick(11_999)
        await store.heartbeat_node(node.node, node.epoch, load=0, attempts=[])
        await store.timers()
    assert await logged(store, "NodeResumed") == []
    store.tick(5)
    await store.timers()
    assert (await store.types())[-2:] == ["NodeResumed", "JobDispatched"]
    resumed = await last(store, "NodeResumed")
    assert (resumed.scope, resumed.subject, resumed.reason) == ("feature", "tts", "expired")
    assert (await last(store, "JobDispatched")).rule == "fill"
    await check(store)


async def test_rule_14_it_counts_as_one_dispatch_again_and_fails_with_the_code_of_the_node(
    store: TimedStore,
) -> None:
    nodes = {
        name: await store.join(name, features=["tts"], slots=1) for name in ("n1", "n2", "n3", "n4")
    }
    await speak(store, "s1", **TTS)
    await store.dispatch()
    for attempt in range(1, 5):
        dispatched = (await logged(store, "JobDispatched"))[-1]
        name = dispatched.node.partition(".")[2]
        assert dispatched.data.attempt == attempt
        assert await reply(store, nodes[name], dispatched.job, attempt, **MISSING) == "ok"
    failed = await last(store, "JobFailed")
    assert (failed.code, failed.attempt) == ("MODEL_NOT_AVAILABLE", 4)
    assert len(await logged(store, "NodeSuspended")) == 4
    await check(store)


async def test_rule_14_a_feature_that_the_job_does_not_name_is_malformed(
    store: TimedStore,
) -> None:
    node = await store.join(features=["tts", "vad"])
    await speak(store, "s1", **TTS)
    await store.dispatch()
    (message,) = await assigned(store, node)
    before = await store.types()
    for feature in ("vad", "tts,vad", "nothing", "en>es"):
        report = MISSING | {"feature": feature}
        assert await reply(store, node, message["j"], **report) == "INVALID_MESSAGE"
    assert await store.types() == before
    await check(store)


async def test_rule_14_a_missing_model_without_a_feature_suspends_the_language_pair(
    store: TimedStore,
) -> None:
    first = await store.join("n1", sources=["de", "en"], targets=["es", "fr"])
    await speak(store, "s1")
    await store.dispatch()
    second = await store.join("n2", sources=["en"], targets=["es"])
    (message,) = await assigned(store, first)
    assert await reply(store, first, message["j"], **MISSING | {"feature": ""}) == "ok"
    suspended = await last(store, "NodeSuspended")
    assert (suspended.scope, suspended.subject) == ("language_pair", "en>es")
    assert (await last(store, "AttemptEnded")).reason == "suspended"
    (again,) = await assigned(store, second)
    assert again["attempt"] == 2
    assert (await last(store, "JobDispatched")).affinity.why == "suspended"
    await check(store)
    await speak(store, "s2", source="de", targets=["es"])
    await speak(store, "s3", targets=["fr"])
    await store.dispatch()
    assert len(await assigned(store, first)) == 3, "its other pairs"
    await check(store)
    for _ in range(6):
        store.tick(10_001)
        await store.heartbeat_node(first.node, first.epoch, load=0, attempts=[])
        await store.timers()
    resumed = await last(store, "NodeResumed")
    assert (resumed.scope, resumed.subject, resumed.reason) == ("language_pair", "en>es", "expired")
    await check(store)


async def test_rule_14_a_second_report_extends_the_suspension_with_an_event(
    store: TimedStore,
) -> None:
    node = await store.join(features=["tts"], slots=2)
    await speak(store, "s1", count=2, **TTS)
    await store.dispatch()
    first, second = await assigned(store, node)
    await reply(store, node, first["j"], **MISSING)
    store.tick(10_000)
    await reply(store, node, second["j"], **MISSING)
    until = [e.data.until_ms for e in await logged(store, "NodeSuspended")]
    assert until == [START_MS + 60_000, START_MS + 70_000]
    await check(store)
    for _ in range(5):
        store.tick(10_000)
        await store.heartbeat_node(node.node, node.epoch, load=0, attempts=[])
        await store.timers()
    assert await logged(store, "NodeResumed") == []
    store.tick(10_000)
    await store.timers()
    assert len(await logged(store, "NodeResumed")) == 1
    await check(store)


async def test_rule_14_two_suspensions_end_each_at_its_time(store: TimedStore) -> None:
    both: dict[str, Any] = {"features": ["tts", "vad"], "features_hash": "0123456789abcdef"}
    node = await store.join(features=["tts", "vad"], slots=2)
    await speak(store, "s1", count=2, **both)
    await store.dispatch()
    first, second = await assigned(store, node)
    await reply(store, node, first["j"], **MISSING)
    store.tick(5_000)
    await reply(store, node, second["j"], **MISSING | {"feature": "vad"})
    await check(store)
    seen = []
    for _ in range(13):
        store.tick(5_000)
        await store.heartbeat_node(node.node, node.epoch, load=0, attempts=[])
        await store.timers()
        await check(store)
        seen.append(len(await logged(store, "NodeResumed")))
    assert seen == [0] * 10 + [1, 2, 2]


async def test_rule_14_a_draining_node_can_be_suspended(store: TimedStore) -> None:
    node = await store.join(features=["tts"], slots=2)
    await speak(store, "s1", count=2, **TTS)
    await store.dispatch()
    await store.drain_node(node.node, node.epoch, within_ms=60_000)
    first, second = await assigned(store, node)
    await reply(store, node, first["j"], **MISSING)
    await check(store)
    await reply(store, node, second["j"], **MISSING)
    assert (await store.types())[-4:] == [
        "NodeSuspended",
        "AttemptEnded",
        "NodeDrained",
        "JobQueued",
    ]
    await check(store)


async def test_rule_14_a_new_registration_has_no_suspensions(store: TimedStore) -> None:
    node = await store.join(features=["tts"], slots=1)
    await speak(store, "s1", **TTS)
    await store.dispatch()
    (message,) = await assigned(store, node)
    await reply(store, node, message["j"], **MISSING)
    await check(store)
    await store.join(features=["tts"], slots=1, token="newer")
    assert (await last(store, "JobDispatched")).epoch == 2
    await check(store)
    store.tick(60_000)
    await store.timers()
    assert await logged(store, "NodeResumed") == []


async def test_rule_14_a_class_that_a_suspension_creates_watches_its_requirements(
    store: TimedStore,
) -> None:
    """The new class watches the waiting requirements that it serves, and no other."""
    node = await store.join(features=["tts"], slots=1)
    await speak(store, "s1", **TTS)
    await speak(store, "s2")
    await store.dispatch()
    (message,) = await assigned(store, node)
    assert message["session"] == store.keys.full("s1")
    await reply(store, node, message["j"], **MISSING)
    await check(store)
    assert (await last(store, "JobDispatched")).rule == "fill"
    assert (await assigned(store, node))[-1]["session"] == store.keys.full("s2")


PLAIN = b"plain text, not MessagePack"


async def busy(store: TimedStore, name: str, **given: Any) -> NodeGrant:
    """A node with one slot, which a job holds."""
    node = await store.join(name, slots=1, **given)
    await speak(store, f"of-{name}")
    await store.dispatch()
    assert len(await assigned(store, node)) == 1
    return node


async def unreadable(store: TimedStore, node: NodeGrant, count: int) -> None:
    """The node reports so many results that cannot be read, each for its newest assignment."""
    for _ in range(count):
        message = (await assigned(store, node))[-1]
        assert await reply(store, node, message["j"], message["attempt"], body=PLAIN) == "ok"


@pytest.mark.parametrize("body", [PLAIN, b"{}", b"\x93", b"\xc1", b"\xff"])
async def test_rule_14_an_unreadable_result_is_a_failed_attempt_and_the_job_goes_on(
    store: TimedStore, body: bytes
) -> None:
    broken = await store.join("n1", slots=1)
    session = await speak(store, "s1")
    await store.dispatch()
    (message,) = await assigned(store, broken)
    sound = await store.join("n2", slots=1)
    assert await reply(store, broken, message["j"], body=body) == "ok"
    assert (await store.types())[-2:] == ["AttemptEnded", "JobDispatched"]
    ended = await last(store, "AttemptEnded")
    assert (ended.reason, ended.code) == ("failed", "RESULT_UNREADABLE")
    (again,) = await assigned(store, sound)
    await store.answer(sound, again)
    assert [entry["outcome"] for entry in await store.out(session)] == ["result"]
    assert await logged(store, "NodeSuspended") == []
    await check(store)


async def test_rule_14_the_third_unreadable_result_suspends_the_node_for_every_job(
    store: TimedStore,
) -> None:
    await busy(store, "n2")
    node = await store.join(slots=1)
    await store.configure_cell({"queue_timeout_ms": 100_000}, overwrite=True)
    await speak(store, "s1")
    await speak(store, "s2")
    await store.dispatch()
    await unreadable(store, node, 2)
    assert await logged(store, "NodeSuspended") == []
    await check(store)
    await unreadable(store, node, 1)
    suspended = await last(store, "NodeSuspended")
    assert (suspended.scope, suspended.subject) == ("node", "")
    assert (suspended.reason, suspended.until_ms) == ("RESULT_UNREADABLE", START_MS + 60_000)
    assert (await last(store, "JobQueued")).reason == "NO_AVAILABLE_NODE"
    assert (
        await store.transport.command(
            "ZCARD", store.keys.leases("n1", 1), key=store.keys.leases("n1", 1)
        )
        == 0
    )
    await check(store)
    await speak(store, "s3")
    await store.dispatch()
    assert (await store.types())[-1] == "JobQueued"
    for _ in range(6):
        store.tick(10_001)
        await store.heartbeat_node(node.node, node.epoch, load=0, attempts=[])
        await store.timers()
    resumed = await last(store, "NodeResumed")
    assert (resumed.scope, resumed.subject, resumed.reason) == ("node", "", "expired")
    assert (await last(store, "JobDispatched")).rule == "fill"
    await check(store)


async def test_rule_14_unreadable_results_that_are_far_apart_suspend_nobody(
    store: TimedStore,
) -> None:
    """Two within a minute, then two within the next one."""
    node = await store.join(slots=1)
    for name in ("s1", "s2", "s3", "s4"):
        await speak(store, name)
        await store.dispatch()
        await unreadable(store, node, 1)
        message = (await assigned(store, node))[-1]
        await store.answer(node, message)
        for _ in range(3):
            store.tick(10_001)
            await store.heartbeat_node(node.node, node.epoch, load=0, attempts=[])
            await store.timers()
    assert await logged(store, "NodeSuspended") == []
    await check(store)


async def test_rule_14_the_last_node_that_can_serve_a_requirement_is_not_suspended(
    store: TimedStore,
) -> None:
    """As soon as another node can serve it, the next unreadable result suspends the node."""
    node = await store.join("n1", slots=1)
    await speak(store, "s1")
    await store.dispatch()
    await unreadable(store, node, 4)
    failed = await last(store, "JobFailed")
    assert (failed.code, failed.attempt) == ("RESULT_UNREADABLE", 4)
    assert await logged(store, "NodeSuspended") == []
    await check(store)
    await speak(store, "s2")
    await store.dispatch()
    await store.join("n2", slots=1)
    await unreadable(store, node, 1)
    assert (await last(store, "NodeSuspended")).scope == "node"
    await check(store)


@pytest.mark.parametrize(
    ("other", "is_suspended"),
    [
        ({}, True),
        ({"features": ["tts", "vad"]}, True),
        ({"features": ["vad"]}, False),
        ({"targets": ["es"]}, False),
        ({"sources": ["en"]}, False),
    ],
)
async def test_rule_14_another_node_must_serve_each_requirement_of_a_suspended_one(
    store: TimedStore, other: dict[str, Any], is_suspended: bool
) -> None:
    abilities: dict[str, Any] = {
        "sources": ["de", "en"], "targets": ["es", "fr"], "features": ["tts"],
    }  # fmt: skip
    node = await store.join("n1", slots=4, **abilities)
    await speak(store, "s1", count=3)
    await store.dispatch()
    await store.join("n2", slots=1, **abilities | other)
    for message in await assigned(store, node):
        assert await reply(store, node, message["j"], body=PLAIN) == "ok"
    assert bool(await logged(store, "NodeSuspended")) == is_suspended
    await check(store)


async def test_rule_14_a_node_that_drains_or_is_suspended_serves_no_requirement(
    store: TimedStore,
) -> None:
    node = await store.join("n1", slots=8)
    await speak(store, "s1", count=5)
    await store.dispatch()
    draining, suspended = await busy(store, "n2"), await busy(store, "n3")
    await store.drain_node(draining.node, draining.epoch, within_ms=60_000)
    first, second, *others = await assigned(store, node)
    for message in others:
        await reply(store, node, message["j"], body=PLAIN)
    (event,) = await logged(store, "NodeSuspended")
    assert event.node == node.node, "n3 can serve"
    await check(store)
    await unreadable(store, suspended, 3)
    assert len(await logged(store, "NodeSuspended")) == 1, "n2 drains, n1 is suspended"
    del first, second
    await check(store)


async def test_rule_14_a_pair_for_which_the_other_node_is_suspended_has_no_other_node(
    store: TimedStore,
) -> None:
    """The pair counts for each node: a node suspended for it cannot serve it, and need not."""
    node = await store.join("n1", slots=8)
    await speak(store, "s1", count=4)
    await store.dispatch()
    other = await busy(store, "n2")
    (message,) = await assigned(store, other)
    await reply(store, other, message["j"], **MISSING | {"feature": ""})
    first, *others = await assigned(store, node)
    for each in others[:3]:
        await reply(store, node, each["j"], body=PLAIN)
    assert [event.data.scope for event in await logged(store, "NodeSuspended")] == ["language_pair"]
    await reply(store, node, first["j"], **MISSING | {"feature": ""})
    message = (await assigned(store, node))[-1]
    assert message["j"] != first["j"]
    await reply(store, node, message["j"], message["attempt"], body=PLAIN)
    scopes = [event.data.scope for event in await logged(store, "NodeSuspended")]
    assert scopes == ["language_pair", "language_pair", "node"]
    await check(store)


async def test_rule_14_a_feature_for_which_the_node_is_suspended_needs_no_other_node(
    store: TimedStore,
) -> None:
    node = await store.join("n1", slots=8, features=["tts"])
    await speak(store, "s1", **TTS)
    await speak(store, "s2", count=3)
    await store.dispatch()
    await store.join("n2", slots=1)
    first, *others = await assigned(store, node)
    for message in others[:2]:
        await reply(store, node, message["j"], body=PLAIN)
    await reply(store, node, others[2]["j"], body=PLAIN)
    assert await logged(store, "NodeSuspended") == [], "only n1 has tts"
    await reply(store, node, first["j"], **MISSING)
    message = (await assigned(store, node))[-1]
    await reply(store, node, message["j"], message["attempt"], body=PLAIN)
    scopes = [event.data.scope for event in await logged(store, "NodeSuspended")]
    assert scopes == ["feature", "node"]
    await check(store)


async def five_jobs(store: TimedStore, *, sessions: int = 2, **given: Any) -> NodeGrant:
    """A node that holds five jobs of so many sessions, before another node joins."""
    node = await store.join("n1", slots=8, **given)
    for number in range(sessions):
        await speak(store, f"s{number}", count=5 // sessions + (number < 5 % sessions))
    await store.dispatch()
    assert len(await assigned(store, node)) == 5
    await store.join("n2", slots=8, **given)
    return node


async def fail_all(store: TimedStore, node: NodeGrant, **report: Any) -> None:
    """Each attempt that the node holds fails, oldest first."""
    held = await store.transport.command(
        "ZRANGE", key := store.keys.leases("n1", node.epoch), 0, -1, key=key
    )
    attempts = {message["j"]: message["attempt"] for message in await assigned(store, node)}
    failed: dict[str, Any] = {"status": "failed", "code": "BROKEN", "retryable": True}
    for job in held:
        await reply(store, node, job.decode(), attempts[job.decode()], **failed | report)
    await check(store)


async def test_rule_14_five_fast_failures_of_two_sessions_suspend_the_node(
    store: TimedStore,
) -> None:
    node = await five_jobs(store)
    store.tick(1_000)
    await fail_all(store, node)
    (event,) = await logged(store, "NodeSuspended")
    assert (event.node, event.data.scope, event.data.subject) == (node.node, "node", "")
    assert (event.data.reason, event.data.until_ms) == ("ATTEMPTS_FAILED", store.at_ms + 30_000)
    assert [e.data.reason for e in await logged(store, "JobQueued")] == ["retry_backoff"] * 5
    store.tick(125)
    await store.timers()
    assert {e.node for e in (await logged(store, "JobDispatched"))[-5:]} == {store.keys.full("n2")}
    await check(store)


@pytest.mark.parametrize(
    ("sessions", "after_ms", "report"),
    [
        (1, 0, {}),
        (2, 1_001, {}),
        (2, 0, {"retryable": False}),
        (2, 0, {"code": "KEY_MISSING"}),
    ],
    ids=["one session", "slow failures", "failures that the job causes", "keys that are missing"],
)
async def test_rule_14_other_failures_suspend_no_node(
    store: TimedStore, sessions: int, after_ms: int, report: dict[str, Any]
) -> None:
    node = await five_jobs(store, sessions=sessions)
    store.tick(after_ms)
    await fail_all(store, node, **report)
    assert await logged(store, "NodeSuspended") == []


async def test_rule_14_one_success_begins_the_row_anew(store: TimedStore) -> None:
    node = await five_jobs(store)
    await store.configure_cell({"retry_backoff_ms": 0}, overwrite=True)
    messages = await assigned(store, node)
    for message in messages[:4]:
        await reply(store, node, message["j"], status="failed", code="BROKEN", retryable=True)
    await reply(store, node, messages[4]["j"], status="no_speech")
    assert (await store.read_hash(store.keys.node("n1")))["failures"] == ""
    await store.drain_node(store.keys.full("n2"), 1, within_ms=0)
    await store.join("n3", slots=8)
    await fail_all(store, node)
    assert len([e for e in await logged(store, "AttemptEnded") if e.node == node.node]) > 4
    assert await logged(store, "NodeSuspended") == []


async def test_rule_14_each_further_suspension_is_twice_as_long_until_a_success(
    store: TimedStore,
) -> None:
    """After it has resumed, one fast failure suspends the node again."""
    await store.configure_cell({"idle_ms": 10_000_000, "retry_backoff_ms": 0}, overwrite=True)
    node = await five_jobs(store)
    other = NodeGrant(store.keys.full("n2"), 1, "", 0)
    await fail_all(store, node)
    await store.drain_node(other.node, other.epoch, within_ms=0)
    for index, suspend_ms in enumerate((30_000, 60_000, 120_000, 240_000, 300_000, 300_000)):
        suspended = (await logged(store, "NodeSuspended"))[-1]
        assert suspended.data.until_ms - suspended.ms == suspend_ms
        for _ in range(suspend_ms // 10_000):
            store.tick(10_000)
            await store.heartbeat_node(node.node, node.epoch, load=0, attempts=[])
            await store.timers()
        assert len(await logged(store, "NodeResumed")) == index + 1
        await speak(store, f"t{index}")
        await store.dispatch()
        await store.join(f"o{index}")
        await fail_all(store, node)
        await store.drain_node(store.keys.full(f"o{index}"), 1, within_ms=0)
        await check(store)
    for _ in range(30):
        store.tick(10_000)
        await store.heartbeat_node(node.node, node.epoch, load=0, attempts=[])
        await store.timers()
    await speak(store, "u1")
    await store.dispatch()
    message = (await assigned(store, node))[-1]
    assert await reply(store, node, message["j"], message["attempt"]) == "ok"
    await speak(store, "u2")
    await store.dispatch()
    await store.join("n4")
    before = len(await logged(store, "NodeSuspended"))
    await fail_all(store, node)
    assert len(await logged(store, "NodeSuspended")) == before
    await check(store)


async def test_rule_14_failures_of_a_suspended_node_do_not_extend_its_suspension(
    store: TimedStore,
) -> None:
    node = await store.join("n1", slots=8)
    await speak(store, "s1", count=4)
    await speak(store, "s2", count=4)
    await store.dispatch()
    await store.join("n2", slots=8)
    await fail_all(store, node)
    assert len(await logged(store, "AttemptEnded")) == 8
    assert len(await logged(store, "NodeSuspended")) == 1


async def test_rule_14_the_last_able_node_is_not_suspended_for_its_failures(
    store: TimedStore,
) -> None:
    """The next fast failure suspends it, once another node is able."""
    await store.configure_cell({"retry_backoff_ms": 0}, overwrite=True)
    node = await store.join("n1", slots=8)
    await speak(store, "s1", count=3)
    await speak(store, "s2", count=3)
    await store.dispatch()
    await fail_all(store, node)
    assert await logged(store, "NodeSuspended") == []
    await store.join("n2", targets=["fr"])
    await fail_all(store, node)
    assert await logged(store, "NodeSuspended") == []
    await store.join("n3", slots=8)
    await fail_all(store, node)
    assert (await last(store, "NodeSuspended")).reason == "ATTEMPTS_FAILED"


async def test_rule_14_a_new_registration_has_no_failures(store: TimedStore) -> None:
    node = await five_jobs(store)
    messages = await assigned(store, node)
    for message in messages[:4]:
        await reply(store, node, message["j"], status="failed", code="BROKEN", retryable=True)
    await store.join("n1", token="newer", slots=8)
    assert (await store.read_hash(store.keys.node("n1")))["failures"] == ""
    await check(store)


async def work(
    store: TimedStore,
    fleet: dict[str, NodeGrant],
    fails: Callable[[str, dict[str, Any]], bool],
) -> None:
    """Each node answers what it holds, jobs that fail first."""
    for name, node in fleet.items():
        messages = {message["j"]: message for message in await assigned(store, node)}
        key = store.keys.leases(name, node.epoch)
        held = [
            messages[job.decode()]
            for job in await store.transport.command("ZRANGE", key, 0, -1, key=key)
        ]
        for message in sorted(held, key=lambda each: not fails(name, each)):
            report: dict[str, Any] = {}
            if fails(name, message):
                report = {"status": "failed", "code": "HANDLER_ERROR", "retryable": True}
            await reply(store, node, message["j"], message["attempt"], **report)


async def suspended_nodes(store: TimedStore, fleet: dict[str, NodeGrant]) -> set[str]:
    return {
        name for name in fleet if (await store.read_hash(store.keys.node(name)))["suspended"] == "*"
    }


async def fleet_of(store: TimedStore, count: int, *, slots: int = 8) -> dict[str, NodeGrant]:
    names = [f"n{number:02}" for number in range(count)]
    return {name: await store.join(name, slots=slots) for name in names}


@pytest.mark.parametrize(("tenants", "most"), [(["poison"], 1), (["poison", "poison-2"], 4)])
async def test_rule_14_jobs_that_crash_handlers_suspend_few_nodes(
    store: TimedStore, tenants: list[str], most: int
) -> None:
    """One of eight nodes, or one, if the jobs are of one tenant; one of three if of several."""
    settings = {"queue_timeout_ms": 100_000, "idle_ms": 1_000_000, "retry_backoff_ms": 0}
    await store.configure_cell(settings, overwrite=True)
    fleet = await fleet_of(store, 12)

    def fails(name: str, message: dict[str, Any]) -> bool:
        return str(message["j"]).startswith("poison")

    seen = 0
    for number in range(8):
        for tenant in tenants:
            for part in range(2):
                await speak(store, f"{tenant}-{number}-{part}", tenant=tenant, count=8)
        await store.dispatch()
        for _ in range(4):
            await work(store, fleet, fails)
        suspended = await suspended_nodes(store, fleet)
        seen = max(seen, len(suspended))
        assert len(suspended) <= most
    assert seen == most
    await speak(store, "other", tenant="acme", count=2)
    await store.dispatch()
    await work(store, fleet, fails)
    assert len(await logged(store, "ResultRecorded")) == 2, "other tenants are served"
    await check(store)


async def test_rule_14_a_broken_node_is_suspended_where_one_tenant_works(
    store: TimedStore,
) -> None:
    """It is one of five. Every job succeeds on another node, and it gets no more jobs."""
    fleet = await fleet_of(store, 5)

    def fails(name: str, message: dict[str, Any]) -> bool:
        return name == "n00"

    for number in range(6):
        await speak(store, f"s{number}", count=5)
        await store.dispatch()
        for _ in range(2):
            await work(store, fleet, fails)
            store.tick(125)
            await store.timers()
        await work(store, fleet, fails)
    assert await suspended_nodes(store, fleet) == {"n00"}
    assert len(await logged(store, "ResultRecorded")) == 30
    assert await logged(store, "JobFailed") == []
    failed = len(await logged(store, "AttemptEnded"))
    await speak(store, "more", count=8)
    await store.dispatch()
    await work(store, fleet, fails)
    assert len(await logged(store, "AttemptEnded")) == failed
    await check(store)


@pytest.mark.parametrize("count", [2, 3, 6])
async def test_rule_14_of_a_fleet_that_is_all_broken_most_nodes_remain(
    store: TimedStore, count: int
) -> None:
    """The jobs fail with their codes instead of waiting, and the first sound node succeeds."""
    await store.configure_cell({"retry_backoff_ms": 0}, overwrite=True)
    fleet = await fleet_of(store, count, slots=64)
    for number in range(4):
        for tenant in ("acme", "globex"):
            await speak(store, f"{tenant}-{number}", tenant=tenant, count=6)
        await store.dispatch()
        for _ in range(5):
            await work(store, fleet, lambda name, message: True)
    assert len(await suspended_nodes(store, fleet)) == max(1, count // 3)
    assert {event.data.code for event in await logged(store, "JobFailed")} == {"HANDLER_ERROR"}
    assert len(await logged(store, "JobFailed")) == 48
    await speak(store, "s", count=1)
    await store.dispatch()
    await work(store, fleet, lambda name, message: False)
    assert len(await logged(store, "ResultRecorded")) == 1
    await check(store)


async def test_rule_14_nodes_with_different_features_share_the_bound(store: TimedStore) -> None:
    """Four groups of two nodes, each with a feature of its own, serve the jobs without features."""
    settings = {"queue_timeout_ms": 100_000, "retry_backoff_ms": 0}
    await store.configure_cell(settings, overwrite=True)
    fleet = {
        name: await store.join(name, slots=8, features=[f"f{number // 2}"])
        for number, name in enumerate(f"n{number}" for number in range(8))
    }
    for number in range(6):
        for tenant in ("acme", "globex"):
            await speak(store, f"{tenant}-{number}", tenant=tenant, count=8)
        await store.dispatch()
        for _ in range(4):
            await work(store, fleet, lambda name, message: True)
    assert len(await suspended_nodes(store, fleet)) == 2
    await check(store)
