"""`why JOB`: the nodes that each decision compared, and the time of each stage."""

from __future__ import annotations

from typing import Any

import pytest

from eventsched.audit.explain import Decision, JobExplanation
from eventsched.audit.service import why
from eventsched.errors import NotFound
from eventsched.formatting import clock
from eventsched.store.client import Client
from tests.fixtures_store import TimedStore
from tests.job_record import job_record
from tests.random_history import source_of
from tests.scripts.jobs_of import assigned, logged, reply, speak

TTS: dict[str, Any] = {"features": ["tts"], "features_hash": "0123456789abcdef"}


async def explain_job(store: TimedStore, redis: Client, job: str) -> JobExplanation:
    return await why(await source_of(store, redis), job)


def key(store: TimedStore, session: str = "s1", utterance: int = 0, features: str = "none") -> str:
    return f"acme:{store.keys.full(session)}:{utterance}:translation:es:{features}"


def verdicts(store: TimedStore, decision: Decision) -> dict[str, tuple[str, str]]:
    return {
        node.node.removeprefix(f"{store.cell}."): (node.verdict, node.detail)
        for node in decision.nodes
    }


def stages(explanation: JobExplanation) -> list[tuple[str, int, str]]:
    return [(stage.name, stage.ms, stage.waited_for) for stage in explanation.stages]


async def test_each_node_is_listed_with_the_reason_why_it_was_not_chosen(
    store: TimedStore, redis: Client
) -> None:
    both: dict[str, Any] = {"features": ["tts"], "slots": 1}
    suspended = await store.join("suspended", **both)
    await speak(store, "s0", **TTS)
    await store.dispatch()
    await reply(
        store, suspended, key(store, "s0", features=TTS["features_hash"]),
        status="failed", code="MODEL_NOT_AVAILABLE", feature="tts",
    )  # fmt: skip
    store.tick(10_000)  # no other node registered in time
    await store.timers()
    for name, options in {
        "full": both, "draining": both, "french": both | {"targets": ["fr"]},
        "plain": {"slots": 4}, "gone": both, "chosen": both | {"slots": 4}, "other": both,
    }.items():  # fmt: skip
        grant = await store.join(name, **options)
        if name in ("full", "draining"):  # each takes a job, and one of them drains
            await speak(store, f"busy-{name}", **TTS)
            await store.dispatch()
        if name in ("draining", "gone"):
            await store.drain_node(grant.node, grant.epoch, within_ms=60_000)
    await speak(store, "s1", **TTS)
    await store.dispatch()
    explanation = await explain_job(store, redis, key(store, features=TTS["features_hash"]))
    (decision,) = explanation.decisions
    assert verdicts(store, decision) == {
        "chosen": ("chosen", ""),
        "other": ("free", ""),
        "full": ("full", ""),
        "draining": ("draining", ""),
        "suspended": ("suspended", "feature tts: MODEL_NOT_AVAILABLE"),
        "french": ("unable", "no target es"),
        "plain": ("unable", "no feature tts"),
        "gone": ("gone", "drained"),  # gone after the job was made; earlier ones are not listed
    }
    assert (decision.rule, decision.node) == ("load", store.keys.full("chosen"))
    assert sum(each.draining for each in decision.classes) == 1


async def test_a_second_attempt_has_the_node_and_the_end_of_the_first(
    store: TimedStore, redis: Client
) -> None:
    first, second = await store.join("n1"), await store.join("n2")
    await speak(store, "s1")
    store.tick(7)
    await store.dispatch()
    store.tick(200)
    await reply(
        store, first, key(store), status="failed", code="BROKEN", retryable=True, retry_in_ms=0
    )
    store.tick(300)
    assert await reply(store, second, key(store), 2) == "ok"
    explanation = await explain_job(store, redis, key(store))
    assert (explanation.outcome, explanation.attempts) == ("result", 2)
    n1, n2 = store.keys.full("n1"), store.keys.full("n2")
    assert stages(explanation)[1:] == [
        ("finalize", 0, "by final"),
        ("dispatch", 7, f"to {n1} by load"),
        ("attempt 1", 200, f"on {n1}: failed, BROKEN"),
        ("next attempt", 0, f"to {n2} by load"),
        ("attempt 2", 300, f"on {n2}: ok"),
        ("delivery", 0, "#0 in order"),
    ]
    first_decision, second_decision = explanation.decisions
    assert (first_decision.last, second_decision.last) == ("", n1)
    assert verdicts(store, second_decision)["n1"] == ("last", "the previous attempt ran there")


