"""One batch of the log, folded: what it changes, and how far it got.

Owns: loading what the batch touches, the bounded tries of what cannot be folded, the indexes.
Never does: reading the log, saving. Read next: roles/projector.py, roles/rebuild.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import anyio.lowlevel
import msgspec

from eventsched.projection.fold import FailedEvent, Folding, decoded, index_entries_of
from eventsched.projection.protocol import ProjectionSet
from eventsched.projection.store import Changes, Dead, ProjectionStore
from eventsched.schema.events import Event
from eventsched.store.transport import Entry

STRETCH = 100
"""Entries folded at a stretch. In between, what has come of the next read is taken in: without
pauses an answer of many pieces would be complete only when the fold has to wait for it."""
TRIES_MAX = 3
"""An entry that cannot be folded is tried this often and then dead-lettered."""


class Batch(msgspec.Struct, frozen=True):
    """What a run of entries changes."""

    to: str
    """Last log id folded; empty when not even the first entry could be."""
    count: int
    indexes: dict[str, list[str]]
    dead_letters: Sequence[FailedEvent]
    """Entries that no further try will fold."""
    failed: FailedEvent | None
    """What stopped it: to be tried again."""


class Batches:
    """Folds batch after batch of one set, in order. What is not saved yet adds up."""

    def __init__(
        self,
        views: ProjectionStore,
        projection_set: ProjectionSet,
        folding: Folding,
        *,
        tries_max: int,
    ) -> None:
        self._views = views
        self._set = projection_set
        self._folding = folding
        self._tries_max = tries_max
        self._tries: dict[str, int] = {}

    async def fold(self, entries: Sequence[Entry]) -> Batch:
        """Fold as many as can be; what changes adds up until `saved`."""
        found = [decoded(entry) for entry in entries]
        await self._load([event for event in found if isinstance(event, Event)])
        dead_letters: list[FailedEvent] = []
        failed, count = None, len(found)
        fold = self._folding.fold
        for at, one in enumerate(found):
            if at and at % STRETCH == 0:
                await anyio.lowlevel.checkpoint()
            unfolded = fold(one, whole=True) if isinstance(one, Event) else one
            if unfolded is None:
                continue
            if unfolded.event is not None:  # what cannot be decoded never will be
                if self._has_more_tries(unfolded.id):
                    failed, count = unfolded, at
                    break
                fold(unfolded.event, whole=False)  # passed by, by those that failed alone
            dead_letters.append(unfolded)
        done = found[:count]
        return Batch(
            done[-1].id if done else "", count, self._index_entries(done), dead_letters, failed
        )

    def _has_more_tries(self, entry_id: str) -> bool:
        """Counts one that has failed."""
        tries = self._tries.pop(entry_id, 0) + 1
        if tries < self._tries_max:
            self._tries[entry_id] = tries
        return tries < self._tries_max

    def _index_entries(self, done: Sequence[Event | FailedEvent]) -> dict[str, list[str]]:
        """Session -> the ids in `done` that belong to its index."""
        indexes: dict[str, list[str]] = {}
        if self._set.sessions is not None:
            for one in done:
                for session in index_entries_of(one, self._set):
                    indexes.setdefault(session, []).append(one.id)
        return indexes

    async def _load(self, events: Sequence[Event]) -> None:
        for part in self._folding.parts:
            entities = part.unknown(events)
            if entities:
                stored = await self._views.load(part.projection.name, part.revision, entities)
                for entity, record in zip(entities, stored, strict=True):
                    part.load(entity, record)

    @property
    def changed(self) -> int:
        """How many records have changed since `saved`."""
        return sum(len(part.changed) for part in self._folding.parts)

    def writes(self) -> list[Changes]:
        """Of each projection, the records to write and to drop: all that changed since `saved`."""
        return [part.writes() for part in self._folding.parts]

    def saved(self) -> None:
        """What changed is stored."""
        for part in self._folding.parts:
            part.forget_changes()

    def dead(self, unfolded: FailedEvent) -> Dead:
        """The entry in `dead` for what was passed by."""
        told = {
            "set": self._set.name,
            "projections": unfolded.projections,
            "tries": self._tries_max,
        }
        kind = unfolded.event.type if unfolded.event else ""
        return Dead(unfolded.id, kind, msgspec.json.encode(told), unfolded.reason)
