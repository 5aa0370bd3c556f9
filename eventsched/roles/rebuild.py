"""Rebuild: fold the whole log into new records, then make those the live ones.

Owns: the fold into a new revision, its promotion at the live checkpoint, dropping old revisions.
Must not: affect the live fold before the promotion; write indexes or dead letters.
Read next: lua/promote_revision.lua, lua/drop_revision.lua.

A revision is folded as a projection set of its own, with its own lease and checkpoint. One rebuild
of a set runs at a time. The next rebuild drops the records that a crashed one left. A record is
written once if it stays in memory; if the records are too large together, those that have not
changed for longest are written and evicted.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import anyio
import msgspec
from anyio.streams.memory import MemoryObjectSendStream
from msgspec.structs import replace

from eventsched.errors import EventschedError
from eventsched.history.log import History
from eventsched.logs import get_logger
from eventsched.projection.batch import BatchProcessor
from eventsched.projection.fold import FailedEvent, Folding
from eventsched.projection.protocol import Projection, ProjectionSet
from eventsched.projection.store import Changes, ProjectionStore, Save, SetLease
from eventsched.schema.ids import START, parse_id
from eventsched.store.operator_commands import Act
from eventsched.store.transport import Entry

LEASE_MS = 10_000
PUT_MAX = 128
"""Records written in one script call, which takes 1 to 2 ms."""
ATTEMPTS_MAX = 200
"""How often the promotion is tried while the live fold advances, before the rebuild fails."""

_log = get_logger("eventsched.roles.rebuild")
Progress = Callable[[int], None]
"""Called with the number of entries folded so far."""


FAILURES_SHOWN_MAX = 5
"""Events that could not be folded which the result and the error of a rebuild name."""


class RebuildFailed(EventschedError):
    """Raised when the new revisions were not promoted. The live revisions are unchanged."""


class RebuildFailure(msgspec.Struct, frozen=True, kw_only=True):
    """A log entry that a projection could not fold in a rebuild."""

    id: str
    type: str
    """Type of the event."""
    projections: tuple[str, ...]
    """The projections that failed."""
    reason: str
    """The error, with the file and the line of the projection that raised it."""

    def __str__(self) -> str:
        """Return the failure as one line."""
        return f"{self.type} {self.id}: {self.reason}"


class TooManyFailures(RebuildFailed):
    """Raised when projections could not fold more events than are allowed.

    Attributes:
        failures: The first of these events.
    """

    def __init__(self, names: Sequence[str], failures: Sequence[RebuildFailure]) -> None:
        self.failures = failures
        listed = "; ".join(map(str, failures))
        super().__init__(
            f"{', '.join(names)}: events that cannot be folded: {listed}; the old records stay "
            "live: correct the read model, or leave these events out with --allow-failures N"
        )


class RebuildResult(msgspec.Struct, frozen=True):
    """New revisions are live."""

    revisions: dict[str, str]
    """Projection -> its new revision."""
    entries: int
    skipped: int
    """Entries that could not be folded."""
    dropped: int
    """Old records that were removed."""
    failures: Sequence[RebuildFailure] = ()
    """The first FAILURES_SHOWN_MAX of the events that a projection could not fold."""
    left_out: Sequence[str] = ()
    """Those of the watched entries that could not be folded, by id."""


class Rebuild:
    """One rebuild of some projections of a set.

    Args:
        store: The cell whose log is folded.
        projection_set: The set that the projections belong to.
        names: The projections to rebuild.
        history: The log with the archive that has its trimmed entries; by default the log alone.
        owner: Identifies this rebuild as owner of the lease; random by default.
        progress: Called after every batch.
        failures_max: The most events that a projection may fail to fold. Entries that no decoder
            reads, and events that would make a record too large, are left out as in the live fold:
            a node or producer that appends such an entry must not stop every rebuild.
        act: Who rebuilds and why, for the events; by default the projector.
        watched: Ids of log entries: the result names those that could not be folded.

    Raises:
        RebuildFailed: The set has no projection of such a name.
    """

    def __init__(
        self,
        store: ProjectionStore,
        projection_set: ProjectionSet,
        names: Sequence[str],
        *,
        history: History | None = None,
        owner: str | None = None,
        progress: Progress | None = None,
        failures_max: int = 0,
        act: Act | None = None,
        watched: Collection[str] = (),
    ) -> None:
        self.set = projection_set
        self.projections = [each for each in projection_set.projections if each.name in names]
        unknown = set(names) - {each.name for each in self.projections}
        if unknown or not names:
            raise RebuildFailed(f"{projection_set.name} has no projection {sorted(unknown)}")
        self.revision_set = f"rebuild-{projection_set.name}"
        self._store = store
        self._history = history or History(store, None, projection_set)
        self._owner = owner or secrets.token_hex(8)
        self._progress = progress or (lambda _: None)
        self._failures_max = failures_max
        self._act = act or Act.of("projector", "a read model is folded anew")
        self._watched = set(watched)
        self._left_out: list[str] = []
        self._failures: list[RebuildFailure] = []
        self._entries = self._skipped = self._failed = 0

    async def run(self) -> RebuildResult | None:
        """Fold, promote, drop old records. Return None if another rebuild of the set is running.

        The events RebuildStarted and RebuildPromoted record it. A rebuild of an act whose revisions
        are promoted does nothing and returns them.

        An error may be in a group of errors.

        Raises:
            TooManyFailures: Projections could not fold more than `failures_max` events.
            RebuildFailed: The new revisions were not promoted.
            ArchiveError: Trimmed entries are in an archive that was not passed.
        """
        lease = await self._store.acquire_revision(self.revision_set, self._owner, LEASE_MS)
        if not isinstance(lease, SetLease):
            return None
        try:
            await self._check_complete()
            if await self._store.has_saved(self.revision_set):
                await self._drop_old(lease)  # records of a crashed rebuild
            live_revisions, revisions = await self._plan()
            names = [each.name for each in self.projections]
            word, promoted = await self._store.start_rebuild(
                self.revision_set, lease.epoch, self._act, list(zip(names, revisions, strict=True))
            )
            if word == "done":
                return RebuildResult(dict(zip(names, promoted, strict=True)), 0, 0, 0)
            if word != "started":
                raise RebuildFailed(f"{self.revision_set}: {word} at the start")
            await self._fold_and_promote(lease, live_revisions, revisions)
            dropped = await self._drop_old(lease)
        finally:
            await self._store.acquire_revision(self.revision_set, self._owner, 0)
        by_name = dict(zip(names, revisions, strict=True))
        _log.info("rebuilt", revisions=by_name, entries=self._entries, skipped=self._skipped)
        return RebuildResult(
            by_name, self._entries, self._skipped, dropped, self._failures, self._left_out
        )

    async def _check_complete(self) -> None:
        """Raise unless the history has every entry since the first."""
        if await self._history.is_complete():
            return
        async for _ in self._history.batches():  # raises ArchiveError if an archive has the entries
            raise RebuildFailed("the first entries of the history were trimmed and not archived")

    async def _plan(self) -> tuple[list[str], list[str]]:
        """Return the live and the new revision of each projection."""
        live = [await self._store.active_revision(each.name) or "" for each in self.projections]
        return live, [_next(*pair) for pair in zip(self.projections, live, strict=True)]

    async def _fold_and_promote(
        self, lease: SetLease, live_revisions: Sequence[str], revisions: Sequence[str]
    ) -> None:
        """Fold up to the live checkpoint and promote the revisions; repeat while it advances."""
        folding = Folding(self.projections, revisions, is_new=True)
        own_set = ProjectionSet(self.revision_set, tuple(self.projections))
        batches = BatchProcessor(self._store, own_set, folding, tries_max=1)
        names = [each.name for each in self.projections]
        switches = list(zip(names, live_revisions, revisions, strict=True))
        checkpoint = START
        for _ in range(ATTEMPTS_MAX):
            reply, detail = await self._store.promote_revisions(
                self.set.name,
                self.revision_set,
                lease.epoch,
                self._act,
                switches,
                entries=self._entries,
                left_out=self._skipped,
            )
            if reply == "switched":
                return
            if reply != "behind":
                raise RebuildFailed(f"{self.revision_set}: {reply} {detail}")
            checkpoint = await self._fold(lease, batches, checkpoint, detail)
        raise RebuildFailed(f"{self.revision_set} did not catch up with {self.set.name}")

    async def _fold(
        self, lease: SetLease, batches: BatchProcessor, checkpoint: str, upto: str
    ) -> str:
        """Fold the entries after `checkpoint` up to `upto`, reading ahead; return the last id."""
        send, receive = anyio.create_memory_object_stream[Sequence[Entry]](1)
        async with anyio.create_task_group() as tasks, receive:
            tasks.start_soon(self._read_ahead, send, checkpoint, upto)
            async for entries in receive:
                batch = await batches.fold(entries)
                self._entries += batch.count
                self._count_failures([*batch.dead_letters, *batch.repeated])
                if batch.to == upto:
                    await self._save(lease, checkpoint, batches.writes(), batch.to)
                    batches.saved()
                    checkpoint = batch.to
                elif evicted := batches.evict():
                    await self._save(lease, checkpoint, evicted, checkpoint)
                self._progress(self._entries)
        return checkpoint

    def _count_failures(self, skipped: Sequence[FailedEvent]) -> None:
        """Count the entries that are left out. Raises TooManyFailures."""
        self._skipped += len(skipped)
        self._left_out += [each.id for each in skipped if each.id in self._watched]
        for each in skipped:
            if each.event is not None and not each.is_permanent:
                self._failed += 1
                self._failures.append(
                    RebuildFailure(
                        id=each.id,
                        type=each.event.type,
                        projections=each.projections,
                        reason=each.reason,
                    )
                )
        del self._failures[FAILURES_SHOWN_MAX:]
        if self._failed > self._failures_max:
            names = [each.name for each in self.projections]
            raise TooManyFailures(names, self._failures)

    async def _read_ahead(
        self, send: MemoryObjectSendStream[Sequence[Entry]], after: str, upto: str
    ) -> None:
        """Read the entries after `after` up to `upto`. Every batch renews the lease."""
        last_id = after
        async with send:
            async for entries in self._history.batches(after, upto):
                last_id = entries[-1][0]
                await self._store.acquire_revision(self.revision_set, self._owner, LEASE_MS)
                await send.send(entries)
        if parse_id(last_id) < parse_id(upto):
            raise RebuildFailed(f"{self.revision_set}: the log ends before {upto}")

    async def _save(
        self, lease: SetLease, checkpoint: str, changes: Sequence[Changes], to: str
    ) -> None:
        """Save the changed records in several calls, and the checkpoint last.

        This is safe because no reader uses the revision yet.
        """
        part = Save(
            projection_set=self.revision_set,
            group="",
            epoch=lease.epoch,
            start=checkpoint,
            to=checkpoint,
            lease_ms=LEASE_MS,
            changes=(),
        )
        for some in _split(changes):
            await self._save_or_fail(replace(part, changes=[some]))
        await self._save_or_fail(replace(part, to=to))

    async def _save_or_fail(self, save: Save) -> None:
        reply = await self._store.save(save)
        if reply != "saved":
            raise RebuildFailed(f"{self.revision_set}: {reply} at {save.start}")

    async def _drop_old(self, lease: SetLease) -> int:
        """Remove the records of revisions that are not live; return how many. 256 keys a call."""
        cursor, total = "0", 0
        while True:
            dropped = await self._store.drop_revision(
                self.revision_set, lease.epoch, LEASE_MS, cursor, self.set.projections
            )
            if dropped is None:
                raise RebuildFailed(f"{self.revision_set}: fenced while dropping")
            cursor, total = dropped[0], total + dropped[1]
            if cursor == "0":
                return total


def _split(changes: Iterable[Changes]) -> Iterator[Changes]:
    """Split into parts of at most PUT_MAX records. The drops of a projection precede its puts."""
    for each in changes:
        for first in range(0, len(each.drops), PUT_MAX):
            yield replace(each, drops=each.drops[first : first + PUT_MAX], puts=())
        for first in range(0, len(each.puts), PUT_MAX):
            yield replace(each, puts=each.puts[first : first + PUT_MAX], drops=())


def _next(projection: Projection, live: str) -> str:
    """The next `<version>.<n>`. Numbers only increase, so no two revisions share records."""
    return f"{projection.version}.{int(live.partition('.')[2] or 0) + 1}"
