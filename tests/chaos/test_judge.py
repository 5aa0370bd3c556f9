"""The judge of a chaos run: partial calls excuse the sessions of their time, and no others."""

from __future__ import annotations

from eventsched.schema.events import AttemptEnded, Event, SessionOpened
from eventsched.schema.keys import job_key
from tests.chaos.judge import judge
from tests.chaos.producer import Record

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
