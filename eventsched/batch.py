"""One batch of the log, folded: what it changes, and how far it got.

Owns: loading what the batch touches, the bounded tries of what cannot be folded, the trails.
Never does: reading the log, saving. Read next: projector.py, rebuild.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from eventsched.events import Event
from eventsched.folding import Folding, Unfolded, decoded, trails_of
from eventsched.projection import ProjectionSet
from eventsched.transport import Entry
from eventsched.views import Dead, Put, Views

TRIES_MAX = 3
"""An entry that cannot be folded is tried so often, then passed by and parked."""


class Batch(msgspec.Struct, frozen=True):
    """What a run of entries changes."""

    to: str
    """Last log id folded; empty when not even the first entry could be."""
    count: int
    trails: dict[str, list[str]]
    parked: Sequence[Unfolded]
    """Passed by for good."""
    failed: Unfolded | None
    """What stopped it: to be tried again."""


class Batches:
    """Folds batch after batch of one set, in order. What is not saved yet adds up."""

    def __init__(
        self, views: Views, projection_set: ProjectionSet, folding: Folding, *, tries_max: int
    ) -> None:
        self._views = views
        self._set = projection_set
        self._folding = folding
        self._tries_max = tries_max
        self._tries: dict[str, int] = {}

    async def fold(self, entries: Sequence[Entry]) -> Batch:
        """Fold as many as can be; what changes adds up until `saved`."""
        folding = self._folding
        found = [decoded(entry) for entry in entries]
        await self._load([event for event in found if isinstance(event, Event)])
        trails: dict[str, list[str]] = {}
        parked: list[Unfolded] = []
        to, count, failed = "", 0, None
        for one in found:
            # What cannot be decoded will not be, however often it is tried.
            is_last_try = (
                isinstance(one, Unfolded) or self._tries.get(one.id, 0) + 1 >= self._tries_max
            )
            unfolded = (
                one if isinstance(one, Unfolded) else folding.fold(one, whole=not is_last_try)
            )
            if unfolded is not None:
                if not is_last_try:
                    self._tries[one.id] = self._tries.get(one.id, 0) + 1
                    failed = unfolded
                    break
                self._tries.pop(one.id, None)
                parked.append(unfolded)
            for session in trails_of(one, self._set):
                trails.setdefault(session, []).append(one.id)
            to, count = one.id, count + 1
        return Batch(to, count, trails, parked, failed)

    async def _load(self, events: Sequence[Event]) -> None:
        for part in self._folding.parts:
            entities = part.unknown(events)
            if entities:
                stored = await self._views.load(part.projection.name, part.build, entities)
                for entity, record in zip(entities, stored, strict=True):
                    part.know(entity, record)

    def writes(self) -> tuple[list[Put], list[tuple[str, str, str]]]:
        """The records to write, and those to drop, for all that changed since `saved`."""
        puts: list[Put] = []
        drops: list[tuple[str, str, str]] = []
        for part in self._folding.parts:
            some_puts, some_drops = part.writes()
            puts += some_puts
            drops += some_drops
        return puts, drops

    def saved(self) -> None:
        """What changed is stored."""
        for part in self._folding.parts:
            part.forget_changes()

    def dead(self, unfolded: Unfolded) -> Dead:
        """The entry in `dead` for what was passed by."""
        told = {
            "set": self._set.name,
            "projections": unfolded.projections,
            "tries": self._tries_max,
        }
        kind = unfolded.event.type if unfolded.event else ""
        return Dead(unfolded.id, kind, msgspec.json.encode(told), unfolded.reason)
