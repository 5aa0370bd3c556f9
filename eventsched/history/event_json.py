"""The JSON of an event, as the command line and gateways show it.

Owns: the fields of the object, the text of a result in it. Must not: do I/O.
Read next: reader.py, schema/events.py (the event types).
"""

from __future__ import annotations

import base64
from typing import Any

import msgspec
from msgspec.structs import replace

from eventsched.formatting import utc_time
from eventsched.projection.fold import FailedEvent
from eventsched.schema import codec, events
from eventsched.schema.events import AttemptEnded, Event

TYPES_WITH_TEXT = frozenset({"ResultRecorded", "ResultReplaced", "ResultDelivered"})


HIDDEN_REASON = "the reason may quote what was spoken, which this token hides"
"""In place of a text that an exception of a projection or of a decoder has."""


def event_json(event: Event | FailedEvent, *, texts: bool = True) -> dict[str, Any]:
    """Return the event as a JSON object, with its text if it has one.

    Args:
        event: The event, or an entry that cannot be decoded.
        texts: Include what was spoken, and the messages of handlers and of entries that cannot be
            decoded, which may quote it.
    """
    if isinstance(event, FailedEvent):
        return {"id": event.id, "undecodable": event.reason if texts else HIDDEN_REASON}
    data = msgspec.to_builtins((event if texts else without_error_message(event)).data)
    data.pop("type")
    result = {
        "id": event.id,
        "time": utc_time(event.ms),
        "type": event.type,
        "v": event.v,
        "session": event.session,
        "job": event.job,
        "node": event.node,
        "cause": event.cause,
        "traceparent": event.traceparent,
        "data": data,
    }
    if not texts:
        return result
    text = text_of(event)
    if text is not None:
        result["text"] = text
    elif event.body:
        result["body"] = base64.b64encode(event.body).decode()
    return result


def without_error_message(event: Event) -> Event:
    """Return the event without the message of a handler's exception, which may quote a text."""
    if not isinstance(event.data, AttemptEnded) or not event.data.error_message:
        return event
    return replace(event, data=replace(event.data, error_message=""))


def text_of(event: Event) -> events.Text | None:
    """Return the text of a result; None if the event has none, or it cannot be decoded."""
    if event.type not in TYPES_WITH_TEXT or not event.body:
        return None
    try:
        return codec.decode_text(event.body)
    except codec.UnreadableText:
        return None  # the JSON has the body in base64
