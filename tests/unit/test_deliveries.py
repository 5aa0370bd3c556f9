"""One answer to which outcome an event delivers, and to whom, for every type of event."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from eventsched.schema import events
from eventsched.schema.deliveries import Delivery, delivery_of
from eventsched.schema.events import (
    Data,
    Delivered,
    JobFailed,
    ResultDelivered,
    ResultMissing,
    ResultRecorded,
    ResultReplaced,
)

PLACE: dict[str, Any] = {"utterance": 4, "target": "es", "delivery_no": 3}
TOKEN: dict[str, Any] = {"attempt": 1, "epoch": 2}
TO, SKIPPED = ["c0.l1", "c0.l2"], ["c0.l2"]
DELIVERED = Delivered(to=TO, skipped=SKIPPED)


@pytest.mark.parametrize(
    ("data", "outcome", "code"),
    [
        (ResultRecorded(**PLACE, **TOKEN, status="ok", delivered=DELIVERED), "result", ""),
        (
            ResultRecorded(**PLACE, **TOKEN, status="no_speech", code="C", delivered=DELIVERED),
            "no_speech",
            "C",
        ),
        (
            ResultDelivered(**PLACE, outcome="failed", code="C", to=TO, skipped=SKIPPED),
            "failed",
            "C",
        ),
        (ResultMissing(**PLACE, reason="gap", to=TO, skipped=SKIPPED), "missing", ""),
        (
            ResultMissing(**PLACE, reason="no_outcome", to=TO, skipped=SKIPPED),
            "missing",
            "NO_OUTCOME",
        ),
    ],
    ids=["result", "no speech", "failure", "missing", "no outcome"],
)
def test_an_event_delivers_one_outcome_to_its_recipients(
    data: events.AnyData, outcome: Any, code: str
) -> None:
    assert delivery_of(data) == Delivery(4, "es", 3, outcome, code, TO, SKIPPED)


@pytest.mark.parametrize(
    "data",
    [
        ResultRecorded(**PLACE, **TOKEN, status="ok"),
        ResultReplaced(**PLACE, **TOKEN, status="ok"),
        JobFailed(**PLACE, attempt=1, code="C"),
    ],
    ids=lambda data: type(data).__name__,
)
def test_an_event_of_a_held_outcome_delivers_nothing(data: events.AnyData) -> None:
    assert delivery_of(data) is None


def test_every_event_type_with_recipients_is_known() -> None:
    """A new event that names recipients of an outcome needs a case in `delivery_of`."""
    kinds: list[type[Data]] = list(get_args(events.AnyData))
    named = [
        kind.__name__ for kind in kinds if {"skipped", "delivered"} & set(kind.__struct_fields__)
    ]
    assert named == ["ResultRecorded", "ResultDelivered", "ResultMissing"]
