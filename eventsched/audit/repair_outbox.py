"""Changes for outcomes that the log says were delivered and that an outbox lacks.

Owns: the entry of a delivered outcome, and when its listener can still get it.
Must not: do I/O. The events are passed in.
Read next: lua/include/delivery.lua (the form of the entry), stream_checks.py, repair.py (the
caller).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from eventsched.audit.repair_change import Change
from eventsched.audit.stream_checks import Outbox
from eventsched.schema.deliveries import Delivery, delivery_of
from eventsched.schema.events import Event
from eventsched.schema.ids import parse_id
from projections.session import Session, outcome_key

ENTRY_BYTES = 256
"""What an entry counts beside its text and speech, as in lua/include/outbox.lua."""


def undelivered_changes(
    name: str,
    view: Session,
    outbox: Outbox,
    events: Mapping[str, Event],
    undelivered: Sequence[str],
    stored: Mapping[str, Any],
    at: str,
) -> Iterator[Change]:
    """Append each outcome again, or accept that the listener does not receive it.

    An outcome is appended if the listener still reads and has received no later outcome of the same
    speaker and target: the order of the numbers is kept. An outcome before a hole in the outbox
    needs no change: the listener learns at the hole that entries are gone. The numbers continue
    after the newest entry, so that no hole appears; a listener that had read an entry before it was
    lost may receive its outcome again.

    Args:
        name: The session of the listener, in the cell.
        view: Its record.
        outbox: Its outbox.
        events: The log entries of `undelivered` and of the results in the outbox, by id.
        undelivered: Ids of the log entries whose outcomes the outbox lacks, oldest first.
        stored: The state of the session.
        at: Last entry of the fold.
    """
    fields: Mapping[str, str] = stored["hash"]
    number, total = outbox.last
    if not outbox.ids:
        number = max(0, int(fields["out_no"]) - len(undelivered))
        total = int(fields["out_bytes"])
    out_no = fields["out_no"]
    last = _last_delivered(outbox, events)
    after_holes = _first_after_holes(outbox)
    for log_id in undelivered:
        event = events[log_id]
        delivery = delivery_of(event.data)
        assert delivery is not None
        if after_holes and parse_id(log_id) < after_holes:
            continue
        outcome = f"{outcome_key(delivery.target, delivery.delivery_no)} of {event.session}"
        change = Change(
            at=at,
            where=f"outbox:{name}",
            what=f"append {outcome} again",
            reason=f"log/{log_id} delivers it, and the outbox does not have it",
            gives_up="synthesised speech of the result" if event.body else "",
            session=view.session,
        )
        place = event.session, delivery.target
        if view.status == "closed" or delivery.delivery_no <= last.get(place, -1):
            yield msgspec.structs.replace(
                change,
                what=f"accept that {outcome} is not received",
                gives_up=f"{outcome} for the listener of {view.session}",
                accepts=log_id,
            )
            continue
        guard = (f"session:{name}", "out_no", out_no)
        number, total = number + 1, total + ENTRY_BYTES + len(event.body)
        out_no = str(number)
        key = f"outbox:{name}"
        entry = (
            "t",
            "result",
            "i",
            f"{number}:{total}",
            "d",
            _data(event, delivery),
            "b",
            event.body,
        )
        counters = ("HSET", f"session:{name}", "out_no", number, "out_bytes", total)
        yield msgspec.structs.replace(
            change, guards=(guard,), writes=(("XADD", key, *entry, "a", b""), counters)
        )


def _last_delivered(outbox: Outbox, events: Mapping[str, Event]) -> dict[tuple[str, str], int]:
    """The greatest delivery number of each speaker and target that the outbox has."""
    last: dict[tuple[str, str], int] = {}
    for log_id in outbox.delivered.values():
        event = events.get(log_id)
        delivery = delivery_of(event.data) if event is not None else None
        if event is not None and delivery is not None:
            place = event.session, delivery.target
            last[place] = max(last.get(place, -1), delivery.delivery_no)
    return last


def _first_after_holes(outbox: Outbox) -> tuple[int, int] | None:
    """The first log entry that is delivered after the last hole in the numbers."""
    if not outbox.holes:
        return None
    hole = parse_id(outbox.holes[-1])
    after = [
        parse_id(log_id) for entry_id, log_id in outbox.delivered.items()
        if parse_id(entry_id) >= hole
    ]  # fmt: skip
    return min(after, default=hole)


def _data(event: Event, delivery: Delivery) -> bytes:
    """The field `d` of the entry, as lua/include/delivery.lua writes it."""
    fields: dict[str, Any] = {"session": event.session, "utterance": delivery.utterance}
    fields |= {"target": delivery.target, "delivery_no": delivery.delivery_no}
    fields["outcome"] = delivery.outcome
    if delivery.code:
        fields["code"] = delivery.code
    return msgspec.json.encode(fields | {"log": event.id})
