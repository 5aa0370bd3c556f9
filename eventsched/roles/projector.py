"""The projector: folds the log into the live records of one projection set.

Owns: the lease of the set (fenced by an epoch), its consumer in the set's consumer group, one step
(read, fold, save), the loop of steps.
Must not: decide anything; write state other than views, indexes, dead letters and its checkpoint.
Read next: lua/save_views.lua, projection/batch.py.

Any number of projectors may run for a set. One has the lease; the others are standbys and try to
acquire it every 250 ms. A step reads the next entries of the set's consumer group, without
acknowledgement; the save acknowledges them. The save is fenced by the lease's epoch, and stores a
batch only if it begins with the entry after the checkpoint. So a projector that was suspended past
the end of its lease changes nothing when it resumes, whatever it reads. If entries were delivered
to another consumer, or the group was moved, the owner reads its next batch by range.

An event that drops very many records, the retirement of a long session, is a step of its own: it
drops them in several saves that do not move the checkpoint, and each of them renews the lease. A
projector that continues after a crash drops the rest.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import Literal, TypeAlias

import anyio
import msgspec
from msgspec.structs import replace

from eventsched.archive.layout import ArchiveFolder
from eventsched.errors import ArchiveError, ServerUnavailable
from eventsched.history.log import History
from eventsched.logs import get_logger
from eventsched.projection.batch import TRIES_MAX, Batch, BatchProcessor
from eventsched.projection.fold import Folding
from eventsched.projection.protocol import ProjectionSet
from eventsched.projection.store import (
    Changes,
    OtherVersion,
    ProjectionStore,
    Save,
    SetLease,
    Standby,
)
from eventsched.roles.rebuild import Rebuild, RebuildFailed
from eventsched.schema.events import Event, JobFailed, SessionClosed
from eventsched.schema.ids import START
from eventsched.store.operator_commands import Act
from eventsched.store.retry import Backoff, first_error
from eventsched.store.transport import Entry

LEASE_MS = 1_500
RETRY_MS = 250
"""How often a standby tries to acquire the lease, and an entry that failed is folded again."""
REBUILD_RETRY_S = 10
"""When a failed rebuild is tried again. An operator may have to provide the archive first."""
BLOCK_MS = 450
"""The longest wait of a read for entries; without any, the step renews the lease."""
BATCH_MAX = 128
"""Entries per batch: saving their changes takes about a millisecond of script time."""
DROPS_MAX = 256
"""Records dropped in one save: less than a millisecond of script time."""
LINGER_MS = 20
"""Pause before a read, so that single events collect into fewer and fuller batches."""

State: TypeAlias = Literal[
    "folded", "idle", "standby", "other_version", "retry", "moved", "lease_lost"
]
_log = get_logger("eventsched.roles.projector")


class _LeaseLost(Exception):
    """Another projector has acquired the lease during a step."""


class StepResult(msgspec.Struct, frozen=True):
    """The result of one step."""

    state: State
    count: int = 0
    """Entries folded and saved."""
    dead_lettered: int = 0
    """Entries that could not be folded and became dead letters."""
    detail: str = ""


class Projector:
    """Folds one projection set: `run` until cancelled, or `step` by step.

    Args:
        store: The cell whose log is folded.
        projection_set: The projections to fold.
        archive: The archive from which a rebuild reads entries that are trimmed from the log.
        owner: Identifies this projector as owner of the lease and as consumer; random by default.
        batch_max: The most entries of one step.
    """

    def __init__(
        self,
        store: ProjectionStore,
        projection_set: ProjectionSet,
        *,
        archive: ArchiveFolder | None = None,
        owner: str | None = None,
        batch_max: int = BATCH_MAX,
    ) -> None:
        self.set = projection_set
        self.checkpoint = ""
        """Id of the last entry that is folded and saved, while this projector has the lease."""
        self._store = store
        self._archive = archive
        self._owner = owner or secrets.token_hex(8)
        self._batch_max = batch_max
        self._lease: SetLease | None = None
        self._was_active = False
        self._by_range = False
        """Whether the next batch is read by range: the group may have passed its entries."""
        self._batches: BatchProcessor | None = None
        self._log = _log.bind(projection_set=projection_set.name)

    @property
    def is_active(self) -> bool:
        """Whether this projector had the lease at its last call."""
        return self._lease is not None

    async def step(self, wait_ms: int = 0) -> StepResult:
        """Acquire the lease if necessary; then read, fold and save one batch.

        Args:
            wait_ms: How long to wait for entries, at most.
        """
        if self._lease is None:
            standby = await self._acquire()
            if standby is not None:
                return standby
        try:
            return await self._read_and_fold(wait_ms)
        except BaseException:
            self._lease, self._batches = None, None  # records in memory may differ from the saved
            raise

    async def _read_and_fold(self, wait_ms: int) -> StepResult:
        assert self._lease is not None
        entries = await self._read(wait_ms)
        if not entries:
            return await self._renew("idle")
        return await self._fold_and_save(self._lease, entries)

    async def _read(self, wait_ms: int) -> Sequence[Entry]:
        """The next entries of the group, or after the checkpoint."""
        if not self._by_range:
            return await self._store.read_group(
                self.set.name, self._owner, self._batch_max, wait_ms
            )
        entries = await self._store.read_log(self.checkpoint, self._batch_max)
        self._by_range = bool(entries)
        return entries

    async def _renew(self, state: State, detail: str = "") -> StepResult:
        """Renew the lease in a step that saves nothing."""
        try:
            await self._renew_or_lose()
        except _LeaseLost:
            return self._lose_lease("fenced")
        if state == "idle" and self._by_range:
            return StepResult("moved")
        return StepResult(state, detail=detail)

    async def _renew_or_lose(self) -> None:
        """Renew the lease; the group returns to the checkpoint. Raises _LeaseLost."""
        lease = await self._store.acquire(self.set, self._owner, LEASE_MS)
        if not isinstance(lease, SetLease) or replace(lease, is_moved=False) != self._lease:
            raise _LeaseLost
        self._by_range |= lease.is_moved

    async def _acquire(self) -> StepResult | None:
        """Acquire the lease and start at the checkpoint. Return the step's result if refused."""
        lease = await self._store.acquire(self.set, self._owner, LEASE_MS)
        match lease:
            case Standby():
                return StepResult("standby")
            case OtherVersion():
                return StepResult("other_version", detail=f"{lease.projection} {lease.revision}")
        self.checkpoint = await self._store.checkpoint(self.set.name)
        await self._warn_of_trimmed_entries()
        folding = Folding(self.set.projections, lease.revisions)
        self._lease, self._was_active = replace(lease, is_moved=False), True
        self._by_range |= lease.is_moved
        self._batches = BatchProcessor(
            self._store, self.set, folding, tries_max=TRIES_MAX, renew=self._renew_or_lose
        )
        self._log.info("lease acquired", epoch=lease.epoch, checkpoint=self.checkpoint)
        return None

    async def _warn_of_trimmed_entries(self) -> None:
        """Log a warning if a new set starts after the log's first entries were trimmed."""
        trimmed = 0 if self.checkpoint != START else await self._store.trimmed_count()
        if not trimmed:
            return
        remedy = "none: the entries were not archived"
        if await self._store.has_archive():
            names = " ".join(projection.name for projection in self.set.projections)
            folder = self._archive.path if self._archive else "DIR"
            remedy = f"eventsched rebuild {names} --archive {folder} --why TEXT"
        self._log.warning("starts mid-history", trimmed_entries=trimmed, remedy=remedy)

    async def _fold_and_save(self, lease: SetLease, entries: Sequence[Entry]) -> StepResult:
        """Fold the entries and save the changes.

        Returns `retry` if the first entry cannot be folded, `moved` if the batch does not follow
        the checkpoint, and `lease_lost` if the save is refused.
        """
        assert self._batches is not None
        try:
            batch = await self._batches.fold(entries)
        except _LeaseLost:
            return self._lose_lease("fenced")
        if not batch.count:
            return await self._retry(batch)
        for save in self._saves(lease, batch, first=entries[0][0]):
            reply = await self._store.save(save)
            if reply == "moved":
                return self._start_again()
            if reply != "saved":
                return self._lose_lease(reply)
        self._batches.saved()
        self.checkpoint, self._by_range = batch.to, False
        for failed in batch.dead_letters:
            self._log.error(
                "dead-lettered",
                log_id=failed.id,
                projections=failed.projections,
                reason=failed.reason,
            )
        if self.set.sessions is not None:  # one set, so that each end is logged once
            self._log_ends(batch.ends)
        if batch.repeated:
            first, count = batch.repeated[0], len(batch.repeated)
            self._log.warning("skipped", events=count, first=first.id, reason=first.reason)
        return StepResult("folded", batch.count, len(batch.dead_letters))

    def _log_ends(self, ends: Sequence[Event]) -> None:
        """Log the end of each session, and each job that failed."""
        for event in ends:
            if isinstance(event.data, SessionClosed):
                self._log.info("session closed", session=event.session, missing=event.data.missing)
            elif isinstance(event.data, JobFailed):
                self._log.warning(
                    "job failed", session=event.session, job=event.job, code=event.data.code
                )

    def _saves(self, lease: SetLease, batch: Batch, *, first: str) -> Iterator[Save]:
        """The saves of a batch. Those before the last one drop records and move no checkpoint."""
        assert self._batches is not None
        changes = self._batches.writes()
        last = self._save(lease, batch, changes, first)
        if sum(len(each.drops) for each in changes) <= DROPS_MAX:
            yield last
            return
        for each in changes:
            for at in range(0, len(each.drops), DROPS_MAX):
                drops = each.drops[at : at + DROPS_MAX]
                part = Changes(each.projection, each.revision, drops=drops)
                yield replace(
                    last,
                    to=last.start,
                    count=0,
                    changes=[part],
                    indexes={},
                    node_indexes={},
                    dead_letters=(),
                )
        yield replace(last, changes=[replace(each, drops=()) for each in changes])

    def _save(self, lease: SetLease, batch: Batch, changes: Sequence[Changes], first: str) -> Save:
        assert self._batches is not None
        return Save(
            projection_set=self.set.name,
            group=self.set.name,
            epoch=lease.epoch,
            start=self.checkpoint,
            first=first,
            to=batch.to,
            count=batch.count,
            lease_ms=LEASE_MS,
            changes=changes,
            indexes=batch.indexes,
            node_indexes=batch.node_indexes,
            dead_letters=[self._batches.dead_letter(failed) for failed in batch.dead_letters],
        )

    async def _retry(self, batch: Batch) -> StepResult:
        """The first entry of the batch failed and is tried again, before it is dead-lettered."""
        assert batch.failed is not None
        self._log.warning("cannot fold", log_id=batch.failed.id, reason=batch.failed.reason)
        return await self._renew("retry", batch.failed.reason)

    def _start_again(self) -> StepResult:
        """Entries are missing before the batch: drop the records in memory, read by range."""
        self._log.warning("consumer group was moved", checkpoint=self.checkpoint)
        self._lease, self._batches, self._by_range = None, None, True
        return StepResult("moved")

    def _lose_lease(self, reason: str) -> StepResult:
        """Another projector or a rebuild has acted: drop the records in memory."""
        self._log.warning("lease lost", reason=reason)
        self._lease, self._batches = None, None
        return StepResult("lease_lost", detail=reason)

    async def run(self) -> None:
        """Fold until cancelled; then release the lease, so a standby takes over at once."""
        transport = self._store.transport
        backoff = Backoff(transport, self._log, role="projector", cell=self._store.cell)
        try:
            while True:
                async with backoff.attempt():
                    await self._prepare_next_step(await self.step(BLOCK_MS))
        finally:
            # without a server the lease expires
            with anyio.move_on_after(1, shield=True), suppress(ServerUnavailable):
                await self.release()

    async def _prepare_next_step(self, result: StepResult) -> None:
        """Let entries collect, or wait for the time of a retry; after a full batch, do not wait.

        For `other_version` rebuild the outdated projections instead.
        """
        transport = self._store.transport
        match result.state:
            case "idle" | "folded" if result.count < self._batch_max:
                await transport.sleep(LINGER_MS / 1_000)
            case "standby" | "retry":
                await transport.sleep(RETRY_MS / 1_000)
            case "other_version":
                if not await self._rebuild_outdated():
                    await transport.sleep(RETRY_MS / 1_000)

    async def _rebuild_outdated(self) -> bool:
        """Rebuild the projections whose live revision has an older version than this program's.

        Returns False if a live revision is newer, or if the rebuild failed or runs elsewhere.
        """
        outdated: list[str] = []
        live_revisions: list[str] = []
        for projection in self.set.projections:
            live = await self._store.active_revision(projection.name)
            version = int(live.partition(".")[0]) if live else projection.version
            if version > projection.version:
                return False
            if version < projection.version:
                outdated.append(projection.name)
                live_revisions.append(f"{projection.name} {live}")
        if not outdated:
            return True
        try:
            history = await History.open(self._store, self._archive, self.set)
            rebuild = Rebuild(
                self._store,
                self.set,
                outdated,
                history=history,
                owner=self._owner,
                act=_act_of(self.set.name, live_revisions),
            )
            return await rebuild.run() is not None
        except* (RebuildFailed, ArchiveError) as group:
            self._log.error("cannot rebuild", reason=str(first_error(group)))
        await self._store.transport.sleep(REBUILD_RETRY_S)
        return False

    async def release(self) -> None:
        """Release the lease, if this projector has it."""
        self._lease, self._batches = None, None
        if self._was_active:
            await self._store.acquire(self.set, self._owner, 0)


def _act_of(projection_set: str, live_revisions: Sequence[str]) -> Act:
    """The act of rebuilding these revisions. No revision comes twice, so another try of any
    projector is the same act.
    """
    digest = blake2b(" ".join(live_revisions).encode(), digest_size=8).hexdigest()
    why = f"newer code of the set {projection_set}"
    return Act(by="projector", why=why, request=f"rebuild-{digest}")
