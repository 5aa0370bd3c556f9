"""Defines a projection: a pure fold of events into records, one record per entity.

Owns: the protocol that read models implement, and the sets that are folded together.
Must not: do I/O with a server, or import `projections`.
Read next: installed.py (finds read models), projections/session.py (a read model),
roles/projector.py (runs projections).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import msgspec

from eventsched.errors import UnreadableRecord
from eventsched.schema.events import Event
from eventsched.schema.nesting import check_msgpack

Step = Callable[[Any, Event, Any], Any]
"""`step(view, event, data) -> view`: how one event type changes a record."""


@runtime_checkable
class Projection(Protocol):
    """A read model. The same events always give the same records."""

    name: str
    version: int
    """Increase it when the fold changes: a rebuild then makes the records of the new version."""
    view: Any
    """Type of a record: a frozen msgspec Struct, stored as msgpack; see `RecordCodec`."""
    handles: frozenset[str]
    """Event types that it folds; it gets no others."""

    def initial(self) -> Any:
        """The record of an entity without one; None if `apply` makes the first record."""

    def route(self, event: Event) -> Iterable[str]:
        """Ids of the records that the event changes."""

    def apply(self, view: Any, event: Event) -> Any:
        """The record after the event; None drops it. Raises if the event cannot be folded."""


@runtime_checkable
class RecordCodec(Protocol):
    """A projection that stores its records in several hash fields, `v` and others.

    A save then writes only the fields that have changed, and scripts can copy a field without
    decoding it. Without a codec, a record is one field, `v`. The name `at` is reserved for the id
    of the last event that changed the record.
    """

    def encode(self, view: Any, before: Any) -> Mapping[str, bytes]:
        """The fields to write: `v`, and the other fields that differ from `before`.

        `before` is the stored record; None if there is none. A field is never removed while the
        record exists.
        """

    def decode(self, fields: Mapping[str, bytes]) -> Any:
        """The record that these fields store. Raises msgspec.MsgspecError."""


@runtime_checkable
class HasParts(Protocol):
    """A projection whose records have parts with ids, `<record>/<part>`."""

    def part(self, view: Any, part: str) -> Any:
        """The part with this name; None if the record does not have it now."""


class ProjectionSet(msgspec.Struct, frozen=True):
    """Projections that one consumer group folds together."""

    name: str
    projections: tuple[Projection, ...]
    sessions: Callable[[Event], Iterable[str]] | None = None
    """Sessions (names in the cell) whose index `session_index:<session>` the event belongs to.

    A set with this function also writes the index of each node, `node_index:<node>`.
    """


def handled(steps: Mapping[type, Step]) -> frozenset[str]:
    """Names of the event types in a table of steps."""
    return frozenset(kind.__name__ for kind in steps)


def indexing_set(sets: Iterable[ProjectionSet]) -> ProjectionSet:
    """The set whose indexes list the events of each session and node: `core`."""
    return next(each for each in sets if each.sessions is not None)


class WholeRecordCodec:
    """Stores a record in one field, `v`."""

    def __init__(self, view: Any) -> None:
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(view).decode

    def encode(self, view: Any, _: Any) -> Mapping[str, bytes]:
        return {"v": self._encode(view)}

    def decode(self, fields: Mapping[str, bytes]) -> Any:
        return self._decode(check_msgpack(fields.get("v", b"")))


def decode_record(
    projection: Projection, codec: RecordCodec, entity: str, fields: Mapping[str, bytes]
) -> Any:
    """Return the record that these fields store. Raises UnreadableRecord."""
    try:
        return codec.decode(fields)
    except (msgspec.MsgspecError, ValueError, LookupError, RecursionError) as error:
        raise UnreadableRecord.of(projection.name, entity, error) from error


def record_codec(projection: Projection) -> RecordCodec:
    """How the records of a projection are stored."""
    return projection if isinstance(projection, RecordCodec) else WholeRecordCodec(projection.view)
