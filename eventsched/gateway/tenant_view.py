"""What a token of one tenant sees of decisions that concern other tenants as well.

Owns: the fields of events, records and explanations that such a token may see.
Must not: do I/O.
Read next: reading.py, event_feed.py (use it), audit/explain.py.

The choice of a node compares nodes and waiting jobs of all tenants, and the log has the evidence.
So a token of one tenant gets these events, and the records that are folded from them, with the
listed fields only: a field that is added later is not shown until it is listed here.
"""

from __future__ import annotations

from typing import Any

import msgspec

from eventsched.audit.explain import Decision, JobExplanation

SHOWN_FIELDS = {
    "JobDispatched": frozenset({
        "utterance", "target", "delivery_no", "turn", "source", "features", "attempt", "epoch",
        "audio_ms", "deadline_ms", "rule", "policy", "age_ms", "waited_ms", "context_at",
    }),
    "JobQueued": frozenset({
        "utterance", "target", "delivery_no", "source", "features", "attempt", "reason",
        "priority", "deadline_ms", "not_before_ms",
    }),
}  # fmt: skip
"""Type of event -> the fields of its data that are shown. Other types name one tenant only."""

SHOWN_RECORD_FIELDS = {
    "job": frozenset({
        "job", "session", "utterance", "target", "delivery_no", "source", "features", "created_ms",
        "status", "attempt", "node", "epoch", "dispatched_ms", "deadline_ms", "not_before_ms",
        "reason", "priority", "outcome", "code", "ended_ms", "refused", "attempts",
    }),
}  # fmt: skip
"""Read model -> the fields of its records that are shown. Other records have one tenant's data."""


def state_for_tenant(kind: str, state: dict[str, Any]) -> dict[str, Any]:
    """Return the state of a record, as `named` makes it, without what it tells of other tenants."""
    shown, record = SHOWN_RECORD_FIELDS.get(kind), state["view"]
    if shown is None or record is None:
        return state
    return state | {"view": {name: value for name, value in record.items() if name in shown}}


def event_for_tenant(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event, as `event_json` makes it, without what it tells of other tenants."""
    shown = SHOWN_FIELDS.get(event.get("type", ""))
    if shown is None:
        return event
    data = {name: value for name, value in event["data"].items() if name in shown}
    return event | {"data": data}


def explanation_for_tenant(explanation: JobExplanation) -> JobExplanation:
    """Return an explanation without what it tells of other tenants and of all nodes."""
    decisions = [
        Decision(
            id=each.id, attempt=each.attempt, node=each.node, rule=each.rule, reason=each.reason,
            cause=each.cause, context_at=each.context_at,
        )
        for each in explanation.decisions
    ]  # fmt: skip
    return msgspec.structs.replace(explanation, decisions=decisions)
