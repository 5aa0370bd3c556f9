"""Folding a batch of log entries into records held in memory.

Owns: decoding, routing, applying, what of it changed; that an event which cannot be folded
changes nothing of the projection that failed.
Never does: I/O. What a record was before must have been put in by `load`, unless the fold began
at the log's start and nothing has left memory: in a new revision for a while, in a complete
fold ever.
Read next: roles/projector.py, roles/rebuild.py, audit/verify.py: the three that fold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from eventsched.projection.protocol import Projection, ProjectionSet, record_codec
from eventsched.projection.store import Changes, Put
from eventsched.schema.codec import UndecodableEvent, decode
from eventsched.schema.events import Event
from eventsched.schema.keys import name_of
from eventsched.store.transport import Entry

CACHED_MAX = 20_000
"""Records of one projection that are kept in memory between batches."""


class FailedEvent(msgspec.Struct, frozen=True):
    """An entry that could not be folded, by which projections, and why."""

    id: str
    event: Event | None
    """None when it could not even be decoded."""
    projections: tuple[str, ...]
    reason: str
    session: str = ""
    """Whose it is, as far as its envelope says."""


Change: TypeAlias = "tuple[ProjectionState, str, Any]"
"""Whose record, of which entity, and what it becomes."""


class ProjectionState:
    """The records of one projection, as far as they are in memory, and what changed of them."""

    def __init__(
        self, projection: Projection, revision: str, *, is_new: bool = False, complete: bool = False
    ) -> None:
        self.projection = projection
        self.revision = revision
        self.complete = complete
        self.is_all_known = is_new or complete
        """Whether what is not in memory has no record."""
        self.views: dict[str, Any] = {}
        """Entity -> record; none when it is known to have no record."""
        self.changed: dict[str, str] = {}
        """Entity -> the last log id that changed it, since `forget_changes`."""
        self._saved: dict[str, Any] = {}
        """What is stored of those that changed; none where nothing is that could stay."""
        self._dropped: dict[str, None] = {}
        """Entities without a record at some moment since `forget_changes`."""
        self._route, self._apply = projection.route, projection.apply
        self._codec = record_codec(projection)

    def load(self, entity: str, fields: Mapping[str, bytes]) -> None:
        """The record as stored; no fields where there is none."""
        self.views[entity] = self._codec.decode(fields) if fields else None

    def unknown(self, events: Iterable[Event]) -> list[str]:
        """Entities that the events touch and that are not in memory."""
        if self.is_all_known:
            return []
        missing: dict[str, None] = {}
        handles, views, route = self.projection.handles, self.views, self._route
        for event in events:
            if event.type not in handles:
                continue
            try:
                entities = route(event)
            except KeyboardInterrupt:
                raise
            except BaseException:  # noqa: BLE001  raised again, and told, when it is folded
                continue
            for entity in entities:
                if entity not in views:
                    missing[entity] = None
        return list(missing)

    def compute(self, event: Event) -> list[Change]:
        """What the event makes of each record it touches. Changes nothing."""
        views, apply = self.views, self._apply
        staged = []
        for entity in self._route(event):
            before = views.get(entity) if self.is_all_known else views[entity]
            if before is None:
                before = self.projection.initial()
            after = apply(before, event)
            if after is not before:
                staged.append((self, entity, after))
        return staged

    def apply(self, entity: str, after: Any, event_id: str) -> None:
        """The record is this from now on; none drops it."""
        if after is None:
            self._drop(entity, event_id)
            return
        if entity not in self.changed and not self.complete:
            self._saved[entity] = self.views.get(entity)
        self.views[entity] = after
        self.changed[entity] = event_id

    def _drop(self, entity: str, event_id: str) -> None:
        if self.complete:
            self.views.pop(entity, None)
            self.changed.pop(entity, None)
        else:
            self._saved[entity] = self._dropped[entity] = self.views[entity] = None
            self.changed[entity] = event_id

    def record(self, entity: str) -> Mapping[str, bytes] | None:
        """All hash fields of a record but `at`; none where there is no record."""
        view = self.views.get(entity)
        return None if view is None else self._codec.encode(view, None)

    def decode(self, fields: Mapping[str, bytes]) -> Any:
        """The record that these fields are. Raises msgspec.MsgspecError."""
        return self._codec.decode(fields)

    def writes(self) -> Changes:
        """What to write and to drop, for all that changed. Who is dropped and there again is both:
        nothing of what was there before stays."""
        views, saved, encode = self.views, self._saved, self._codec.encode
        puts = [
            Put(entity, at, encode(view, saved[entity]))
            for entity, at in self.changed.items()
            if (view := views[entity]) is not None
        ]
        return Changes(self.projection.name, self.revision, puts, list(self._dropped))

    def forget_changes(self) -> None:
        """They are saved. Of too many records in memory the older half goes."""
        self.changed.clear()
        self._saved.clear()
        self._dropped.clear()
        if len(self.views) > CACHED_MAX and not self.complete:
            for entity in list(self.views)[: CACHED_MAX // 2]:
                del self.views[entity]
            self.is_all_known = False


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
        """`is_new` where no revision has a record yet; `complete` where none ever leaves memory."""
        self.parts = [
            ProjectionState(projection, revision, is_new=is_new, complete=complete)
            for projection, revision in zip(projections, revisions, strict=True)
        ]
        self._by_type: dict[str, list[ProjectionState]] = {}
        for part in self.parts:
            for kind in part.projection.handles:
                self._by_type.setdefault(kind, []).append(part)

    def fold(self, event: Event, *, whole: bool) -> FailedEvent | None:
        """Fold one event. If a projection raises: with `whole` nothing changes, else only that
        projection passes the event by.
        """
        staged: list[Change] = []
        failed: list[tuple[str, BaseException]] = []
        for part in self._by_type.get(event.type, ()):
            try:
                staged += part.compute(event)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001  users' code may call exit(), too: dead-lettered
                failed.append((part.projection.name, error))
        if not (failed and whole):
            for part, entity, after in staged:
                part.apply(entity, after, event.id)
        if not failed:
            return None
        names = tuple(name for name, _ in failed)
        return FailedEvent(event.id, event, names, _told(failed[0][1]), event.session)


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def decoded(entry: Entry) -> Event | FailedEvent:
    """The event of a log entry, or why there is none."""
    try:
        return decode(*entry)
    except UndecodableEvent as error:
        return FailedEvent(error.entry_id, None, (), error.reason, error.session)


def index_entries_of(one: Event | FailedEvent, projection_set: ProjectionSet) -> Iterable[str]:
    """Names of the sessions whose index it belongs to; what cannot be read is its session's."""
    if projection_set.sessions is None:
        return ()
    if isinstance(one, Event):
        return projection_set.sessions(one)
    name = name_of(one.session)
    return (name,) if name else ()


def in_order(entry_id: str) -> tuple[int, int]:
    """An entry id as what it is: two numbers. Comparing ids as text is wrong."""
    ms, _, seq = entry_id.partition("-")
    return int(ms), int(seq or 0)
