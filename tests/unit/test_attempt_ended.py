"""Why a handler failed, in the words of `history` and `why`."""

from __future__ import annotations

import pytest

from eventsched.audit.explain import _ended_by
from eventsched.history.event_text import describe
from eventsched.schema.events import AttemptEnded, Event

ERROR = {"error_type": "ValueError", "error_message": "out of memory", "error_place": "a.py:12"}


def ended(**fields: str) -> Event:
    data = AttemptEnded(
        utterance=0, target="es", attempt=1, epoch=1, reason="failed", code="X", **fields
    )
    return Event(id="1-1", type="AttemptEnded", session="c0.s", node="c0.gpu-1", data=data)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        (ERROR, ", ValueError: out of memory at a.py:12"),
        (ERROR | {"error_message": ""}, ", ValueError at a.py:12"),
        ({"error_type": "KeyError"}, ", KeyError"),
        ({}, ""),
    ],
)
def test_history_and_why_say_why_an_attempt_failed(fields: dict[str, str], error: str) -> None:
    event = ended(**fields)
    assert describe(event) == f"u0 → es  attempt 1 on gpu-1: failed, X{error}"
    assert _ended_by(event, event, []) == f"on c0.gpu-1: failed, X{error}"
