"""Tests of a read model's fold, without a server.

Owns: events that a test gives, and folding them as a projector does.
Must not: connect to a server.
Read next: projection/protocol.py, docs/read-models.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from eventsched.errors import InvalidMessage, UnreadableRecord
from eventsched.projection.protocol import Projection, decode_record, record_codec
from eventsched.schema.codec import encode_text
from eventsched.schema.events import AnyData, Event, Text

SESSION = "c0.test"


def event(
    data: AnyData,
    *,
    ms: int = 1,
    session: str = SESSION,
    job: str = "",
    node: str = "",
    text: Text | None = None,
) -> Event:
    """Return an event of a test.

    Args:
        data: The data of its type, such as `SessionOpened(tenant="acme", source="en")`.
        ms: Its time in milliseconds.
        session: Full id of its session.
        job: Key of its job.
        node: Full id of its node.
        text: The text of a result.
    """
    body = encode_text(text) if text is not None else b""
    return Event(
        id=f"{ms}-0",
        type=type(data).__name__,
        session=session,
        job=job,
        node=node,
        data=data,
        body=body,
    )


def fold(projection: Projection, events: Iterable[Event]) -> dict[str, Any]:
    """Return the records that a read model makes of events, by id.

    Events of other types than the read model handles are passed over, as a projector does. Each
    record is stored and read once, so that a record which cannot be stored fails the test.

    Args:
        projection: The read model.
        events: Events in their order.

    Raises:
        InvalidMessage: The object is no read model.
        UnreadableRecord: A record differs after it was stored and read.
        Exception: What the fold raised; a projector would make a dead letter of the event.
    """
    if not isinstance(projection, Projection):
        raise InvalidMessage.of(
            "projection", f"{projection!r:.80} is no read model", "see docs/read-models.md"
        )
    records: dict[str, Any] = {}
    for each in events:
        if each.type not in projection.handles:
            continue
        for entity in projection.route(each):
            before = records.pop(entity, None)
            after = projection.apply(projection.initial() if before is None else before, each)
            if after is not None:
                records[entity] = after
    codec = record_codec(projection)
    for entity, record in records.items():
        stored = decode_record(projection, codec, entity, codec.encode(record, None))
        if stored != record:
            raise UnreadableRecord.of(projection.name, entity, f"it is read as {stored!r:.200}")
    return records
