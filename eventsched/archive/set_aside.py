"""Sets aside the sealed tail of an archive that the log has lost.

A server that loses its last writes comes back with a shorter log. Segments that were sealed after
that end are in the archive only, and new entries take their place in the log.

Owns: finding these segments, moving them to a sub-folder of the cell, the note in it.
Must not: delete or change a segment, or decide by itself: an operator asks for it.
Read next: archiver.py (refuses such an archive), lua/set_aside_archive.lua, verifier.py.

    DIR/<cell>/set-aside/<first>_<last>/     the files of the segments, byte for byte
    DIR/<cell>/set-aside/<first>_<last>/note.json   which segments, why, by whom; written last

Segments in a pack get their own files first. The files are linked into the sub-folder before they
are removed from the folder of the cell, the last record first. So the rest is a sequence of
segments at any time, and an interrupted move can be completed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from eventsched.archive.codec import encode_entry
from eventsched.archive.commands import LEASE_MS, ArchiveCommands, ArchiveState
from eventsched.archive.layout import (
    LOCK,
    NOTE,
    CellFolder,
    SetAsideNote,
    record_name,
)
from eventsched.archive.manifest import Record
from eventsched.archive.packer import unpack_from
from eventsched.archive.sealed_file import open_sealed
from eventsched.archive.segment import entries_at
from eventsched.archive.segments import Segments
from eventsched.archive.signing import fingerprint
from eventsched.errors import ArchiveError
from eventsched.private_files import make_private_folder, sync_folder
from eventsched.projection.store import ProjectionStore, SetLease
from eventsched.schema.ids import START, parse_id
from eventsched.server.locks import FileLock

ROOTS_MAX = 64


async def is_in_log(store: ProjectionStore, folder: CellFolder, record: Record) -> bool:
    """Whether the log has the last entry of the segment, with the same bytes."""
    entries = await store.read_entries([record.last])
    if not entries:
        return False
    with open_sealed(folder, record, "events") as file:
        last = entries_at(file, [record.events - 1])
    return [encode_entry(entry) for entry in entries] == last


class SetAside:
    """Sets aside the lost tail of one cell's archive.

    Args:
        store: The cell.
        folder: The cell's folder in the archive.
        public: The public key of the archive.
    """

    def __init__(self, store: ProjectionStore, folder: CellFolder, public: bytes) -> None:
        self._store = store
        self._commands = ArchiveCommands(store)
        self._folder = folder
        self._key = fingerprint(public)

    async def lost_tail(self) -> list[Record]:
        """Return the segments that the log has lost; empty if archiving can continue.

        Raises ArchiveError if the folder is not this cell's archive, or if segments are missing.
        """
        state = await self._commands.read_state()
        records = self._folder.records()
        recorded = self._recorded(state, records)
        for record in reversed(records[recorded:]):
            if await is_in_log(self._store, self._folder, record):
                return records[record.n + 1 :]
        return records[recorded:]

    def _recorded(self, state: ArchiveState, records: Segments) -> int:
        """How many segments the cell has recorded as archived."""
        if state.fingerprint and state.fingerprint != self._key:
            raise ArchiveError(
                f"cell {self._store.cell} has another archive (key {state.fingerprint}): "
                f"{self._folder.path.parent} has key {self._key}"
            )
        to = state.to or START
        recorded = records.count_to(parse_id(to))
        if to != START and (not recorded or records.ids(recorded - 1)[1] != parse_id(to)):
            raise ArchiveError(
                f"{self._folder.path} has no segment that ends at {to}, "
                f"as the cell's archive does: segments are missing"
            )
        return recorded

    async def run(self, *, why: str, by: str, owner: str) -> SetAsideNote | None:
        """Set the lost tail aside and return its note; None if there is none.

        An event in the log records it first. A repeated call completes an interrupted one.

        Raises:
            ArchiveError: The folder is not this cell's archive, or an archiver has its lease.
            InvalidMessage: `why` or `by` is empty or too long.
        """
        lease = await self._commands.acquire(owner, LEASE_MS)
        if not isinstance(lease, SetLease):
            raise ArchiveError(f"an archiver of cell {self._store.cell} runs: stop it first")
        try:
            return await self._run(lease.epoch, why, by)
        finally:
            await self._commands.acquire(owner, 0)

    async def _run(self, epoch: int, why: str, by: str) -> SetAsideNote | None:
        make_private_folder(self._folder.path)
        lock = FileLock(self._folder.path / LOCK)
        if not lock.try_exclusive():
            raise ArchiveError(f"another process writes to {self._folder.path}: stop it first")
        try:
            for path in self._folder.set_aside_folders():
                if self._folder.has_note(path):
                    _remove_moved(self._folder, path)
            tail = await self.lost_tail()
            if not tail:
                return None
            note = SetAsideNote.of(tail, key=self._key, why=why, by=by)
            roots = [record.root for record in tail[:ROOTS_MAX]]
            unpack_from(self._folder, note.first_segment)
            if await self._commands.set_aside(epoch, note, roots) == "fenced":
                raise ArchiveError(f"an archiver of cell {self._store.cell} has taken over")
            _move(self._folder, tail, note)
            return note
        finally:
            lock.release()


def _move(folder: CellFolder, tail: Sequence[Record], note: SetAsideNote) -> None:
    """Move the segments to the sub-folder."""
    target = folder.path_of(note)
    make_private_folder(target)
    for record in tail:
        for name in [*(file.name for file in record.files), record_name(record)]:
            _link(folder.path / name, target / name)
    CellFolder(target).write(NOTE, msgspec.json.encode(note) + b"\n")
    sync_folder(target)
    _remove_moved(folder, target)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileExistsError:
        if not target.samefile(source):
            raise ArchiveError(f"{target} is another file than {source}") from None


def _remove_moved(folder: CellFolder, target: Path) -> None:
    """Remove the files that are in the sub-folder from the cell's folder, the last record first."""
    names = sorted(os.listdir(target), key=lambda name: (name.endswith(".json"), name))
    for name in reversed(names):
        path = folder.path / name
        if path.exists() and path.samefile(target / name):
            path.unlink()
            sync_folder(folder.path)
