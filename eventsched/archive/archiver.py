"""The archiver role: seals the log, segment by segment, and says how far.

Owns: who archives (a hold fenced by epoch, and a lock on the folder), where a segment ends, the
audio beside it, what is told to Redis once files are on disk, the checks that folder and cell
belong together.
Never does: trim (timers do, by what this one has told); change what is sealed.
Read next: sealer.py, lua/record_seal.lua, roles/trimmer.py.

A segment begins behind the one before it and ends after so many entries, or where the window of
time ends that its first entry lies in (settings `archive_entries_max`, `archive_window_ms`). So its
range follows from the log alone: who does it again after a crash writes the same files. Order:
files, record, Redis; each may be done twice.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from functools import partial
from typing import Literal, TypeAlias

import anyio
import msgspec
import structlog

from eventsched.archive import threads
from eventsched.archive.codec import encode_entry
from eventsched.archive.commands import ArchiveCalls, ArchiveState
from eventsched.archive.layout import LOCK, CellFolder
from eventsched.archive.manifest import Record
from eventsched.archive.sealer import Finalized, Sealer
from eventsched.archive.segment import Utterance, entries_at
from eventsched.archive.signing import SigningKey, fingerprint
from eventsched.errors import ArchiveError, ServerUnavailable
from eventsched.private_files import make_private_folder
from eventsched.projection.protocol import ProjectionSet
from eventsched.projection.store import ProjectionStore, SetLease
from eventsched.schema.ids import START, ms_of, parse_id
from eventsched.schema.keys import name_of
from eventsched.server.locks import FileLock
from eventsched.store.retry import Backoff
from eventsched.store.transport import Entry, entries_of

LEASE_MS = 15_000
RETRY_S = 0.25
IDLE_S = 0.2
DISK_S = 5
READ_MAX = 500
"""Entries of one read: what is done with them holds up whatever else this process does."""
AUDIO_BYTES_MAX = 64 * 1024 * 1024
"""A segment with so much audio ends with the read that passes it."""
AUDIO_READ_MAX = 128

State: TypeAlias = Literal["gathered", "sealed", "idle", "standby", "turned_away", "unable"]
log = structlog.get_logger("eventsched.archiver")


class StepResult(msgspec.Struct, frozen=True):
    """What one step did."""

    state: State
    record: Record | None = None


class Archiver:
    """One process's part in archiving one cell. `run` until cancelled, or `step` by step."""

    def __init__(
        self,
        views: ProjectionStore,
        folder: CellFolder,
        key: SigningKey,
        projection_set: ProjectionSet,
        *,
        audio: bool = False,
        owner: str | None = None,
    ) -> None:
        self._views = views
        self._calls = ArchiveCalls(views)
        self._folder = folder
        self._lock = FileLock(folder.path / LOCK)
        self._key = key
        self._set = projection_set
        self._audio = audio
        self._owner = owner or secrets.token_hex(8)
        self._epoch = 0
        self._sealer: Sealer | None = None
        self._has_held = False
        self._log = log.bind(cell=views.cell, archive=str(folder.path.parent))

    async def step(self, *, now: bool = False) -> StepResult:
        """Hold the archive or try to; gather what is next, and seal it when a segment is complete.

        With `now` a segment is complete when the log has no more. Raises ArchiveError when this
        folder cannot be the archive of this cell.
        """
        held = await self._calls.acquire(self._owner, LEASE_MS)
        if not isinstance(held, SetLease):
            self.let_go()
            return StepResult("standby")
        try:
            look = await self._calls.look()
            sealer = self._sealer
            if sealer is None or held.epoch != self._epoch or look.to != sealer.sealed_to:
                sealer = await self._take_over(held, look)
            if sealer is None:
                return StepResult("turned_away")
            return await self._go_on(sealer, look, now=now)
        except BaseException:
            self.let_go()  # what is gathered may lack something: it is read again
            raise

    def let_go(self) -> None:
        """What is gathered is dropped, and the folder is free for another."""
        self._sealer = None
        self._lock.release()

    # --- taking over ------------------------------------------------------------------------

    async def _take_over(self, held: SetLease, look: ArchiveState) -> Sealer | None:
        """Go on where the folder ends, if it is this cell's; none while another writes there."""
        self._sealer, self._epoch, self._has_held = None, held.epoch, True
        self._check_whose(look)
        make_private_folder(self._folder.path)
        if not self._lock.try_exclusive():  # one that lost its hold while it was frozen
            return None
        sealer = await threads.in_thread(partial(Sealer, self._folder, self._key, self._set))
        await self._check_end(sealer, look)
        removed = self._folder.remove_unfinished()
        if not await self._tell(sealer, look.to or START):
            return None
        if not sealer.records:  # from now on nothing is trimmed that is not archived
            sealer.skipped = (await self._calls.look()).gone
        self._sealer = sealer
        self._log.info("archives", epoch=held.epoch, to=sealer.sealed_to, removed=len(removed))
        return sealer

    def _check_whose(self, look: ArchiveState) -> None:
        if look.of and look.of != fingerprint(self._key.public):
            raise ArchiveError(
                f"cell {self._views.cell} has another archive (key {look.of}): "
                f"{self._folder.path.parent} has key {fingerprint(self._key.public)}"
            )

    async def _check_end(self, sealer: Sealer, look: ArchiveState) -> None:
        """The folder ends where Redis knows it to, or later by what was sealed and not yet told."""
        here, there = parse_id(sealer.sealed_to), parse_id(look.to or START)
        if here < there:
            raise ArchiveError(
                f"{self._folder.path} ends at {sealer.sealed_to}, "
                f"the cell's archive at {look.to}: segments are missing"
            )
        if here == there:
            return
        found = entries_of(await self._views.run("read_entries", sealer.sealed_to))
        record = sealer.records[-1]
        path = self._folder.path / record.file("events").name
        if [encode_entry(one) for one in found] != entries_at(path, [record.events - 1]):
            raise ArchiveError(f"{self._folder.path} is the archive of another log")

    async def _tell(self, sealer: Sealer, start: str) -> bool:
        """Redis knows how far the archive is, if it may still be this one that says so."""
        word = await self._calls.record(
            self._epoch,
            start=start,
            to=sealer.sealed_to,
            of=fingerprint(self._key.public),
            passed=sealer.passed,
            audio=self._audio,
            heard=sealer.heard,
        )
        if word == "recorded":
            return True
        self.let_go()
        if word == "other":
            raise ArchiveError(f"cell {self._views.cell} has got another archive meanwhile")
        self._log.warning("turned away", word=word)
        return False

    # --- one segment ------------------------------------------------------------------------

    async def _go_on(self, sealer: Sealer, look: ArchiveState, *, now: bool) -> StepResult:
        """One read. `look` came before it: what is older than its time is complete."""
        at_once = AUDIO_READ_MAX if self._audio else READ_MAX
        most = max(1, min(look.entries_max - len(sealer.gathered), at_once))
        entries = await self._views.read_log(sealer.last, most)
        first = sealer.gathered.first or (entries[0][0] if entries else "")
        if not first:
            return StepResult("idle")
        ends_ms = _window_end(first, look.window_ms)
        within = _before(entries, ends_ms)
        for finalized in sealer.add(within):
            if self._audio:
                await self._hear(sealer, finalized)
        is_over = look.now_ms >= ends_ms or now
        if not _is_full(sealer, look.entries_max) and not (is_over and len(within) < most):
            return StepResult("gathered" if len(within) == most else "idle")
        start = sealer.sealed_to
        record = await threads.in_thread(sealer.seal)
        self._log.info("sealed", segment=record.n, entries=record.events, to=record.last)
        return StepResult("sealed" if await self._tell(sealer, start) else "turned_away", record)

    async def _hear(self, sealer: Sealer, finalized: Finalized) -> None:
        """The chunks of an utterance as they are stored: all of them, or none where some are gone.

        They are there unless they were let go before audio was archived.
        """
        event, data = finalized
        key = self._views.keys.audio(name_of(event.session))
        reply = await self._views.transport.command(
            "XRANGE", key, data.first, data.last, "COUNT", data.count, key=key
        )
        chunks = [encode_entry(one) for one in entries_of(reply)]
        if len(chunks) == data.count:
            sealer.hear(Utterance(event.id, event.session, data.utterance, chunks), data)

    # --- the role ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Archive until cancelled, then let a standby take over at once."""
        transport = self._views.transport
        backoff = Backoff(transport, log, role="archiver", cell=self._views.cell)
        pauses = {"idle": IDLE_S, "standby": RETRY_S, "turned_away": RETRY_S, "unable": DISK_S}
        try:
            while True:
                async with backoff.attempt():
                    try:
                        stepped = await self.step()
                    except OSError as error:  # the disk is full, or away: nothing is lost by it
                        self._log.error("cannot write", error=str(error))
                        stepped = StepResult("unable")
                    await transport.sleep(pauses.get(stepped.state, 0))
        finally:
            with anyio.move_on_after(1, shield=True), suppress(ServerUnavailable):
                await self.release()

    async def release(self) -> None:
        """Give the archive up, if this one holds it."""
        self.let_go()
        if self._has_held:
            await self._calls.acquire(self._owner, 0)


def _window_end(first: str, window_ms: int) -> int:
    ms = ms_of(first)
    return ms - ms % window_ms + window_ms


def _before(entries: list[Entry], ends_ms: int) -> list[Entry]:
    """Those of the window: mostly all of them, which the last one tells."""
    if not entries or ms_of(entries[-1][0]) < ends_ms:
        return entries
    return [one for one in entries if ms_of(one[0]) < ends_ms]


def _is_full(sealer: Sealer, entries_max: int) -> bool:
    gathered = sealer.gathered
    return len(gathered) >= entries_max or gathered.audio_bytes >= AUDIO_BYTES_MAX
