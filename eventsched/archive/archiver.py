"""The archiver role: seals the log, segment by segment, and says how far.

Owns: who archives (a hold fenced by epoch), where a segment ends, the audio beside it, what is told
to Redis once files are on disk, the checks that folder and cell belong together.
Never does: trim (timekeepers do, by what this one has told); change what is sealed.
Read next: seal.py, lua/record_seal.lua, trimming.py.

A segment begins behind the one before it and ends after `entries_max` entries, or where the window
of time ends that its first entry lies in. So its range follows from the log alone: who does it
again after a crash writes the same files. Order: files, record, Redis; each may be done twice.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal, TypeAlias

import anyio
import anyio.to_thread
import msgspec
import structlog

from eventsched.archive.calls import ArchiveCalls, Look
from eventsched.archive.entry import stored
from eventsched.archive.errors import ArchiveError
from eventsched.archive.ids import place_of
from eventsched.archive.layout import CellFolder
from eventsched.archive.record import Record
from eventsched.archive.seal import Sealer
from eventsched.archive.segment import Utterance, entries_at
from eventsched.archive.signing import SigningKey, fingerprint
from eventsched.errors import ServerUnavailable
from eventsched.events import Event
from eventsched.keys import name_of
from eventsched.projection import ProjectionSet
from eventsched.roles import Patience
from eventsched.transport import Entry, entries_of
from eventsched.views import START, Held, Views

HOLD_MS = 15_000
RETRY_S = 0.25
IDLE_S = 0.2
READ_MAX = 1_000
ENTRIES_MAX = 50_000
WINDOW_MS = 300_000
AUDIO_BYTES_MAX = 64 * 1024 * 1024
"""A segment with so much audio ends with the read that passes it."""
AUDIO_READ_MAX = 128
CHUNKS_MAX = 2_000

State: TypeAlias = Literal["sealed", "idle", "standby", "turned_away"]
log = structlog.get_logger("eventsched.archiver")


class Stepped(msgspec.Struct, frozen=True):
    """What one step did."""

    state: State
    record: Record | None = None


class Archiver:
    """One process's part in archiving one cell. `run` until cancelled, or `step` by step."""

    def __init__(
        self,
        views: Views,
        folder: CellFolder,
        key: SigningKey,
        projection_set: ProjectionSet,
        *,
        audio: bool = False,
        entries_max: int = ENTRIES_MAX,
        window_ms: int = WINDOW_MS,
        holder: str | None = None,
    ) -> None:
        self._views = views
        self._calls = ArchiveCalls(views)
        self._folder = folder
        self._key = key
        self._set = projection_set
        self._audio = audio
        self._entries_max = entries_max
        self._window_ms = window_ms
        self._holder = holder or secrets.token_hex(8)
        self._epoch = 0
        self._sealer: Sealer | None = None
        self._skipped = 0
        self._has_held = False
        self._log = log.bind(cell=views.cell, archive=str(folder.path.parent))

    async def step(self, *, now: bool = False) -> Stepped:
        """Hold the archive or try to; seal one segment if one is complete (or, `now`, begun).

        Raises ArchiveError when this folder cannot be the archive of this cell.
        """
        held = await self._calls.acquire(self._holder, HOLD_MS)
        if not isinstance(held, Held):
            self._sealer = None
            return Stepped("standby")
        look = await self._calls.look()
        if self._sealer is None or held.epoch != self._epoch:
            self._sealer = None
            if not await self._take_over(held, look):
                return Stepped("turned_away")
        assert self._sealer is not None
        try:
            return await self._seal_next(self._sealer, look, now=now)
        except ServerUnavailable:
            raise  # what is gathered goes on where it is
        except BaseException:
            self._sealer = None
            raise

    # --- taking over ------------------------------------------------------------------------

    async def _take_over(self, held: Held, look: Look) -> bool:
        """Go on where the folder ends, if it is this cell's."""
        self._check_whose(look)
        removed = self._folder.remove_unfinished()
        sealer = await anyio.to_thread.run_sync(Sealer, self._folder, self._key, self._set)
        await self._check_end(sealer, look)
        self._skipped = look.gone if not sealer.records else 0
        self._epoch, self._has_held = held.epoch, True
        at = look.to or START
        self._sealer = sealer
        self._log.info("archives", epoch=held.epoch, to=sealer.sealed_to, removed=len(removed))
        return await self._tell(sealer, at)

    def _check_whose(self, look: Look) -> None:
        if look.of and look.of != fingerprint(self._key.public):
            raise ArchiveError(
                f"cell {self._views.cell} has another archive (key {look.of}): "
                f"{self._folder.path.parent} has key {fingerprint(self._key.public)}"
            )

    async def _check_end(self, sealer: Sealer, look: Look) -> None:
        """The folder ends where Redis knows it to, or later by what was sealed and not yet told."""
        here, there = place_of(sealer.sealed_to), place_of(look.to or START)
        if here < there:
            raise ArchiveError(
                f"{self._folder.path} ends at {sealer.sealed_to}, "
                f"the cell's archive at {look.to}: segments are missing"
            )
        if here == there:
            return
        entry_id = sealer.sealed_to
        found = entries_of(
            await self._views.run("read_entries", entry_id)
        )
        record = sealer.records[-1]
        path = self._folder.path / record.file("events").name
        if [stored(one) for one in found] != entries_at(path, [record.events - 1]):
            raise ArchiveError(f"{self._folder.path} is the archive of another log")

    async def _tell(self, sealer: Sealer, start: str) -> bool:
        head = sealer.head
        passed = head.skipped + head.events if head else self._skipped
        word = await self._calls.record(
            self._epoch,
            start=start,
            to=sealer.sealed_to,
            of=fingerprint(self._key.public),
            passed=passed,
            audio=self._audio,
        )
        if word == "recorded":
            return True
        if word == "other":
            raise ArchiveError(f"cell {self._views.cell} has got another archive meanwhile")
        self._log.warning("turned away", word=word)
        self._sealer = None
        return False

    # --- one segment ------------------------------------------------------------------------

    async def _seal_next(self, sealer: Sealer, look: Look, *, now: bool) -> Stepped:
        first = sealer.gathered.first or await self._first_behind(sealer.last)
        if first is None:
            return Stepped("idle")
        ends_ms = self._window_end(first)
        head = sealer.head
        waiting = look.added - (head.skipped + head.events if head else self._skipped)
        if not now and waiting < self._entries_max and look.now_ms < ends_ms:
            return Stepped("idle")
        await self._gather(sealer, look.last if now else f"{ends_ms - 1}", ends_ms)
        utterances = await self._heard(sealer.gathered.finalized) if self._audio else None
        start = sealer.sealed_to
        record = await anyio.to_thread.run_sync(
            lambda: sealer.seal(utterances, skipped=self._skipped)
        )
        self._log.info("sealed", segment=record.n, entries=record.events, to=record.last)
        if not await self._tell(sealer, start):
            return Stepped("turned_away", record)
        return Stepped("sealed", record)

    def _window_end(self, first: str) -> int:
        ms = place_of(first)[0]
        return ms - ms % self._window_ms + self._window_ms

    async def _first_behind(self, last: str) -> str | None:
        entries = await self._views.read_log(last, 1)
        return entries[0][0] if entries else None

    async def _gather(self, sealer: Sealer, upto: str, ends_ms: int) -> None:
        """All up to this id that goes into one segment."""
        at_once = AUDIO_READ_MAX if self._audio else READ_MAX
        while (left := self._entries_max - len(sealer.gathered)) > 0:
            entries = await self._views.read_log(sealer.last, min(left, at_once), upto)
            within = [one for one in entries if place_of(one[0])[0] < ends_ms]
            sealer.add(within)
            if len(within) < min(left, at_once):
                return
            if self._audio and sealer.gathered.audio_bytes >= AUDIO_BYTES_MAX:
                return

    async def _heard(self, finalized: Sequence[Event]) -> list[Utterance]:
        """The chunks of each utterance, as they are stored."""
        return [
            Utterance(
                event.id,
                event.session,
                event.data.utterance,  # type: ignore[union-attr]
                [stored(chunk) for chunk in await self._chunks(event)],
            )
            for event in finalized
        ]

    async def _chunks(self, event: Event) -> list[Entry]:
        data = event.data
        key = self._views.keys.audio(name_of(event.session))
        reply = await self._views.transport.command(
            "XRANGE", key, data.first, data.last, "COUNT", CHUNKS_MAX, key=key  # type: ignore[union-attr]
        )
        return entries_of(reply)

    # --- the role ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Archive until cancelled, then let a standby take over at once."""
        transport = self._views.transport
        patience = Patience(transport, log, role="archiver", cell=self._views.cell)
        try:
            while True:
                async with patience.with_server():
                    stepped = await self.step()
                    if stepped.state == "idle":
                        await transport.sleep(IDLE_S)
                    elif stepped.state != "sealed":
                        await transport.sleep(RETRY_S)
        finally:
            with anyio.move_on_after(1, shield=True), suppress(ServerUnavailable):
                await self.release()

    async def release(self) -> None:
        """Give the archive up, if this one holds it."""
        self._sealer = None
        if self._has_held:
            await self._calls.acquire(self._holder, 0)