async def test_decisions_after_too_many_entries_have_no_nodes(
    store: TimedStore, redis: Client
) -> None:
    node, _ = await store.join("n1"), await store.join("n2")
    await speak(store, "s1")
    await store.dispatch()
    await reply(store, node, key(store), status="failed", code="X", retryable=True, retry_in_ms=0)
    source = await source_of(store, redis)
    whole = (await why(source, key(store))).decisions
    assert [(len(each.nodes), each.nodes_total, each.is_far) for each in whole] == [
        (2, 2, False)
    ] * 2
    before = [each.id for each in await store.log()].index(whole[0].id)
    near, far = (await why(source, key(store), entries_max=before + 1)).decisions
    assert (near, far.nodes, far.is_far) == (whole[0], [], True)
    assert (far.node, far.rule, far.classes) == (whole[1].node, whole[1].rule, whole[1].classes)
    decisions = (await why(source, key(store), entries_max=before)).decisions
    assert [each.is_far for each in decisions] == [True, True]
    decisions = (await why(source, key(store), entries_max=0)).decisions
    assert [(each.nodes, each.is_far) for each in decisions] == [([], False)] * 2


async def test_a_backoff_and_an_avoided_node_are_stages_of_their_own(
    store: TimedStore, redis: Client
) -> None:
    """n1 fails; n2 is full, so the job waits for it, and gets its slot."""
    first, second = await store.join("n1", slots=1), await store.join("n2", slots=1)
    await speak(store, "s1")
    await speak(store, "s2")
    await store.dispatch()
    await reply(
        store, first, key(store), status="failed", code="BROKEN", retryable=True, retry_in_ms=1
    )
    n1, n2 = first.node, second.node
    explanation = await explain_job(store, redis, key(store))
    assert explanation.stages[-1].name == "backoff"
    assert explanation.stages[-1].waited_for.startswith("backs off until ")
    store.tick(1)
    await store.timers()
    explanation = await explain_job(store, redis, key(store))
    assert stages(explanation)[-2:] == [
        ("backoff", 1, f"over, queued: NO_AVAILABLE_NODE, avoids {n1}"),
        ("wait for a slot", 0, f"NO_AVAILABLE_NODE: still waiting, avoids {n1}"),
    ]
    store.tick(300)
    await reply(store, second, key(store, "s2"))
    explanation = await explain_job(store, redis, key(store))
    assert stages(explanation)[3:] == [
        ("attempt 1", 0, f"on {n1}: failed, BROKEN"),
        ("next attempt", 0, "queued, retry_backoff"),
        ("backoff", 1, f"over, queued: NO_AVAILABLE_NODE, avoids {n1}"),
        ("wait for a slot", 300, explanation.stages[6].waited_for),
        ("attempt 2", 0, f"still on {n2}"),
    ]
    _, backoff, queued, dispatched = explanation.decisions
    assert (backoff.reason, backoff.last, backoff.nodes) == ("retry_backoff", n1, [])
    assert backoff.detail.startswith("backs off until ")
    assert queued.detail.startswith(f"avoids {n1} until ")
    assert backoff.detail.endswith(clock(backoff.until_ms))
    assert f" until {clock(queued.until_ms)}, " in queued.detail
    assert (dispatched.rule, dispatched.node) == ("fill", n2)


async def test_a_wait_has_its_reason_the_jobs_ahead_and_its_end(
    store: TimedStore, redis: Client
) -> None:
    node = await store.join("n1", slots=1)
    await speak(store, "s0")
    await store.dispatch()
    await speak(store, "s1", count=2)
    await store.dispatch()
    store.tick(400)
    await reply(store, node, key(store, "s0"))
    await reply(store, node, key(store, "s1"))
    explanation = await explain_job(store, redis, key(store, "s1", 1))
    queued, dispatched = explanation.decisions
    assert (queued.reason, queued.ahead) == ("NO_AVAILABLE_NODE", 1)
    assert queued.detail == "other jobs of the same requirement already wait"
    assert verdicts(store, queued) == {"n1": ("full", "")}
    assert (dispatched.rule, dispatched.compared) == ("fill", 1)
    name, ms, waited_for = stages(explanation)[3]
    assert (name, ms) == ("wait for a slot", 400)
    assert waited_for.startswith(f"NO_AVAILABLE_NODE, until {node.node} had a slot (freed by log/")
    assert explanation.stages[-1].is_open
    assert explanation.stages[-1].waited_for == f"still on {node.node}"


