"""The judge of a chaos run: partial calls excuse the sessions of their time, and no others."""

from __future__ import annotations

from eventsched.schema.events import (
    AttemptEnded,
    Event,
    ResultMissing,
    SessionOpened,
    Target,
    UtteranceFinalized,
)
from eventsched.schema.keys import job_key
from tests.chaos.judge import judge
from tests.chaos.record import Record

JOB = job_key("acme", "c0.s1", 0, "es", "none")


def test_a_repeated_end_of_an_attempt_is_excused_only_if_calls_were_partial() -> None:
    opened = Event(
        id="1-0", type="SessionOpened", session="c0.s1",
        data=SessionOpened(tenant="acme", source="en"),
    )  # fmt: skip
    ended = AttemptEnded(utterance=0, target="es", attempt=1, epoch=1, reason="failed")
    log = [opened]
    log += [
        Event(id=f"{ms}-0", type="AttemptEnded", session="c0.s1", job=JOB, node="c0.n1", data=ended)
        for ms in (2, 3)
    ]
    assert not any(
        JOB in violation for violation in judge(log, Record(), partial_until="1-0").violations
    )
    assert any(JOB in violation for violation in judge(log, Record()).violations)


def test_a_number_that_is_delivered_twice_is_excused_only_if_calls_were_partial() -> None:
    """Its call failed after its event, so the order did not move, and a timer delivered again."""
    opened = Event(
        id="1-0", type="SessionOpened", session="c0.s1",
        data=SessionOpened(tenant="acme", source="en"),
    )  # fmt: skip
    finalized = UtteranceFinalized(
        utterance=0, turn=0, ms=20, reason="final", first="1-0", last="1-0", count=1, bytes=640,
        padding_ms=220, first_seq=0, targets=[Target(target="es", delivery_no=0)],
    )  # fmt: skip
    missing = ResultMissing(utterance=0, target="es", delivery_no=0, reason="no_outcome", to=[])
    log = [opened]
    log += [
        Event(id=f"{ms}-0", type=type(data).__name__, session="c0.s1", data=data)
        for ms, data in ((2, finalized), (3, missing), (4, missing))
    ]
    twice = "c0.s1 es: expected [0], delivered [0, 0]"
    assert twice not in judge(log, Record(), partial_until="1-0").violations
    assert twice in judge(log, Record()).violations
