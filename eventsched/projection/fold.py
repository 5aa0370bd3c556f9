"""Folds log entries into records in memory.

Owns: decoding, routing and applying events; which records have changed; that an event which
cannot be folded changes no record of the projection that failed; the bounds of a record and of the
records in memory, in bytes.
Must not: do I/O. Call `load` with the stored record of an entity before an event changes it. That
is not needed if the fold began at the start of the log and has evicted nothing: a new revision
until its first eviction, a complete fold always.
Read next: roles/projector.py, roles/rebuild.py and audit/verify.py (the callers).
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from eventsched.projection.protocol import (
    Projection,
    ProjectionSet,
    decode_record,
    record_codec,
)
from eventsched.projection.store import Changes, Put
from eventsched.schema.codec import UndecodableEvent, UnreadableText, decode
from eventsched.schema.events import Event
from eventsched.schema.keys import name_of
from eventsched.store.transport import Entry

CACHED_BYTES_MAX = 64 * 1024 * 1024
"""Size of the records of one projection in memory between batches, as an estimate."""
ENTITY_BYTES = 1_024
"""What a record takes in memory beyond its size as it is stored, as an estimate."""
RECORD_BYTES_MAX = 1024 * 1024
"""Size of a record as it is stored. An event that makes a record larger becomes a dead letter."""
UNDERESTIMATE_MAX = 16
"""A record is at most this many times as large as its estimate."""
MEASURED_MIN = RECORD_BYTES_MAX // UNDERESTIMATE_MAX
"""Above this estimate the size of a record is measured."""
EVENT_BYTES = 256
"""An event makes a record larger by this much and its text, as an estimate until it is stored."""
ENTITY_ID_BYTES_MAX = 1_024
"""Size of an entity's id: `load_views` and `read_views` take no larger one. An event that changes
an entity with a larger id becomes a dead letter."""
LARGE_MIN = 256
"""An event that changes more records of a projection is folded in a batch of its own."""


class FailedEvent(msgspec.Struct, frozen=True):
    """A log entry that could not be folded, and why."""

    id: str
    event: Event | None
    """None if the entry could not be decoded."""
    projections: tuple[str, ...]
    """The projections that raised; empty if the entry could not be decoded."""
    reason: str
    session: str = ""
    """The session of the event, if its envelope can be read."""
    is_permanent: bool = False
    """Whether every further try would fail as well: no decoder reads the entry or its text, or a
    record would be too large.
    """
    too_large: frozenset[str] = frozenset()
    """The records that would be too large, if nothing else failed."""
    cell: str = ""
    """Name of the cell whose log has the entry, if a client has read it by `events`."""
    fields: Mapping[str, bytes] = {}
    """The stored fields by name, such as the type `t`, of an entry that could not be decoded."""


Change: TypeAlias = "tuple[ProjectionState, str, Any, int]"
"""(projection, entity, new record, its size)."""


class RecordTooLarge(Exception):
    """An event would make a record larger than RECORD_BYTES_MAX."""

    def __init__(self, record: str, size: int) -> None:
        super().__init__(f"record {record} has {size:,} B, at most {RECORD_BYTES_MAX:,} B")
        self.record = record


class InvalidEntity(Exception):
    """An event would change a record whose id no script takes."""


class ProjectionState:
    """The records of one projection that are in memory, and which of them have changed."""

    def __init__(
        self, projection: Projection, revision: str, *, is_new: bool = False, complete: bool = False
    ) -> None:
        self.projection = projection
        self.revision = revision
        self.complete = complete
        self.is_all_loaded = is_new or complete
        """Whether an entity that is not in memory has no record."""
        self.views: dict[str, Any] = {}
        """Entity -> record; None for an entity without a record. Least recently changed first."""
        self.bytes = 0
        """Size of the records in memory, as an estimate."""
        self._sizes: dict[str, int] = {}
        self._measure_at: dict[str, int] = {}
        """Entity -> the estimate above which its large record is measured again. So a large record
        is not encoded for each event, and none passes RECORD_BYTES_MAX unnoticed."""
        self.changed: dict[str, str] = {}
        """Entity -> id of the last event that changed its record since `clear_changes`."""
        self._saved: dict[str, Any] = {}
        """Entity -> its stored record if it has changed; None if no stored field may remain."""
        self._dropped: dict[str, None] = {}
        """Entities whose record was dropped since `clear_changes`, even if they have one again."""
        self._route, self._apply = projection.route, projection.apply
        self._codec = record_codec(projection)

    def load(self, entity: str, fields: Mapping[str, bytes]) -> None:
        """Put the stored record of an entity into memory; no fields: it has none.

        Raises UnreadableRecord.
        """
        self.views[entity] = self.decode(entity, fields) if fields else None
        self._set_size(entity, ENTITY_BYTES + sum(map(len, fields.values())))

    def _set_size(self, entity: str, size: int) -> None:
        self.bytes += size - self._sizes.get(entity, 0)
        self._sizes[entity] = size

    def unknown(self, events: Sequence[Event]) -> tuple[list[str], int]:
        """Entities that the events change and that are not in memory, and of how many events.

        A large event ends the list before it, or is alone.
        """
        missing: dict[str, None] = {}
        if self.is_all_loaded:
            return [], len(events)
        handles, views, route = self.projection.handles, self.views, self._route
        for at, event in enumerate(events):
            if event.type not in handles:
                continue
            try:
                entities = _checked(route(event))
            except KeyboardInterrupt:
                raise
            except BaseException:  # noqa: BLE001  raised again by `compute`
                continue
            if len(entities) >= LARGE_MIN and at:
                return list(missing), at
            for entity in entities:
                if entity not in views:
                    missing[entity] = None
            if len(entities) >= LARGE_MIN:
                return list(missing), 1
        return list(missing), len(events)

    def compute(self, event: Event) -> list[Change]:
        """The changes that the event makes. Applies none of them."""
        views, apply, sizes = self.views, self._apply, self._sizes
        is_all_loaded, changes = self.is_all_loaded, []
        for entity in _checked(self._route(event)):
            before = views.get(entity) if is_all_loaded else views[entity]
            if before is None:
                before = self.projection.initial()
            after = apply(before, event)
            if after is before:
                continue
            size = sizes.get(entity, ENTITY_BYTES) + EVENT_BYTES + len(event.body)
            if size > MEASURED_MIN and after is not None:
                size = self._measured_again(entity, after, size)
            changes.append((self, entity, after, size))
        return changes

    def _measured_again(self, entity: str, view: Any, size: int) -> int:
        """The size of a large record: measured if the estimate has reached the next measurement.

        Raises RecordTooLarge.
        """
        is_due = size > self._measure_at.get(entity, MEASURED_MIN)
        return self._measured(entity, view) if is_due else size

    def _measured(self, entity: str, view: Any) -> int:
        """The size of a record as it is stored. Raises RecordTooLarge."""
        size = sum(map(len, self._codec.encode(view, None).values()))
        if size > RECORD_BYTES_MAX:
            raise RecordTooLarge(f"{self.projection.name} {entity}", size)
        size += ENTITY_BYTES
        self._measure_at[entity] = size + max(0, RECORD_BYTES_MAX - size) // UNDERESTIMATE_MAX
        return size

    def apply(self, entity: str, after: Any, size: int, event_id: str) -> None:
        """Replace the record of an entity; None drops it."""
        if after is None:
            self._drop(entity, event_id)
            return
        views, changed, sizes = self.views, self.changed, self._sizes
        before = views.pop(entity, None)
        if entity not in changed and not self.complete:
            self._saved[entity] = before
        views[entity] = after
        changed[entity] = event_id
        self.bytes += size - sizes.get(entity, 0)
        sizes[entity] = size

    def _drop(self, entity: str, event_id: str) -> None:
        self._set_size(entity, ENTITY_BYTES)
        if self.complete:
            self.views.pop(entity, None)
            self.changed.pop(entity, None)
            self.bytes -= self._sizes.pop(entity)
            self._measure_at.pop(entity, None)
        else:
            self._saved[entity] = self._dropped[entity] = self.views[entity] = None
            self.changed[entity] = event_id

    def record(self, entity: str) -> Mapping[str, bytes] | None:
        """All hash fields of a record except `at`; None if there is no record."""
        view = self.views.get(entity)
        return None if view is None else self._codec.encode(view, None)

    def decode(self, entity: str, fields: Mapping[str, bytes]) -> Any:
        """The record of the entity that these fields store. Raises UnreadableRecord."""
        return decode_record(self.projection, self._codec, entity, fields)

    def writes(self) -> Changes:
        """The records to write and to drop.

        A record that was dropped and made again is in both, so that no earlier field remains.
        """
        puts = [self._put(entity) for entity in self.changed if self.views[entity] is not None]
        return Changes(self.projection.name, self.revision, puts, list(self._dropped))

    def _put(self, entity: str) -> Put:
        before = self._saved[entity]
        fields = self._codec.encode(self.views[entity], before)
        if before is None:  # otherwise some fields may be left out
            self._set_size(entity, ENTITY_BYTES + sum(map(len, fields.values())))
        return Put(entity, self.changed[entity], fields, before is None)

    def clear_changes(self) -> None:
        """Forget the changes after a save."""
        self.changed.clear()
        self._saved.clear()
        self._dropped.clear()

    def evict(self) -> Changes:
        """Remove the least recently changed records if all of them are too large together.

        Returns the records that must be stored before they are loaded again.
        """
        changes = Changes(self.projection.name, self.revision)
        if self.bytes <= CACHED_BYTES_MAX or self.complete:
            return changes
        entities = []
        for entity in self.views:
            if self.bytes <= CACHED_BYTES_MAX * 3 // 4:
                break
            self.bytes -= self._sizes.pop(entity)
            entities.append(entity)
        unsaved = [each for each in entities if each in self.changed]
        puts = [self._put(entity) for entity in unsaved if self.views[entity] is not None]
        drops = list(self._dropped)
        self._dropped.clear()
        for entity in entities:
            if entity in self.changed:
                del self.changed[entity], self._saved[entity]
            self.bytes -= self._sizes.pop(entity, 0)
            self._measure_at.pop(entity, None)
            del self.views[entity]
        self.is_all_loaded = False
        return Changes(self.projection.name, self.revision, puts, drops)


class Folding:
    """The projections of one set, folded event by event."""

    def __init__(
        self,
        projections: Sequence[Projection],
        revisions: Sequence[str],
        *,
        is_new: bool = False,
        complete: bool = False,
    ) -> None:
        """`is_new`: no revision has a record yet. `complete`: no record is ever evicted."""
        self.parts = [
            ProjectionState(projection, revision, is_new=is_new, complete=complete)
            for projection, revision in zip(projections, revisions, strict=True)
        ]
        self._by_type: dict[str, list[ProjectionState]] = {}
        for part in self.parts:
            for kind in part.projection.handles:
                self._by_type.setdefault(kind, []).append(part)

    def fold(self, event: Event, *, atomic: bool) -> FailedEvent | None:
        """Fold an event; return a FailedEvent if a projection raises.

        With `atomic` a failure changes no record; without it the other projections fold the event.
        """
        changes: list[Change] = []
        failed: list[tuple[str, BaseException]] = []
        for part in self._by_type.get(event.type, ()):
            try:
                changes += part.compute(event)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001  also SystemExit of a user's code
                failed.append((part.projection.name, error))
        if not (failed and atomic):
            for part, entity, after, size in changes:
                part.apply(entity, after, size, event.id)
        if not failed:
            return None
        names = tuple(name for name, _ in failed)
        is_permanent = all(isinstance(error, _PERMANENT) for _, error in failed)
        reason = _describe(failed[0][1])
        too_large = [error.record for _, error in failed if isinstance(error, RecordTooLarge)]
        if len(too_large) < len(failed):
            too_large = []
        return FailedEvent(
            event.id, event, names, reason, event.session, is_permanent, frozenset(too_large)
        )


_PERMANENT = (UnreadableText, RecordTooLarge, InvalidEntity)
"""Errors that every further try would raise again."""


def _checked(entities: Iterable[str]) -> list[str]:
    """The entities in a list. Raises InvalidEntity if an id is not a text that scripts take.

    Ids come from names in events, which any program may have written.
    """
    listed = list(entities)
    for entity in listed:
        if not isinstance(entity, str):
            raise InvalidEntity(f"the id of a record is of the type {type(entity).__name__}")
        size = len(entity) if entity.isascii() else len(entity.encode(errors="surrogatepass"))
        if size > ENTITY_ID_BYTES_MAX:
            most = f"at most {ENTITY_ID_BYTES_MAX:,} B"
            raise InvalidEntity(f"the id of record {entity[:40]!r} has {size:,} B, {most}")
    return listed


def _describe(error: BaseException) -> str:
    """The type and the text of an error of a projection, and the file and line that raised it."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, _PERMANENT):  # raised here, and the text says all
        return text
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{text} ({'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno})"


def decode_event(entry: Entry) -> Event | FailedEvent:
    """The event of a log entry, or a FailedEvent if it cannot be decoded."""
    try:
        return decode(*entry)
    except UndecodableEvent as error:
        return FailedEvent(
            error.entry_id,
            None,
            (),
            error.reason,
            error.session,
            is_permanent=True,
            fields=_by_name(entry[1]),
        )


def _by_name(fields: Sequence[bytes]) -> dict[str, bytes]:
    """The fields of an entry that any program may have written."""
    names = (name.decode(errors="replace") for name in fields[::2])
    return dict(zip(names, fields[1::2], strict=False))


def sessions_of(event: Event | FailedEvent, projection_set: ProjectionSet) -> Iterable[str]:
    """Names of the sessions whose index lists the event; a failed one is listed by its session."""
    if projection_set.sessions is None:
        return ()
    if isinstance(event, Event):
        return projection_set.sessions(event)
    name = name_of(event.session)
    return (name,) if name else ()
