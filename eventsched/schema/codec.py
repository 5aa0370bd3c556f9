"""The codec of stream entries: bytes <-> Event, bytes <-> Text.

Owns: the encoding of the nine fields and of the texts in bodies. An entry of an unknown type or
version raises UndecodableEvent, so that readers skip and count it; a body that is not a text raises
UnreadableText. So does a value that is nested beyond 32 levels.
Never does: I/O. Read next: events.py, upcasting.py, nesting.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, get_args

import msgspec

from eventsched.schema import events
from eventsched.schema.keys import FULL_ID
from eventsched.schema.nesting import check_json, check_msgpack
from eventsched.schema.upcasting import upcast

_DECODERS: dict[bytes, tuple[str, Callable[[bytes], Any]]] = {
    kind.__name__.encode(): (kind.__name__, msgspec.json.Decoder(kind).decode)
    for kind in get_args(events.AnyData)
}
"""Stored type -> its name and the decoder of its data."""
_is_full_id = re.compile(FULL_ID.pattern.encode()).fullmatch
IDS_MAX = 8_192
"""Ids of sessions and nodes in memory: the same ones recur from event to event."""
_TEXT = msgspec.msgpack.Decoder(events.Text)
_CURRENT_VERSION = str(events.SCHEMA_VERSION).encode()


class UndecodableEvent(Exception):
    """Raised when an entry is not an event that this program knows; `reason` explains it."""

    def __init__(self, entry_id: str, reason: str, session: str = "") -> None:
        self.entry_id, self.reason = entry_id, reason
        self.session = session
        """The entry's session, from the envelope; it has the same form in every version."""
        super().__init__(f"{entry_id}: {reason}")


class UnreadableText(Exception):
    """Raised when a body is not an encoded Text.

    Functions store no such body of a result (lua/include/result_text.lua). A partial result, an
    encrypted text and an entry that another program has written may have one.
    """


def decode(entry_id: bytes | str, fields: Sequence[bytes]) -> events.Event:
    """Return the event of one entry; data of an earlier version is upcast.

    Args:
        entry_id: the id of the entry.
        fields: the flat list [name, value, …] in the order of `FIELDS`.

    Raises:
        UndecodableEvent: another layout, an unknown type, a later version or malformed data.
    """
    id_ = entry_id if isinstance(entry_id, str) else entry_id.decode()
    if len(fields) != 18:
        raise UndecodableEvent(id_, f"{len(fields) // 2} fields instead of 9")
    _, kind, _, version, _, session, _, job, _, node, _, cause, _, trace, _, data, _, body = fields
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise _undecodable(id_, f"unknown type {kind.decode(errors='replace')}", session)
    name, decode_data = decoder
    session_id, node_id = _full_id(session), _full_id(node)
    if session_id is None or node_id is None:
        raise _undecodable(id_, f"{name}: session or node is no full id", session)
    try:
        check_json(data)
        if version != _CURRENT_VERSION:
            data = upcast(name, int(version), data)
        return events.Event(
            id=id_,
            type=name,
            session=session_id,
            job=job.decode(),
            node=node_id,
            cause=cause.decode(),
            traceparent=trace.decode(),
            data=decode_data(data),
            body=body,
        )
    except (msgspec.DecodeError, ValueError) as error:
        raise _undecodable(id_, f"{name}: {error}", session) from error


@lru_cache(IDS_MAX)
def _full_id(stored: bytes) -> str | None:
    """Return the full id, or the empty text of an absent one; None if the bytes are neither.

    The events of a session share one text, whose hash Python computes once.
    """
    return stored.decode() if not stored or _is_full_id(stored) else None


def _undecodable(id_: str, reason: str, session: bytes) -> UndecodableEvent:
    """The session of the error is empty if it is no full id, which would be of any session."""
    return UndecodableEvent(id_, reason, session.decode() if _is_full_id(session) else "")


def encode(event: events.Event) -> dict[str, bytes]:
    """Return the nine fields of an event in the order of `FIELDS`, as scripts write them."""
    data = msgspec.to_builtins(event.data)
    data.pop("type")
    return {
        "t": event.type.encode(),
        "v": str(event.v).encode(),
        "s": event.session.encode(),
        "j": event.job.encode(),
        "n": event.node.encode(),
        "c": event.cause.encode(),
        "tp": event.traceparent.encode(),
        "d": msgspec.json.encode(data),
        "b": event.body,
    }


def decode_text(body: bytes) -> events.Text:
    """Return the text of a result; an empty body is an empty text. Raises UnreadableText."""
    try:
        return _TEXT.decode(check_msgpack(body)) if body else events.Text()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnreadableText(str(error)) from error


def encode_text(text: events.Text) -> bytes:
    return msgspec.msgpack.encode(text)


def flat(fields: Mapping[str, bytes]) -> list[bytes]:
    """Return the flat list [name, value, …] that `decode` takes."""
    return [part for name, value in fields.items() for part in (name.encode(), value)]
