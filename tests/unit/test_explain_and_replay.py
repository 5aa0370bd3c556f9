"""Decisions of a hand-written log are explained and computed again, without a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from eventsched.audit.explain import JobExplanation, decision, explain, is_decision
from eventsched.audit.replay import Replay, ReplayReport
from eventsched.audit.scheduler_state import SchedulerState
from eventsched.schema.events import (
    POLICY_VERSION,
    ClassSeen,
    Data,
    Delivered,
    Event,
    JobDispatched,
    JobPromoted,
    JobQueued,
    NodeRegistered,
    Rank,
    ResultDelivered,
    ResultRecorded,
    UtteranceFinalized,
)

SESSION, N1, N2 = "c0.s1", "c0.n1", "c0.n2"
HOLA: dict[str, Any] = {"utterance": 0, "target": "es", "delivery_no": 0}


def key(utterance: int) -> str:
    return f"acme:{SESSION}:{utterance}:translation:es:none"


def event(ms: int, data: Data, *, job: str = "", node: str = "") -> Event:
    session = SESSION if job or isinstance(data, UtteranceFinalized) else ""
    name = type(data).__name__
    return Event(id=f"{ms}-0", type=name, session=session, job=job, node=node, data=data)  # type: ignore[arg-type]


def registered(ms: int, node: str, slots: int) -> Event:
    data = NodeRegistered(epoch=1, sources=["en"], targets=["es"], slots=slots, cls="k1")
    return event(ms, data, node=node)


def finalized(ms: int, utterance: int) -> Event:
    data = UtteranceFinalized(
        utterance=utterance, turn=utterance, reason="pause", first=f"{ms - 1_500}-0",
        last=f"{ms - 500}-0", first_seq=0, count=10, bytes=32_000, ms=1_000,
    )  # fmt: skip
    return event(ms, data)


def dispatched(ms: int, utterance: int, node: str, **changes: Any) -> Event:
    fields: dict[str, Any] = {
        "utterance": utterance, "target": "es", "delivery_no": utterance, "turn": utterance,
        "source": "en", "attempt": 1, "epoch": 1, "audio_ms": 1_000, "deadline_ms": ms + 60_000,
        "rule": "load", "policy": POLICY_VERSION,
    }  # fmt: skip
    return event(ms, JobDispatched(**fields | changes), job=key(utterance), node=node)


def log() -> list[Event]:
    """Two nodes with a slot each. The first utterance goes to the first node, the second to the
    less loaded one; the third waits for a slot and gets the first that is freed.
    """
    waits = JobQueued(
        utterance=2, target="es", delivery_no=2, source="en", attempt=1, priority=1, tag=5,
        reason="NO_AVAILABLE_NODE", member=f"{1:016d}:{key(2)}", deadline_ms=9_000,
    )  # fmt: skip
    done = ResultRecorded(**HOLA, attempt=1, epoch=1, status="ok")
    both = ClassSeen(id="k1", head=N1, load=0, free=2)
    second = ClassSeen(id="k1", head=N2, load=0, free=1, full=1)
    freed = ClassSeen(id="k1", head=N1, load=0, free=1, full=1)
    return [
        registered(1_000, N1, slots=1),
        registered(1_001, N2, slots=1),
        finalized(3_000, 0),
        dispatched(3_010, 0, N1, classes=[both]),
        finalized(3_100, 1),
        dispatched(3_110, 1, N2, classes=[second]),
        finalized(3_200, 2),
        event(3_210, waits, job=key(2)),
        event(4_000, done, job=key(0), node=N1),
        event(4_000, ResultDelivered(**HOLA, outcome="result"), job=key(0)),
        dispatched(
            4_005, 2, N1, rule="fill", classes=[freed], compared=1,
            winner=Rank(priority=1, tag=5, member=f"{1:016d}:{key(2)}"),
        ),
    ]  # fmt: skip


def replayed(events: Sequence[Event]) -> ReplayReport:
    replay = Replay(SchedulerState.empty())
    for each in events:
        replay.add(each)
    return replay.report


def test_a_log_that_follows_the_rules_agrees() -> None:
    report = replayed(log())
    assert report.differences == []
    assert (report.dispatches, report.queued) == (3, 1)
    assert report.by_rule == {"load": 2, "fill": 1}


def promoted(ms: int, utterance: int, priority: int = 0) -> Event:
    data = JobPromoted(
        utterance=utterance, target="es", delivery_no=utterance, attempt=1, priority=priority
    )
    return event(ms, data, job=key(utterance))


def test_a_promoted_job_keeps_its_place_at_the_highest_priority() -> None:
    *before, last = log()
    assert isinstance(last.data, JobDispatched)
    winner = Rank(priority=0, tag=5, member=f"{1:016d}:{key(2)}")
    last = msgspec.structs.replace(last, data=msgspec.structs.replace(last.data, winner=winner))
    promotion = promoted(3_900, 2)
    assert replayed([*before[:8], promotion, *before[8:], last]).differences == []
    assert not is_decision(promotion)


@pytest.mark.parametrize(
    ("utterance", "priority", "recomputed"), [(0, 0, "it does not wait"), (2, 1, 0)]
)
def test_a_promotion_without_its_cause_is_a_difference(
    utterance: int, priority: int, recomputed: object
) -> None:
    events = log()
    events.insert(8, promoted(3_900, utterance, priority))
    first, *_ = replayed(events).differences
    assert (first.field, first.recorded, first.recomputed) == ("priority", priority, recomputed)


@pytest.mark.parametrize(
    ("place", "change", "fields"),
    [
        (3, {"node": N2}, {"node"}),
        (5, {"rule": "last"}, {"rule"}),
        (7, {"reason": "NO_POOL_FOR_LANG_PAIR"}, {"reason"}),
        (10, {"compared": 2}, {"compared"}),
    ],
)
def test_a_decision_that_was_changed_is_a_difference(
    place: int, change: dict[str, str], fields: set[str]
) -> None:
    events = log()
    original = events[place]
    if "node" in change:
        events[place] = msgspec.structs.replace(original, node=change["node"])
    else:
        events[place] = msgspec.structs.replace(
            original, data=msgspec.structs.replace(original.data, **change)
        )
    differences = [each for each in replayed(events).differences if each.id == original.id]
    assert {difference.field for difference in differences} >= fields


def test_a_job_that_waits_although_a_node_is_free_is_a_difference() -> None:
    events = log()
    del events[5]  # the second utterance is not dispatched
    assert "node" in {each.field for each in replayed(events).differences}


def explained(utterance: int) -> JobExplanation:
    """As `why` explains it: each decision with the state before it."""
    state, decisions = SchedulerState.empty(), []
    for each in log():
        if each.job == key(utterance) and is_decision(each):
            decisions.append(decision(state, each))
        state.add(each)
    return explain(key(utterance), log(), decisions, 5_000)


def test_a_job_is_explained_from_its_speech_to_its_delivery() -> None:
    explanation = explained(0)
    assert (explanation.outcome, explanation.attempts) == ("result", 1)
    assert [(stage.name, stage.ms) for stage in explanation.stages] == [
        ("speech", 1_000),
        ("finalize", 500),
        ("dispatch", 10),
        ("attempt 1", 990),
        ("delivery", 0),
    ]
    (chosen,) = explanation.decisions
    assert [(node.node, node.verdict) for node in chosen.nodes] == [(N1, "chosen"), (N2, "free")]


def test_a_result_that_its_own_event_delivers_has_a_stage_of_delivery() -> None:
    *before, recorded, delivered, dispatch = log()
    data = msgspec.structs.replace(recorded.data, delivered=Delivered(to=[SESSION]))
    recorded = msgspec.structs.replace(recorded, data=data)
    two_events = explain(key(0), [*before, recorded, delivered, dispatch], [], 5_000)
    one_event = explain(key(0), [*before, recorded, dispatch], [], 5_000)
    assert (one_event.outcome, one_event.code) == ("result", "")
    assert one_event.stages[-1] == two_events.stages[-1]
    assert (one_event.stages[-1].name, one_event.stages[-1].waited_for) == (
        "delivery", "#0 in order",
    )  # fmt: skip


def test_a_job_whose_utterance_is_not_in_the_history_is_explained_from_its_first_event() -> None:
    """An archive may begin in the middle, or come from a stranger."""
    events = [
        each for each in log()
        if not (isinstance(each.data, UtteranceFinalized) and each.data.utterance == 0)
    ]  # fmt: skip
    explanation = explain(key(0), events, [], 5_000)
    assert not explanation.is_complete
    assert explanation.outcome == "result"
    assert [(stage.name, stage.ms) for stage in explanation.stages] == [
        ("attempt 1", 990), ("delivery", 0),
    ]  # fmt: skip
    assert explained(0).is_complete


def test_a_job_that_waited_is_explained_with_the_state_of_each_node() -> None:
    explanation = explained(2)
    wait = next(stage for stage in explanation.stages if stage.name == "wait for a slot")
    assert (wait.ms, wait.is_open) == (795, False)
    assert wait.waited_for == f"NO_AVAILABLE_NODE, until {N1} had a slot"
    assert explanation.stages[-1].is_open
    queued, filled = explanation.decisions
    assert {node.verdict for node in queued.nodes} == {"full"}
    assert (filled.rule, filled.node) == ("fill", N1)
