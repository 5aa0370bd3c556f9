"""Rebuild: fold the log from its start into new records, then let readers see those.

Owns: one pass over the log into a revision, the switch at equal checkpoints, dropping what is old.
Never does: disturb the live fold before the switch; write indexes or `dead`.
Read next: lua/promote_revision.lua, lua/drop_revision.lua.

A revision is a set of its own: its own hold and checkpoint. One rebuild of a set runs at a time.
What a crashed one left is dropped by the next.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence

import anyio
import msgspec
import structlog
from anyio.streams.memory import MemoryObjectSendStream
from msgspec.structs import replace

from eventsched.errors import EventschedError
from eventsched.history.log import History
from eventsched.projection.batch import Batch, BatchProcessor
from eventsched.projection.fold import Folding
from eventsched.projection.protocol import Projection, ProjectionSet
from eventsched.projection.store import Changes, ProjectionStore, Save, SetLease
from eventsched.schema.ids import START, parse_id
from eventsched.store.transport import Entry

LEASE_MS = 10_000
CHANGED_MAX = 8_000
"""Records that may change between two saves: one that is touched often is written once."""
PUT_MAX = 128
"""Records written in one script call: 1 to 2 ms."""
ATTEMPTS_MAX = 200
"""How often a revision may fall behind the live fold before it gives up."""

_log = structlog.get_logger("eventsched.roles.rebuild")
Progress = Callable[[int], None]
"""Called with the entries folded so far."""


class RebuildFailed(EventschedError):
    """Raised when a revision did not become live; what was live still is."""


class RebuildResult(msgspec.Struct, frozen=True):
    """A revision is live."""

    revisions: dict[str, str]
    """Projection -> its new revision."""
    entries: int
    skipped: int
    """Entries that could not be folded."""
    dropped: int
    """Old records removed."""


class Rebuild:
    """One rebuild of some projections of a set."""

    def __init__(
        self,
        views: ProjectionStore,
        projection_set: ProjectionSet,
        names: Sequence[str],
        *,
        history: History | None = None,
        owner: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        """`history` has the archive, where the log's beginning may be."""
        self.set = projection_set
        self.projections = [one for one in projection_set.projections if one.name in names]
        unknown = set(names) - {one.name for one in self.projections}
        if unknown or not names:
            raise RebuildFailed(f"{projection_set.name} has no projection {sorted(unknown)}")
        self.revision_set = f"rebuild-{projection_set.name}"
        self._views = views
        self._history = history or History(views, None, projection_set)
        self._owner = owner or secrets.token_hex(8)
        self._progress = progress or (lambda _: None)
        self._entries = self._skipped = 0

    async def run(self) -> RebuildResult | None:
        """Fold, switch, drop. None when another rebuild of the set is running.

        Raises ArchiveError when the log's beginning is in an archive that is not at hand.
        """
        held = await self._views.acquire_revision(self.revision_set, self._owner, LEASE_MS)
        if not isinstance(held, SetLease):
            return None
        try:
            await self._check_whole()
            if await self._views.has_saved(self.revision_set):
                await self._drop_old(held)  # what a crashed one left
            lives, revisions = await self._plan()
            await self._fold_and_switch(held, lives, revisions)
            dropped = await self._drop_old(held)
        finally:
            await self._views.acquire_revision(self.revision_set, self._owner, 0)
        names = [one.name for one in self.projections]
        made = dict(zip(names, revisions, strict=True))
        _log.info("rebuilt", revisions=made, entries=self._entries, skipped=self._skipped)
        return RebuildResult(made, self._entries, self._skipped, dropped)

    async def _check_whole(self) -> None:
        if await self._history.is_complete():
            return
        async for _ in self._history.batches():  # says so, if an archive has it
            raise RebuildFailed("the history's beginning is gone: it was trimmed unarchived")

    async def _plan(self) -> tuple[list[str], list[str]]:
        """The live revisions, and the names of those to come."""
        lives = [await self._views.active_revision(one.name) or "" for one in self.projections]
        revisions = [_next(*pair) for pair in zip(self.projections, lives, strict=True)]
        return lives, revisions

    async def _fold_and_switch(
        self, held: SetLease, lives: Sequence[str], revisions: Sequence[str]
    ) -> None:
        """Follow the live checkpoint; when this revision is as far, make it live."""
        folding = Folding(self.projections, revisions, is_new=True)
        only = ProjectionSet(self.revision_set, tuple(self.projections))
        batches = BatchProcessor(self._views, only, folding, tries_max=1)
        names = [one.name for one in self.projections]
        switches = list(zip(names, lives, revisions, strict=True))
        at = START
        for _ in range(ATTEMPTS_MAX):
            word, detail = await self._views.promote_revisions(
                self.set.name, self.revision_set, held.epoch, switches
            )
            if word == "switched":
                return
            if word != "behind":
                raise RebuildFailed(f"{self.revision_set}: {word} {detail}")
            at = await self._fold(held, batches, at, detail)
        raise RebuildFailed(f"{self.revision_set} did not catch up with {self.set.name}")

    async def _fold(self, held: SetLease, batches: BatchProcessor, at: str, upto: str) -> str:
        """Fold up to the live checkpoint; the next entries are read meanwhile."""
        send, receive = anyio.create_memory_object_stream[Sequence[Entry]](1)
        async with anyio.create_task_group() as tasks, receive:
            tasks.start_soon(self._read_ahead, send, at, upto)
            async for entries in receive:
                batch = await batches.fold(entries)
                self._entries += batch.count
                self._skipped += len(batch.dead_letters)
                if batches.changed >= CHANGED_MAX or batch.to == upto:
                    await self._save(held, batches, at, batch)
                    at = batch.to
                self._progress(self._entries)
        return at

    async def _read_ahead(
        self, send: MemoryObjectSendStream[Sequence[Entry]], at: str, upto: str
    ) -> None:
        """Each batch renews the hold, however rarely records are saved."""
        async with send:
            async for entries in self._history.batches(at, upto):
                at = entries[-1][0]
                await self._views.acquire_revision(self.revision_set, self._owner, LEASE_MS)
                await send.send(entries)
        if parse_id(at) < parse_id(upto):
            raise RebuildFailed(f"{self.revision_set}: the log ends before {upto}")

    async def _save(self, held: SetLease, batches: BatchProcessor, at: str, batch: Batch) -> None:
        """Nobody reads a revision yet: its records may go in many calls, its checkpoint last."""
        part = Save(
            projection_set=self.revision_set,
            group="",
            epoch=held.epoch,
            start=at,
            to=at,
            lease_ms=LEASE_MS,
            changes=(),
        )
        for some in _in_parts(batches.writes()):
            await self._checked(replace(part, changes=[some]))
        await self._checked(replace(part, to=batch.to))
        batches.saved()

    async def _checked(self, save: Save) -> None:
        word = await self._views.save(save)
        if word != "saved":
            raise RebuildFailed(f"{self.revision_set}: {word} at {save.start}")

    async def _drop_old(self, held: SetLease) -> int:
        """Remove the records of revisions that are not live, 256 keys a step."""
        cursor, total = "0", 0
        while True:
            dropped = await self._views.drop_revision(
                self.revision_set, held.epoch, LEASE_MS, cursor, self.set.projections
            )
            if dropped is None:
                raise RebuildFailed(f"{self.revision_set}: fenced while dropping")
            cursor, total = dropped[0], total + dropped[1]
            if cursor == "0":
                return total


def _in_parts(changes: Iterable[Changes]) -> Iterator[Changes]:
    """So many records each; of a revision, what is dropped before what is put."""
    for one in changes:
        for first in range(0, len(one.drops), PUT_MAX):
            yield replace(one, drops=one.drops[first : first + PUT_MAX], puts=())
        for first in range(0, len(one.puts), PUT_MAX):
            yield replace(one, puts=one.puts[first : first + PUT_MAX], drops=())


def _next(projection: Projection, live: str) -> str:
    """`<version>.<revision>`: revision numbers only grow, so no two revisions share records."""
    return f"{projection.version}.{int(live.partition('.')[2] or 0) + 1}"
