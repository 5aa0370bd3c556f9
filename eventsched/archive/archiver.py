"""The archiver role: seals the log segment by segment and records its progress in Redis.

Owns: the right to archive (a lease with an epoch, and a lock on the folder), the end of a segment,
reading its audio, recording progress after the files are on disk, the checks that folder and cell
belong together.
Must not: trim the log (the trimmer does, up to the recorded progress), or change sealed files.
Read next: sealer.py, packer.py, lua/record_seal.lua, roles/trimmer.py.

A segment begins after the previous one. It ends after `archive_entries_max` entries, at the end of
the time window (`archive_window_ms`) of its first entry, or at a number of bytes. So its range
follows from the log alone, and an archiver that repeats it after a crash writes the same files. The
order is files, record, Redis, checkpoint; each step may be repeated. Then segments may be packed.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from functools import partial
from typing import Literal, TypeAlias

import anyio
import msgspec

from eventsched.archive import threads
from eventsched.archive.checkpoints import CheckpointFolder
from eventsched.archive.codec import encode_entry
from eventsched.archive.commands import LEASE_MS, ArchiveCommands, ArchiveState
from eventsched.archive.layout import LOCK, CellFolder
from eventsched.archive.manifest import Record
from eventsched.archive.packer import remove_packed_files
from eventsched.archive.sealer import Finalized, OpenSegment, Sealer
from eventsched.archive.segment import Utterance
from eventsched.archive.set_aside import is_in_log
from eventsched.archive.signing import SigningKey, fingerprint
from eventsched.errors import ArchiveError, ServerUnavailable
from eventsched.logs import get_logger
from eventsched.private_files import make_private_folder
from eventsched.projection.protocol import ProjectionSet
from eventsched.projection.store import ProjectionStore, SetLease
from eventsched.schema.ids import START, ms_of, parse_id
from eventsched.schema.keys import name_of
from eventsched.server.locks import FileLock
from eventsched.store.retry import Backoff
from eventsched.store.transport import Entry, entries_of

RETRY_S = 0.25
IDLE_S = 0.2
READ_MAX = 500
"""Entries of one read. Their processing blocks the event loop."""
AUDIO_BYTES_MAX = 64 * 1024 * 1024
"""A segment that stores audio ends with the utterance with which it reaches this amount."""
ENTRY_BYTES_MAX = 256 * 1024 * 1024
"""A segment ends with the entry with which it reaches this amount: far below the limit of what a
reader decompresses (pages.py)."""
AUDIO_READ_MAX = 128

State: TypeAlias = Literal["buffered", "sealed", "idle", "standby", "lease_lost"]
log = get_logger("eventsched.archiver")


class StepResult(msgspec.Struct, frozen=True):
    """What a step did."""

    state: State
    record: Record | None = None


class Archiver:
    """Archives one cell. `run` until cancelled, or call `step`."""

    def __init__(
        self,
        store: ProjectionStore,
        folder: CellFolder,
        key: SigningKey,
        projection_set: ProjectionSet,
        *,
        audio: bool = False,
        owner: str | None = None,
        checkpoints: CheckpointFolder | None = None,
    ) -> None:
        self._store = store
        self._commands = ArchiveCommands(store)
        self._folder = folder
        self._lock = FileLock(folder.path / LOCK)
        self._key = key
        self._set = projection_set
        self._audio = audio
        self._owner = owner or secrets.token_hex(8)
        self._checkpoints = checkpoints
        self._epoch = 0
        self._sealer: Sealer | None = None
        self._had_lease = False
        self._log = log.bind(cell=store.cell, archive=str(folder.path.parent))

    async def step(self, *, now: bool = False) -> StepResult:
        """Acquire the lease, buffer the next entries, and seal a segment when it is complete.

        With `now` a segment is also complete at the end of the log. Raises ArchiveError if this
        folder cannot be the archive of this cell.
        """
        lease = await self._commands.acquire(self._owner, LEASE_MS)
        if not isinstance(lease, SetLease):
            self.discard()
            return StepResult("standby")
        try:
            state = await self._commands.read_state()
            sealer = self._sealer
            if sealer is None or lease.epoch != self._epoch or state.to != sealer.sealed_to:
                sealer = await self._open_sealer(lease, state)
            if sealer is None:
                return StepResult("lease_lost")
            return await self._read_and_seal(sealer, state, now=now)
        except BaseException:
            self.discard()  # the buffer may be incomplete: read its entries again
            raise

    def discard(self) -> None:
        """Discard the buffered entries and release the lock on the folder."""
        self._sealer = None
        self._lock.release()

    # --- taking over ------------------------------------------------------------------------

    async def _open_sealer(self, lease: SetLease, state: ArchiveState) -> Sealer | None:
        """Return a sealer that continues at the end of the archive.

        Checks that the folder is this cell's archive, and records its end in Redis. Returns None if
        another process has the folder's lock, or if the lease is lost. Raises ArchiveError if the
        folder is not this cell's archive.
        """
        self._sealer, self._epoch, self._had_lease = None, lease.epoch, True
        self._check_key(state)
        make_private_folder(self._folder.path)
        if not self._lock.try_exclusive():  # a paused process that has lost its lease
            return None
        sealer = await threads.in_thread(partial(Sealer, self._folder, self._key, self._set))
        await self._check_end(sealer, state)
        removed = self._folder.remove_unfinished()
        removed += await threads.in_thread(partial(remove_packed_files, self._folder))
        if not await self._record(sealer, state.to or START):
            return None
        if not sealer.records:  # from now on only archived entries are trimmed
            sealer.skipped = (await self._commands.read_state()).trimmed
        self._sealer = sealer
        await self._update_checkpoint(sealer)
        self._log.info("archiving", epoch=lease.epoch, to=sealer.sealed_to, removed=len(removed))
        return sealer

    def _check_key(self, state: ArchiveState) -> None:
        if state.fingerprint and state.fingerprint != fingerprint(self._key.public):
            raise ArchiveError(
                f"cell {self._store.cell} has another archive (key {state.fingerprint}): "
                f"{self._folder.path.parent} has key {fingerprint(self._key.public)}"
            )

    async def _check_end(self, sealer: Sealer, state: ArchiveState) -> None:
        """Check that the folder ends at the recorded end, or after it with entries of this log."""
        sealed_to, recorded_to = parse_id(sealer.sealed_to), parse_id(state.to or START)
        if sealed_to < recorded_to:
            raise ArchiveError(
                f"{self._folder.path} ends at {sealer.sealed_to}, "
                f"the cell's archive at {state.to}: segments are missing"
            )
        if sealed_to == recorded_to:
            return
        if not await is_in_log(self._store, self._folder, sealer.records[-1]):
            raise ArchiveError(
                f"{self._folder.path} is the archive of another log, or the log has lost entries "
                f"up to {sealer.sealed_to}, which only the archive has; if the server has lost its "
                f"last writes, set these segments aside: eventsched audit set-aside "
                f"--archive {self._folder.path.parent} --why TEXT"
            )

    async def _record(self, sealer: Sealer, start: str) -> bool:
        """Record the end of the archive in Redis. False if the lease was lost."""
        word = await self._commands.record(
            self._epoch,
            start=start,
            to=sealer.sealed_to,
            fingerprint=fingerprint(self._key.public),
            processed=sealer.processed,
            audio=self._audio,
            audio_to=sealer.audio_to,
        )
        if word == "recorded":
            return True
        self.discard()
        if word == "other":
            raise ArchiveError(f"cell {self._store.cell} has another archive now")
        self._log.warning("turned away", word=word)
        return False

    # --- one segment ------------------------------------------------------------------------

    async def _read_and_seal(self, sealer: Sealer, state: ArchiveState, *, now: bool) -> StepResult:
        """Read the next entries into the open segment, and seal it if it is complete.

        A segment is complete if it is full, or if its window is over and no entry of the window is
        left to read. `state` must have been read before the entries. `now` treats the window as
        over.
        """
        read_max = AUDIO_READ_MAX if self._audio else READ_MAX
        count = max(1, min(state.entries_max - len(sealer.open_segment), read_max))
        entries = await self._store.read_log(sealer.last, count)
        first = sealer.open_segment.first or (entries[0][0] if entries else "")
        if not first:
            return StepResult("idle")
        end_ms = _window_end(first, state.window_ms)
        in_window = _before(entries, end_ms)
        is_full = partial(_is_full, entries_max=state.entries_max, audio=self._audio)
        for finalized in sealer.add(in_window, is_full):
            if self._audio:
                await self._add_audio(sealer, finalized)
        is_over = state.now_ms >= end_ms or now
        if not is_full(sealer.open_segment) and not (is_over and len(in_window) < count):
            return StepResult("buffered" if len(in_window) == count else "idle")
        start = sealer.sealed_to
        record = await threads.in_thread(sealer.seal)
        self._log.info("sealed", segment=record.n, entries=record.events, to=record.last)
        if not await self._record(sealer, start):
            return StepResult("lease_lost", record)
        await self._update_checkpoint(sealer)
        await self._pack(sealer)
        return StepResult("sealed", record)

    async def _update_checkpoint(self, sealer: Sealer) -> None:
        """Store the newest head in the second place, if there is one.

        Archiving continues after a failure, which is logged: the log must not grow because the
        second place is full or away. The next segment tries again.
        """
        if self._checkpoints is None:
            return
        update = partial(self._checkpoints.update, self._store.cell, sealer.records)
        try:
            await threads.in_thread(update)
        except ArchiveError as error:
            self._log.error("checkpoint not written", error=str(error))

    async def _pack(self, sealer: Sealer) -> None:
        """Pack the next segments, if all of them are sealed.

        Nothing depends on a pack but the time of reads, so a failure is logged and archiving
        continues. The next segment tries again.
        """
        try:
            name = await threads.in_thread(sealer.pack)
        except (ArchiveError, OSError) as error:
            self._log.error("cannot pack segments", error=str(error))
            return
        if name:
            self._log.info("packed", pack=name)

    async def _add_audio(self, sealer: Sealer, finalized: Finalized) -> None:
        """Add the stored chunks of an utterance, unless some of them were trimmed.

        Chunks are trimmed before they are archived only while audio is not archived.
        """
        event, data = finalized
        key = self._store.keys.audio(name_of(event.session))
        reply = await self._store.transport.command(
            "XRANGE", key, data.first, data.last, "COUNT", data.count, key=key
        )
        chunks = [encode_entry(entry) for entry in entries_of(reply)]
        if len(chunks) == data.count:
            sealer.add_audio(Utterance(event.id, event.session, data.utterance, chunks))

    # --- the role ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Archive until cancelled, then release the lease for a standby.

        Raises:
            ArchiveError: The folder cannot be the archive of this cell, or cannot be written,
                because the disk is full for example. Nothing is lost: `Supervisor` starts the role
                again, and its presence is failing until then.
        """
        transport = self._store.transport
        backoff = Backoff(transport, log, role="archiver", cell=self._store.cell)
        pauses = {"idle": IDLE_S, "standby": RETRY_S, "lease_lost": RETRY_S}
        try:
            while True:
                async with backoff.attempt():
                    try:
                        result = await self.step()
                    except OSError as error:
                        what = f"cannot write to {self._folder.path}: {error.strerror or error}"
                        raise ArchiveError(what) from error
                    await transport.sleep(pauses.get(result.state, 0))
        finally:
            with anyio.move_on_after(1, shield=True), suppress(ServerUnavailable):
                await self.release()

    async def release(self) -> None:
        """Release the lease and the lock on the folder."""
        self.discard()
        if self._had_lease:
            await self._commands.acquire(self._owner, 0)


def _window_end(first: str, window_ms: int) -> int:
    ms = ms_of(first)
    return ms - ms % window_ms + window_ms


def _before(entries: list[Entry], end_ms: int) -> list[Entry]:
    """The entries before this time; the last entry shows whether these are all."""
    if not entries or ms_of(entries[-1][0]) < end_ms:
        return entries
    return [entry for entry in entries if ms_of(entry[0]) < end_ms]


def _is_full(segment: OpenSegment, *, entries_max: int, audio: bool) -> bool:
    return (
        len(segment) >= entries_max
        or (audio and segment.audio_bytes >= AUDIO_BYTES_MAX)
        or segment.rows.bytes >= ENTRY_BYTES_MAX
    )
