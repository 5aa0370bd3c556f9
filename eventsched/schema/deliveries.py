"""Whether an event delivers an outcome, which one, and to whom.

Owns: the one answer for every reader of events.
Must not: do I/O, decide. Read next: events.py, lua/include/delivery.lua (which delivers).
"""

from __future__ import annotations

import msgspec

from eventsched.schema.events import (
    AnyData,
    Outcome,
    ResultDelivered,
    ResultMissing,
    ResultRecorded,
)


class Delivery(msgspec.Struct, frozen=True):
    """One outcome that an event delivers (rule 25, ordered delivery)."""

    utterance: int
    """-1 if no utterance has the number."""
    target: str
    delivery_no: int
    outcome: Outcome
    code: str
    to: list[str]
    """All recipients."""
    skipped: list[str]
    """Recipients that were closed already."""


def delivery_of(data: AnyData) -> Delivery | None:
    """Return the delivery that an event with this data records; None if it records none."""
    if isinstance(data, ResultRecorded):
        if data.delivered is None:
            return None
        return Delivery(
            data.utterance, data.target, data.delivery_no,
            "result" if data.status == "ok" else "no_speech", data.code, data.delivered.to,
            data.delivered.skipped,
        )  # fmt: skip
    if isinstance(data, ResultDelivered):
        return Delivery(
            data.utterance, data.target, data.delivery_no, data.outcome, data.code, data.to,
            data.skipped,
        )  # fmt: skip
    if isinstance(data, ResultMissing):
        code = "NO_OUTCOME" if data.reason == "no_outcome" else ""
        return Delivery(
            data.utterance, data.target, data.delivery_no, "missing", code, data.to, data.skipped
        )
    return None