async def test_the_end_of_an_attempt_names_the_loss_of_its_node(
    store: TimedStore, redis: Client
) -> None:
    await store.join("n1")
    await speak(store, "s1")
    await store.dispatch()
    await store.join("n1", token="newer")
    (loss,) = await logged(store, "NodeLost")
    explanation = await explain_job(store, redis, key(store))
    causes = {stage.name: stage.cause for stage in explanation.stages if stage.cause}
    assert causes == {"attempt 1": f"log/{loss.id}"}


async def test_a_released_slot_is_given_to_a_waiting_job(store: TimedStore, redis: Client) -> None:
    node = await store.join("n1", targets=["es", "fr"], slots=1)
    await speak(store, "s1")
    await store.dispatch()
    await speak(store, "s2", targets=["fr"])
    await store.dispatch()
    await reply(
        store, node, key(store), status="failed", code="BROKEN", retryable=True, retry_in_ms=0
    )
    explanation = await explain_job(store, redis, key(store))
    assert explanation.decisions[1].detail == (
        "the slot that it has just released goes to a waiting job"
    )


async def test_a_result_behind_a_gap_names_the_missing_number(
    store: TimedStore, redis: Client
) -> None:
    node = await store.join("n1", slots=4)
    await speak(store, "s1", count=2)
    await store.dispatch()
    await reply(store, node, key(store, utterance=1))
    store.tick(900)
    await reply(store, node, key(store, utterance=0), status="no_speech")
    explanation = await explain_job(store, redis, key(store, utterance=1))
    assert stages(explanation)[-1] == ("delivery", 900, "#1 in order, after #0 (u0: no_speech)")


async def test_a_missing_outcome_and_one_that_was_never_dispatched(
    store: TimedStore, redis: Client
) -> None:
    node = await store.join("n1", slots=4)
    await speak(store, "s1", count=2)
    await store.dispatch()
    await reply(store, node, key(store, utterance=1))
    store.tick(30_000)
    await store.timers()
    explanation = await explain_job(store, redis, key(store))
    assert (explanation.outcome, explanation.attempts) == ("missing", 1)
    assert explanation.stages[-1].waited_for == "missing: gap"
    session = await speak(store, "s2")
    await store.close_session(session.session, session.epoch)
    store.tick(30_000)
    await store.timers()
    explanation = await explain_job(store, redis, key(store, "s2"))
    assert (explanation.outcome, explanation.attempts, explanation.decisions) == ("missing", 0, [])


async def test_a_job_is_found_by_session_utterance_and_target(
    store: TimedStore, redis: Client
) -> None:
    session = await speak(store, "s1", count=2)
    await store.join()
    await store.dispatch()
    for short in (f"{session.session}:1:es", f"{session.session}:u1:es"):
        assert (await explain_job(store, redis, short)).job == key(store, utterance=1)


@pytest.mark.parametrize(
    "job", ["nothing", "a:b", "{s1}:7:es", "{s1}:0:fr", "acme:{s1}:7:translation:es:none"]
)
async def test_an_unknown_job_is_not_found(store: TimedStore, redis: Client, job: str) -> None:
    session = await speak(store, "s1")
    await store.join()
    await store.dispatch()
    with pytest.raises(NotFound, match="no job"):
        await explain_job(store, redis, job.format(s1=session.session))


async def test_decisions_of_a_job_whose_record_is_deleted_are_explained_from_the_log(
    store: TimedStore, redis: Client
) -> None:
    node, session = await store.join(), await store.open("s1")
    first: JobExplanation | None = None
    for seq in range(40):
        await store.say(session, seq, end_of_utterance=True)
        await store.dispatch()
        message = (await assigned(store, node))[-1]
        await reply(store, node, message["j"])
        first = first or await explain_job(store, redis, message["j"])
    assert first is not None
    assert await job_record(store, first.job) == {}
    assert await explain_job(store, redis, first.job) == first


async def test_decisions_of_a_retired_session_are_explained_from_its_history(
    store: TimedStore, redis: Client
) -> None:
    node = await store.join()
    session = await speak(store, "s1")
    await store.dispatch()
    (message,) = await assigned(store, node)
    await reply(store, node, message["j"])
    before = await explain_job(store, redis, message["j"])
    await store.close_session(session.session, session.epoch)
    for _ in range(2):
        store.tick(7_200_000)
        await store.timers()
    assert [event.type for event in await store.log("SessionRetired")] == ["SessionRetired"]
    assert await explain_job(store, redis, message["j"]) == before
