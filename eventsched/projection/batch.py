"""Folds a batch of log entries for a projection set.

Owns: loading the records that the batch changes, the bounded tries of an entry that cannot be
folded, the indexes of sessions and nodes. An event that changes very many records is a batch of its
own.
Must not: read the log, or save.
Read next: fold.py, roles/projector.py, roles/rebuild.py (the callers).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import msgspec

from eventsched.projection.fold import (
    FailedEvent,
    Folding,
    ProjectionState,
    decode_event,
    sessions_of,
)
from eventsched.projection.protocol import ProjectionSet
from eventsched.projection.store import Changes, DeadLetter, ProjectionStore
from eventsched.schema.events import Event, JobFailed, SessionClosed
from eventsched.schema.keys import name_of
from eventsched.store.transport import Entry

ENTRIES_PER_TURN = 100
"""Entries folded before the event loop gets a turn, in which it receives the next read."""
REASON_MAX = 4_096
"""Characters of a reason that a dead letter has."""
TRIES_MAX = 3
"""Tries of an entry that cannot be folded before it becomes a dead letter."""
LOADED_PER_RENEWAL = 512
"""Records loaded between two renewals of the lease: some 10 ms."""


_ENDS = (SessionClosed, JobFailed)


async def _no_renewal() -> None:
    """For a fold whose lease is renewed elsewhere."""


class Batch(msgspec.Struct, frozen=True):
    """The result of folding a batch."""

    to: str
    """Id of the last folded entry; empty if the first entry failed."""
    count: int
    indexes: dict[str, list[str]]
    """Session -> the ids of the batch that its index lists."""
    node_indexes: dict[str, list[str]]
    """Node -> the ids of the batch that its index lists."""
    dead_letters: Sequence[FailedEvent]
    """Entries that were skipped after their last try."""
    repeated: Sequence[FailedEvent]
    """Entries that were skipped because of records that have a dead letter already: a record that
    is too large gets one, whatever the number of events that it cannot take."""
    failed: FailedEvent | None
    """The entry that stopped the batch, to be tried again; None if all were folded."""
    ends: Sequence[Event] = ()
    """Events of the batch that end a session, or a job as failed."""


class BatchProcessor:
    """Folds the batches of one set in order. Changes accumulate until `saved`.

    `renew` is awaited between the calls of a load of very many records.
    """

    def __init__(
        self,
        store: ProjectionStore,
        projection_set: ProjectionSet,
        folding: Folding,
        *,
        tries_max: int,
        renew: Callable[[], Awaitable[None]] = _no_renewal,
    ) -> None:
        self._store = store
        self._set = projection_set
        self._folding = folding
        self._tries_max = tries_max
        self._renew = renew
        self._tries: dict[str, int] = {}
        self._too_large: set[str] = set()
        """Records with a dead letter because they were too large."""

    async def fold(self, entries: Sequence[Entry]) -> Batch:
        """Fold entries up to the first one that fails and has tries left.

        A large event is folded alone: the batch ends before it, or has no other entry.
        """
        events = [decode_event(entry) for entry in entries]
        events = events[: await self._load(events)]
        dead_letters: list[FailedEvent] = []
        repeated: list[FailedEvent] = []
        failed, count = None, len(events)
        fold = self._folding.fold
        for at, event in enumerate(events):
            if at and at % ENTRIES_PER_TURN == 0:
                await self._store.transport.sleep(0)
            failure = fold(event, atomic=True) if isinstance(event, Event) else event
            if failure is None:
                continue
            if not failure.is_permanent and self._has_more_tries(failure.id):
                failed, count = failure, at
                break
            if failure.event is not None:  # only the projections that fail skip the event
                fold(failure.event, atomic=False)
            if failure.too_large and failure.too_large <= self._too_large:
                repeated.append(failure)
            else:
                self._too_large |= failure.too_large
                dead_letters.append(failure)
        done = events[:count]
        last_id = done[-1].id if done else ""
        indexes, node_indexes = self._index_entries(done)
        ends = [
            event for event in done if isinstance(event, Event) and isinstance(event.data, _ENDS)
        ]
        return Batch(last_id, count, indexes, node_indexes, dead_letters, repeated, failed, ends)

    def _has_more_tries(self, entry_id: str) -> bool:
        """Count a failed try of the entry."""
        tries = self._tries.pop(entry_id, 0) + 1
        if tries < self._tries_max:
            self._tries[entry_id] = tries
        return tries < self._tries_max

    def _index_entries(
        self, done: Sequence[Event | FailedEvent]
    ) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """Session and node -> the ids in `done` that their indexes list."""
        indexes: dict[str, list[str]] = {}
        node_indexes: dict[str, list[str]] = {}
        if self._set.sessions is not None:
            for event in done:
                for session in sessions_of(event, self._set):
                    indexes.setdefault(session, []).append(event.id)
                if isinstance(event, Event) and event.node:
                    node_indexes.setdefault(name_of(event.node), []).append(event.id)
        return indexes, node_indexes

    async def _load(self, entries: Sequence[Event | FailedEvent]) -> int:
        """Load the records that the entries change. Returns how many entries form the batch."""
        events = [event for event in entries if isinstance(event, Event)]
        count = len(events)
        for part in self._folding.parts:
            entities, part_count = part.unknown(events[:count])
            count = min(count, part_count)
            for first in range(0, len(entities), LOADED_PER_RENEWAL):
                if first:
                    await self._renew()
                await self._load_some(part, entities[first : first + LOADED_PER_RENEWAL])
        if count == len(events):
            return len(entries)
        return next(at for at, event in enumerate(entries) if event is events[count])

    async def _load_some(self, part: ProjectionState, entities: Sequence[str]) -> None:
        stored = await self._store.load(part.projection.name, part.revision, entities)
        for entity, record in zip(entities, stored, strict=True):
            part.load(entity, record)

    def writes(self) -> list[Changes]:
        """For each projection, the records to write and to drop since `saved`."""
        return [part.writes() for part in self._folding.parts]

    def saved(self) -> None:
        """Call after the changes are stored."""
        for part in self._folding.parts:
            part.clear_changes()
            part.evict()

    def evict(self) -> list[Changes]:
        """Bound the memory. Returns the changes that must be stored before the next batch."""
        evicted = [part.evict() for part in self._folding.parts]
        return [changes for changes in evicted if changes.puts or changes.drops]

    def dead_letter(self, failure: FailedEvent) -> DeadLetter:
        """The dead letter for an entry that was skipped.

        It names the revisions that lack the event: a later revision was folded anew.
        """
        context = {
            "set": self._set.name,
            "projections": failure.projections,
            "revisions": {
                part.projection.name: part.revision
                for part in self._folding.parts
                if not failure.projections or part.projection.name in failure.projections
            },
            "tries": 1 if failure.is_permanent else self._tries_max,
        }
        event_type = failure.event.type if failure.event else ""
        reason = failure.reason[:REASON_MAX]
        return DeadLetter(failure.id, event_type, msgspec.json.encode(context), reason)
