"""What a projection is: a pure fold of events into records, one record per entity.

Owns: the protocol that read models implement, and how they are found by entry point.
Never does: I/O with a server; it never imports `projections` (entry points do).
Read next: projections/session.py (one read model), roles/projector.py (what runs them).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any, Protocol, runtime_checkable

import msgspec

from eventsched.schema.events import Event

ENTRY_POINTS = "eventsched.projections"
Step = Callable[[Any, Event, Any], Any]
"""`step(view, event, data) -> view`: what one event type does to a record."""


@runtime_checkable
class Projection(Protocol):
    """One read model. Folding the same events gives the same records, whenever it is done."""

    name: str
    version: int
    """Raised when the fold changes its meaning: a rebuild makes the new version's records."""
    view: Any
    """Type of a record (a frozen msgspec Struct); it is stored as msgpack, see `RecordCodec`."""
    handles: frozenset[str]
    """Event types that it folds; others pass it by."""

    def initial(self) -> Any:
        """The record of an entity that has none yet; none where an event must make it."""

    def route(self, event: Event) -> Iterable[str]:
        """Ids of the records that the event touches."""

    def apply(self, view: Any, event: Event) -> Any:
        """The record after the event; none drops it. Raises when it cannot be folded."""


@runtime_checkable
class RecordCodec(Protocol):
    """A projection that says which hash fields its records are stored as, `v` and others.

    A save then writes what has changed alone, and scripts can copy a field unread. Without it, a
    record is one field, `v`. `at` is not to be had: it says what changed the record last.
    """

    def encode(self, view: Any, before: Any) -> Mapping[str, bytes]:
        """`v`, and of the other fields those that are not as `before` has them, which is what is
        stored now (none: nothing). A field is never taken away while the record lives."""

    def decode(self, fields: Mapping[str, bytes]) -> Any:
        """The record that was stored so. Raises msgspec.MsgspecError when it cannot be read."""


@runtime_checkable
class HasParts(Protocol):
    """A projection whose records hold several things that have ids, `<record>/<part>`."""

    def part(self, view: Any, part: str) -> Any:
        """The part that is so called; none when the record does not hold it now."""


class ProjectionSet(msgspec.Struct, frozen=True):
    """Projections that one consumer group folds in one pass."""

    name: str
    projections: tuple[Projection, ...]
    sessions: Callable[[Event], Iterable[str]] | None = None
    """Sessions (names in the cell) whose index `session_index:<session>` the event belongs to."""


def handled(steps: Mapping[type, Step]) -> frozenset[str]:
    """Names of the event types that a table of steps folds."""
    return frozenset(kind.__name__ for kind in steps)


def load_sets() -> Sequence[ProjectionSet]:
    """The sets that are installed: the built-in `core` and users' own, a set each."""
    found = [_as_set(point.name, point.load()) for point in entry_points(group=ENTRY_POINTS)]
    return sorted(found, key=lambda one: one.name)


def trailing(sets: Iterable[ProjectionSet]) -> ProjectionSet:
    """The one set whose indexes say which events belong to a session: `core`."""
    return next(one for one in sets if one.sessions is not None)


def _as_set(name: str, loaded: Any) -> ProjectionSet:
    if isinstance(loaded, ProjectionSet):
        return loaded
    projection = loaded() if isinstance(loaded, type) else loaded
    if not isinstance(projection, Projection):
        raise TypeError(f"entry point {name!r} in {ENTRY_POINTS} is no projection: {loaded!r}")
    return ProjectionSet(projection.name, (projection,))


class WholeRecordCodec:
    """Stores all of a record in one field, `v`."""

    def __init__(self, view: Any) -> None:
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(view).decode

    def encode(self, view: Any, _: Any) -> Mapping[str, bytes]:
        return {"v": self._encode(view)}

    def decode(self, fields: Mapping[str, bytes]) -> Any:
        return self._decode(fields.get("v", b""))


def record_codec(projection: Projection) -> RecordCodec:
    """How the records of a projection are stored."""
    return projection if isinstance(projection, RecordCodec) else WholeRecordCodec(projection.view)
