"""The projector: folds the log live into the records of one projection set.

Owns: who folds (a hold fenced by epoch), one step (read, fold, save), the loop around it.
Never does: decide anything; write state other than views, indexes and its checkpoint.
Read next: lua/save_views.lua, projection/batch.py.

Any number of projectors may run for a set: one holds it, the others try every 250 ms. A step reads
the log behind the checkpoint, which takes nothing from anybody, and saves inside the fence, where
the consumer group moves too: a projector that was frozen and wakes up changes nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal, TypeAlias

import anyio
import msgspec
import structlog

from eventsched.archive.layout import ArchiveFolder
from eventsched.errors import ArchiveError, ServerUnavailable
from eventsched.history.log import History
from eventsched.projection.batch import TRIES_MAX, Batch, BatchProcessor
from eventsched.projection.fold import Folding
from eventsched.projection.protocol import ProjectionSet
from eventsched.projection.store import OtherVersion, ProjectionStore, Save, SetLease, Standby
from eventsched.roles.rebuild import Rebuild, RebuildFailed
from eventsched.schema.ids import START
from eventsched.store.retry import Backoff
from eventsched.store.transport import Entry

LEASE_MS = 1_500
RETRY_MS = 250
"""How often a standby tries, and what could not be folded is tried again."""
HOPELESS_S = 10
"""Until a rebuild that cannot be done is tried again: somebody has to bring the archive."""
BLOCK_MS = 450
"""Wait for the log at most so long: what is then saved, or an empty step, renews the hold."""
BATCH_MAX = 64
"""Entries a batch: less than a millisecond of script time to save what they change."""
LINGER_MS = 20
"""After a wait, entries gather for so long: fewer and fuller batches when events come singly."""

State: TypeAlias = Literal["folded", "idle", "standby", "other_version", "retry", "turned_away"]
_log = structlog.get_logger("eventsched.roles.projector")


class StepResult(msgspec.Struct, frozen=True):
    """What one step did."""

    state: State
    count: int = 0
    """Entries folded and saved."""
    parked: int = 0
    detail: str = ""


class Projector:
    """One process's part in folding a set. `run` until cancelled, or `step` by step."""

    def __init__(
        self,
        views: ProjectionStore,
        projection_set: ProjectionSet,
        *,
        archive: ArchiveFolder | None = None,
        owner: str | None = None,
        batch_max: int = BATCH_MAX,
    ) -> None:
        """`archive` is where a rebuild finds what the log has no more."""
        self.set = projection_set
        self.checkpoint = ""
        """Last log id folded and saved, while this projector holds the set."""
        self._views = views
        self._archive = archive
        self._owner = owner or secrets.token_hex(8)
        self._batch_max = batch_max
        self._held: SetLease | None = None
        self._has_held = False
        self._batches: BatchProcessor | None = None
        self._log = _log.bind(projection_set=projection_set.name)

    @property
    def is_active(self) -> bool:
        """Whether this one held the set when it last asked."""
        return self._held is not None

    async def step(self) -> StepResult:
        """Hold the set or try to; read, fold and save one batch."""
        if self._held is None:
            refused = await self._acquire()
            if refused is not None:
                return refused
        try:
            return await self._read_and_fold()
        except BaseException:
            self._held, self._batches = None, None  # what is in memory may not be what is saved
            raise

    async def _read_and_fold(self) -> StepResult:
        assert self._held is not None
        entries = await self._views.read_log(self.checkpoint, self._batch_max)
        if not entries:
            return await self._hold_on("idle")
        return await self._fold(self._held, entries)

    async def _hold_on(self, state: State, detail: str = "") -> StepResult:
        """Nothing is saved: the hold is renewed by itself."""
        got = await self._views.acquire(self.set, self._owner, LEASE_MS)
        return (
            StepResult(state, detail=detail) if got == self._held else self._turned_away("fenced")
        )

    async def _acquire(self) -> StepResult | None:
        got = await self._views.acquire(self.set, self._owner, LEASE_MS)
        match got:
            case Standby():
                return StepResult("standby")
            case OtherVersion():
                return StepResult("other_version", detail=f"{got.projection} {got.revision}")
        self.checkpoint = await self._views.checkpoint(self.set.name)
        await self._tell_what_is_gone()
        folding = Folding(self.set.projections, got.revisions)
        self._held, self._has_held = got, True
        self._batches = BatchProcessor(self._views, self.set, folding, tries_max=TRIES_MAX)
        self._log.info("holds the set", epoch=got.epoch, checkpoint=self.checkpoint)
        return None

    async def _tell_what_is_gone(self) -> None:
        """A set that came when the log's beginning had been trimmed folds the rest of it only."""
        gone = 0 if self.checkpoint != START else await self._views.trimmed_count()
        if not gone:
            return
        remedy = "none: it was trimmed unarchived"
        if await self._views.has_archive():
            names = " ".join(one.name for one in self.set.projections)
            folder = self._archive.path if self._archive else "DIR"
            remedy = f"eventsched rebuild {names} --archive {folder}"
        self._log.warning("starts mid-history", entries_gone=gone, remedy=remedy)

    async def _fold(self, held: SetLease, entries: Sequence[Entry]) -> StepResult:
        assert self._batches is not None
        batch = await self._batches.fold(entries)
        if not batch.count:
            return await self._retry(batch)
        saved = await self._views.save(self._save(held, batch))
        if saved != "saved":
            return self._turned_away(saved)
        self._batches.saved()
        self.checkpoint = batch.to
        for parked in batch.dead_letters:
            self._log.error(
                "parked", log_id=parked.id, projections=parked.projections, reason=parked.reason
            )
        return StepResult("folded", batch.count, len(batch.dead_letters))

    def _save(self, held: SetLease, batch: Batch) -> Save:
        assert self._batches is not None
        return Save(
            projection_set=self.set.name,
            group=self.set.name,
            epoch=held.epoch,
            start=self.checkpoint,
            to=batch.to,
            count=batch.count,
            lease_ms=LEASE_MS,
            changes=self._batches.writes(),
            indexes=batch.indexes,
            dead_letters=[self._batches.dead_letter(one) for one in batch.dead_letters],
        )

    async def _retry(self, batch: Batch) -> StepResult:
        """The very first entry cannot be folded: try it again before it is passed by."""
        assert batch.failed is not None
        self._log.warning("cannot fold", log_id=batch.failed.id, reason=batch.failed.reason)
        return await self._hold_on("retry", batch.failed.reason)

    def _turned_away(self, word: str) -> StepResult:
        """Somebody else acted: what is in memory no longer counts."""
        self._log.warning("turned away", word=word)
        self._held, self._batches = None, None
        return StepResult("turned_away", detail=word)

    async def run(self) -> None:
        """Fold until cancelled, then let a standby take over at once."""
        transport = self._views.transport
        backoff = Backoff(transport, self._log, role="projector", cell=self._views.cell)
        try:
            while True:
                async with backoff.attempt():
                    await self._wait_after(await self.step())
        finally:
            # without a server the lease ends by itself
            with anyio.move_on_after(1, shield=True), suppress(ServerUnavailable):
                await self.release()

    async def _wait_after(self, stepped: StepResult) -> None:
        transport = self._views.transport
        match stepped.state:
            case "idle" | "folded" if stepped.count < self._batch_max:  # no more was there
                await self._views.wait_log(self.checkpoint, BLOCK_MS)
                await transport.sleep(LINGER_MS / 1_000)
            case "standby" | "retry":
                await transport.sleep(RETRY_MS / 1_000)
            case "other_version":
                if not await self._bring_up_to_version():
                    await transport.sleep(RETRY_MS / 1_000)

    async def _bring_up_to_version(self) -> bool:
        """Rebuild what an older version of these projections made; newer ones are left alone."""
        outdated = []
        for projection in self.set.projections:
            live = await self._views.active_revision(projection.name)
            version = int(live.partition(".")[0]) if live else projection.version
            if version > projection.version:
                return False
            if version < projection.version:
                outdated.append(projection.name)
        if not outdated:
            return True
        try:
            history = await History.open(self._views, self._archive, self.set)
            rebuild = Rebuild(self._views, self.set, outdated, history=history, owner=self._owner)
            return await rebuild.run() is not None
        except (RebuildFailed, ArchiveError) as error:
            self._log.error("cannot rebuild", reason=str(error))
            await self._views.transport.sleep(HOPELESS_S)
            return False

    async def release(self) -> None:
        """Give the set up, if this one holds it."""
        self._held, self._batches = None, None
        if self._has_held:
            await self._views.acquire(self.set, self._owner, 0)
