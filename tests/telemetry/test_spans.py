"""Spans of events: what an attempt, a failure and a held result become."""

from __future__ import annotations

from typing import Any

from eventsched.schema.events import (
    AnyData,
    AttemptEnded,
    ClassSeen,
    Delivered,
    Event,
    JobDispatched,
    JobFailed,
    ResultDelivered,
    ResultMissing,
    ResultRecorded,
)
from eventsched.schema.trace_context import attempt_spans
from eventsched.telemetry.spans import Span, Spans

JOB = "acme:c0.s1:0:translation:es:none"
PLACE: dict[str, Any] = {"utterance": 0, "target": "es"}
ATTEMPT: dict[str, Any] = PLACE | {"epoch": 1}


def event(ms: int, data: AnyData, cause: str = "", job: str = JOB) -> Event:
    return Event(
        id=f"{ms}-0", type=type(data).__name__, session="c0.s1", job=job, node="c0.n1",
        cause=cause, data=data, body=b"what was said",
    )  # fmt: skip


def dispatched(ms: int, attempt: int = 1, cause: str = "log/1000-0", **more: Any) -> Event:
    fields: dict[str, Any] = {"rule": "load", "classes": [ClassSeen(id="a")]} | more
    data = JobDispatched(
        **ATTEMPT, attempt=attempt, delivery_no=0, turn=0, source="en", audio_ms=100,
        deadline_ms=9, policy=1, **fields,
    )  # fmt: skip
    return event(ms, data, cause)


def ended(ms: int, attempt: int = 1) -> Event:
    return event(ms, AttemptEnded(**ATTEMPT, attempt=attempt, reason="node_lost"))


def recorded(ms: int, attempt: int = 1, delivered: bool = True) -> Event:
    to = Delivered(to=["c0.s1"]) if delivered else None
    data = ResultRecorded(**ATTEMPT, attempt=attempt, delivery_no=0, status="ok", delivered=to)
    return event(ms, data)


def times(spans: list[Span]) -> list[tuple[str, int, int]]:
    return [(span.name, span.start_ms, span.end_ms) for span in spans]


def test_a_lost_node_ends_the_attempt_and_the_next_one_names_it() -> None:
    spans = Spans()
    assert times(spans.of(dispatched(1_010))) == [("dispatch", 1_000, 1_010)]
    (lost,) = spans.of(ended(16_000))
    assert times([lost]) == [("process", 1_010, 16_000)]
    assert lost.error == lost.attributes["eventsched.reason"] == "node_lost"
    (again,) = spans.of(dispatched(16_002, 2, cause=""))
    assert times([again]) == [("dispatch", 16_000, 16_002)]
    assert again.link_id == lost.span_id
    assert times(spans.of(recorded(16_900, 2))) == [
        ("process", 16_002, 16_900), ("record_result", 16_900, 16_900), ("deliver", 16_900, 16_900)
    ]  # fmt: skip


def test_the_age_of_a_job_that_waited_says_when_its_utterance_ended() -> None:
    waited = dispatched(9_000, rule="fill", age_ms=7_500, waited_ms=7_400, cause="log/8999-0")
    assert times(Spans().of(waited)) == [("dispatch", 1_500, 9_000)]


def test_a_reader_that_begins_anew_needs_the_earlier_events_of_a_job() -> None:
    history = [dispatched(1_010), ended(2_000), dispatched(2_002, 2), recorded(3_000, 2)]
    whole = Spans()
    wanted = [whole.of(each) for each in history]
    for at, each in enumerate(history):
        spans = Spans()
        assert spans.needs_history(each) == (at > 0)
        spans.learn(history[:at])
        assert not spans.needs_history(each)
        assert spans.of(each) == wanted[at]


def test_a_repeated_event_makes_the_same_spans() -> None:
    history = [dispatched(1_010), ended(2_000), dispatched(2_002, 2), recorded(3_000, 2)]
    spans = Spans()
    first = [spans.of(each) for each in history]
    for at, each in enumerate(history):
        if spans.needs_history(each):
            spans.learn(history[:at])
        assert spans.of(each) == first[at]


def test_a_span_whose_begin_is_lost_is_not_made() -> None:
    assert Spans().of(ended(2_000)) == []
    assert Spans().of(dispatched(2_000, 2)) == []
    assert [span.name for span in Spans().of(recorded(3_000))] == ["record_result", "deliver"]


def test_a_held_result_is_delivered_since_its_record() -> None:
    spans = Spans()
    spans.of(dispatched(1_010))
    assert [span.name for span in spans.of(recorded(2_000, delivered=False))] == [
        "process", "record_result"
    ]  # fmt: skip
    data = ResultDelivered(**PLACE, delivery_no=0, outcome="result", to=["c0.s1"])
    assert times(spans.of(event(5_000, data, cause="log/2000-0"))) == [("deliver", 2_000, 5_000)]


def test_failed_and_missing_outcomes_are_errors_with_their_reasons() -> None:
    spans = Spans()
    assert spans.of(event(1, JobFailed(**PLACE, delivery_no=0, attempt=4, code="NODE_LOST"))) == []
    failed = ResultDelivered(**PLACE, delivery_no=0, outcome="failed", code="NODE_LOST")
    missing = ResultMissing(**PLACE, delivery_no=1, reason="gap")
    hole = ResultMissing(utterance=-1, target="es", delivery_no=2, reason="no_outcome")
    found = [span for data in (failed, missing, hole) for span in spans.of(event(9, data))]
    assert [(span.name, span.error) for span in found] == [
        ("deliver", "NODE_LOST"), ("deliver", "gap")
    ]  # fmt: skip


def test_the_memory_is_bounded() -> None:
    spans = Spans(jobs_max=10)
    for number in range(20):
        one = dispatched(number)
        spans.of(event(number, one.data, job=f"acme:c0.s1:{number}:translation:es:none"))
    known = [number for number in range(20) if not spans.needs_history(
        event(99, recorded(99).data, job=f"acme:c0.s1:{number}:translation:es:none"))]  # fmt: skip
    assert known == list(range(10, 20))


def test_attributes_are_names_numbers_and_codes() -> None:
    spans = Spans()
    every = [*spans.of(dispatched(1_010)), *spans.of(recorded(2_000))]
    assert not any("said" in str(value) for span in every for value in span.attributes.values())
    assert every[1].span_id == attempt_spans(JOB, 1).process
    assert every[1].attributes == {
        "messaging.system": "redis", "messaging.operation.name": "process",
        "messaging.operation.type": "process", "messaging.destination.name": "inbox",
        "messaging.message.id": JOB, "eventsched.node": "c0.n1", "eventsched.target": "es",
        "eventsched.attempt": 1, "eventsched.outcome": "ok",
    }  # fmt: skip
