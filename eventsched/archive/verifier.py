"""Verifies an archive's folder against a key and a checkpoint. No server.

Owns: the checks, in an order that finds a change with the least work; how far the archive is
checked, and by what.
Must not: write.
Read next: checkpoints.py, affected.py, manifest.py (the signed bytes), merkle.py, derived.py,
snapshot.py, proof.py.

An unsigned change of any file breaks a hash that a signed tree head covers. Segments that are
removed at the end, or a history that was sealed again with the same key, can only be detected with
a checkpoint.

A problem ends no check of what does not depend on it: segments that can be read are checked also if
others are missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from eventsched.archive import merkle
from eventsched.archive.affected import Affected, of_end, of_gap, of_segment
from eventsched.archive.checkpoints import StoredHead, read_checkpoint
from eventsched.archive.codec import decode_entry, entry_leaves
from eventsched.archive.files import FileFault
from eventsched.archive.layout import (
    NOTE,
    PUBLIC,
    SET_ASIDE,
    ArchiveFolder,
    CellFolder,
    SetAsideNote,
    check_sequence,
    record_name,
)
from eventsched.archive.manifest import (
    CHAIN_START,
    Record,
    SegmentTree,
    chain_after,
)
from eventsched.archive.pack import Pack
from eventsched.archive.segments import Segments
from eventsched.archive.signing import fingerprint, read_public
from eventsched.errors import ArchiveError
from eventsched.private_files import PART
from eventsched.projection.fold import decode_event
from eventsched.projection.installed import load_core
from eventsched.projection.protocol import ProjectionSet
from eventsched.schema.events import Event
from eventsched.schema.keys import CELL

RELIST_S = 0.5
"""A running archiver writes a segment's record shortly after its files."""
Progress = Callable[[int], None]
Tail: TypeAlias = tuple[CellFolder, list[Record]]
"""Segments that were set aside, and their folder."""
Effect: TypeAlias = Literal[
    "archive", "extra", "signature", "missing", "events", "sessions", "snapshot", "audio",
    "columns", "pack", "set_aside", "checkpoint",
]  # fmt: skip
"""What a problem touches: the whole archive, or this content of some segments."""
CONTENT: dict[str, Effect] = {
    "events": "events", "sessions": "sessions", "snapshot": "snapshot", "audio": "audio",
}  # fmt: skip
"""Kind of a file -> the effect of another content."""


class Problem(msgspec.Struct, frozen=True):
    """A difference from the sealed state."""

    where: str
    what: str
    effect: Effect
    cell: str = ""
    """The cell; empty if the problem is of the whole archive."""
    affected: Affected | None = None
    """The events that it concerns; None if there are none, or if they are not known."""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class Reach(msgspec.Struct, kw_only=True):
    """How far the events of a cell are checked, if it has no problem."""

    cell: str
    events: int
    last: str
    """Id of the last event whose signature is checked."""
    checkpoint: str = ""
    """The file of the checkpoint; empty if none has this cell."""
    checkpoint_last: str = ""
    """Id of the last event that the checkpoint covers."""
    checkpoint_events: int = 0
    """How many events the checkpoint covers."""


class AuditReport(msgspec.Struct, kw_only=True):
    """The result of a verification."""

    key: str = ""
    """Fingerprint of the archive's key."""
    key_from: Literal["file", "checkpoint", "archive"] = "archive"
    """Where the key is from: a file that the user trusts, a checkpoint, or the archive itself."""
    is_key_checked: bool = False
    """A trusted key or a checkpoint was given. Otherwise the key is the one in the folder: the
    maker of the folder can sign any history with it."""
    cells: int = 0
    segments: int = 0
    events: int = 0
    checkpoints: int = 0
    reach: list[Reach] = []
    """One for each cell without a problem."""
    problems: list[Problem] = []
    set_aside: list[SetAsideNote] = []
    """Segments that an operator has set aside, because the log had lost them; also those in a
    folder without a note, whose reason is unknown."""


class Verifier:
    """Verifies an archive once."""

    def __init__(
        self,
        path: Path,
        *,
        checkpoint: Path | None = None,
        key: Path | None = None,
        projection_set: ProjectionSet | None = None,
    ) -> None:
        """Raises ArchiveError if `path` is not an archive, or key or checkpoint are not valid."""
        self.folder = ArchiveFolder.open(path)
        self.report = AuditReport(
            key=fingerprint(self.folder.public),
            key_from="file" if key else "checkpoint" if checkpoint else "archive",
            is_key_checked=key is not None or checkpoint is not None,
        )
        self._public = read_public(key) if key is not None else self.folder.public
        self._heads: list[StoredHead] = []
        if checkpoint is not None:
            self._heads = read_checkpoint(checkpoint, self._public)
        self._set = projection_set
        self._core = projection_set or load_core()
        self._faulty: set[Path] = set()
        """Files that are not those that were sealed."""
        self._progress: Progress = lambda _: None
        self._tails: list[Tail] = []
        self._reach: dict[str, Reach] = {}

    def on_progress(self, progress: Progress) -> None:
        """Call `progress` with the number of verified events."""
        self._progress = progress

    def run(self) -> AuditReport:
        """Verify everything and return the report."""
        problems = self.report.problems = list(self.problems())
        broken = {problem.cell for problem in problems if problem.effect != "extra"}
        if "" not in broken:
            cells = self._reach.values()
            self.report.reach = [reach for reach in cells if reach.cell not in broken]
        return self.report

    def problems(self) -> Iterator[Problem]:
        """The problems, cheap checks first."""
        if self._public != self.folder.public:
            key = fingerprint(self.folder.public)
            yield Problem(PUBLIC, f"is key {key}, not {fingerprint(self._public)}", "archive")
        yield from self._foreign_files()
        readable: list[tuple[CellFolder, list[Record]]] = []
        packed: list[tuple[CellFolder, Segments]] = []
        broken: list[tuple[CellFolder, list[Record]]] = []
        for name in self.folder.cells():
            cell = self.folder.cell(name)
            try:
                segments = cell.records()
                records = segments[:]
            except ArchiveError as error:
                yield Problem(name, str(error), "missing", name)
                broken.append((cell, []))
                yield from self._readable(cell, broken[-1][1])
                continue
            yield from self._records(cell, records, segments.packs)
            yield from self._set_aside(cell, records)
            readable.append((cell, records))
            packed.append((cell, segments))
        yield from self._checkpoints({cell.cell: each for cell, each in [*readable, *broken]})
        for cell, records in [*readable, *broken, *self._tails]:
            yield from self._sums(cell, records)
        for cell, segments in packed:
            yield from self._packs(cell, segments)
            yield from self._own_files_of_packed(cell, segments)
        for cell, records in self._tails:
            yield from self._leaves(cell, records)
        for cell, records in broken:
            yield from self._leaves(cell, records, counted=True)
        for cell, records in readable:
            yield from self._leaves(cell, records, counted=True)
            if self._set is not None:
                yield from self._snapshots(cell, records, self._set)

    # --- records and heads -------------------------------------------------------------------

    def _foreign_files(self) -> Iterator[Problem]:
        """Files that are not part of an archive."""
        for path in sorted(self.folder.path.iterdir()):
            is_cell = path.is_dir() and not path.is_symlink() and CELL.fullmatch(path.name)
            if path.name != PUBLIC and not is_cell and path.suffix != PART:
                yield Problem(path.name, "is not part of the archive", "extra")

    def _readable(self, cell: CellFolder, records: list[Record]) -> Iterator[Problem]:
        """Add the records of a broken cell that can be read to `records`, and check them.

        Packs and segments that were set aside are not compared with a broken sequence.
        """
        try:
            found, faults = cell.readable_records()
        except ArchiveError:
            return  # the folder is a link, as the first problem says
        records += found
        for name, what in faults:
            yield Problem(f"{cell.cell}/{name}", what, "missing", cell.cell)
        before: Record | None = None
        for record in found:
            if record.n != (before.n + 1 if before is not None else 0):
                where, gap = f"{cell.cell} segment {record.n}", of_gap(cell.cell, before, record)
                what = "the segments before it are missing"
                yield Problem(where, what, "missing", cell.cell, gap)
            before = record
        self.report.cells += 1
        self.report.segments += len(found)
        yield from self._heads_of(cell, found, 0)

    def _records(
        self, cell: CellFolder, records: Sequence[Record], packs: Sequence[Pack]
    ) -> Iterator[Problem]:
        """Check the records with their signed heads, and that they name every file."""
        self.report.cells += 1
        yield from self._heads_of(cell, records, 0)
        self.report.segments += len(records)
        if records:
            head = records[-1].head
            self._reach[cell.cell] = Reach(cell=cell.cell, events=head.events, last=head.last)
        yield from self._unlisted(cell, records, packs)

    def _heads_of(
        self, cell: CellFolder, records: Sequence[Record], start: int
    ) -> Iterator[Problem]:
        """Check the chain, the tree and the signed heads of the records from `start` on.

        After a record that does not follow, the tree cannot be computed. Then the chain shows
        whether each further record follows from the one before it.
        """
        tree, skipped = SegmentTree(), records[0].head.skipped if records else 0
        for record in records[:start]:
            tree.add(record.segment)
        is_sequence = True
        for at, record in enumerate(records[start:], start):
            before = records[at - 1] if at else None
            what = ""
            if is_sequence:
                is_sequence = record.n == at and tree.follows(record, skipped=skipped)
                what = "" if is_sequence else "does not follow from the segments up to it"
            elif not _is_next(before, record):
                what = "does not follow from the segment before it, which is missing or changed"
            if not what and not record.head.is_signed_by(self._public):
                what = f"is not signed by key {fingerprint(self._public)}"
            if what:
                where = f"{self._name(cell)} segment {record.n}"
                yield Problem(where, what, "signature", cell.cell, self._of(cell, record))

    def _of(self, cell: CellFolder, record: Record) -> Affected:
        """All events of a segment."""
        return of_segment(cell, record, partial(self._is_faulty, cell))

    def _name(self, cell: CellFolder) -> str:
        """The folder in the archive: the cell, or its folder of segments that were set aside."""
        return cell.path.relative_to(self.folder.path).as_posix()

    def _unlisted(
        self, cell: CellFolder, records: Sequence[Record], packs: Sequence[Pack]
    ) -> Iterator[Problem]:
        unlisted = _unlisted(cell, records, packs)
        if unlisted:
            time.sleep(RELIST_S)
            segments = cell.records()
            unlisted &= _unlisted(cell, segments, segments.packs)
        for name in sorted(unlisted):
            yield Problem(f"{cell.cell}/{name}", "is named by no segment", "extra", cell.cell)

    def _set_aside(self, cell: CellFolder, records: Sequence[Record]) -> Iterator[Problem]:
        """Check the segments that were set aside, and that they follow from those before them."""
        tails: list[Tail] = []
        try:
            paths = cell.set_aside_folders()
        except ArchiveError as error:
            yield Problem(f"{cell.cell}/{SET_ASIDE}", str(error), "set_aside", cell.cell)
            return
        for path in paths:
            folder = CellFolder(path, cell.cell)
            if not path.is_dir():
                name = self._name(folder)
                yield Problem(name, "is not part of the archive", "extra", cell.cell)
                continue
            try:
                tail = folder.listed_records()
                note = cell.set_aside_note(path) if cell.has_note(path) else None
            except ArchiveError as error:
                yield Problem(self._name(folder), str(error), "set_aside", cell.cell)
                continue
            unlisted = _unlisted(folder, tail)
            if note is None:
                unlisted -= _linked(cell, folder)
            elif not tail or note != self._note_of(tail, note) or cell.path_of(note) != path:
                where, what = f"{self._name(folder)}/{NOTE}", "does not describe the segments there"
                yield Problem(where, what, "set_aside", cell.cell)
            for name in sorted(unlisted):
                where = f"{self._name(folder)}/{name}"
                yield Problem(where, "is named by no segment", "extra", cell.cell)
            if note is None and tail:
                note = SetAsideNote.of(tail, key=self.report.key, why="", by="")
            if note is not None:
                self.report.set_aside.append(note)
            if tail:
                tails.append((folder, tail))
        self._tails += tails
        yield from self._heads_of_tails(records, tails)

    def _note_of(self, tail: Sequence[Record], note: SetAsideNote) -> SetAsideNote:
        """The note that these segments must have; reason and operator are only in the note."""
        return SetAsideNote.of(tail, key=self.report.key, why=note.why, by=note.by)

    def _heads_of_tails(
        self, records: Sequence[Record], tails: Sequence[Tail]
    ) -> Iterator[Problem]:
        """Check the signed heads of tails; each follows from the main sequence or another tail."""
        sequences = [list(records)]
        for folder, tail in sorted(tails, key=lambda each: each[1][0].n):
            start = tail[0].n
            before = next((each[:start] for each in sequences if _continues(each, tail[0])), None)
            if before is None:
                where, what = f"{self._name(folder)} segment {start}", "does not follow from the "
                what += "segments up to it"
                yield Problem(where, what, "set_aside", folder.cell, self._of(folder, tail[0]))
                continue
            sequences.append([*before, *tail])
            try:
                check_sequence(folder.path, sequences[-1])
            except ArchiveError as error:
                yield Problem(self._name(folder), str(error), "set_aside", folder.cell)
            else:
                yield from self._heads_of(folder, sequences[-1], start)

    def _checkpoints(self, records: dict[str, list[Record]]) -> Iterator[Problem]:
        """Check that no segment of the checkpoint was removed, sealed again or set aside.

        A note about segments that were set aside proves nothing: a user who can write to the folder
        can write one. Only the auditor can find out whether it is true.
        """
        set_aside = {
            record.head: (folder, record) for folder, tail in self._tails for record in tail
        }
        for stored in self._heads:
            self.report.checkpoints += 1
            head, where = stored.head, f"checkpoint of {stored.head.cell}"
            if head in set_aside:
                folder, record = set_aside[head]
                note = f"{self._name(folder)}/{NOTE}"
                what = (
                    f"segment {head.segments - 1} was set aside: ask the operator whether {note} "
                    "is true, then keep a new checkpoint"
                )
                affected = self._of(folder, record)
                yield Problem(where, what, "checkpoint", head.cell, affected)
                continue
            segments = records.get(head.cell, [])
            last = segments[-1] if segments else None
            if last is None or last.n + 1 < head.segments:
                count = last.n + 1 if last is not None else 0
                what = f"has {head.segments} segments, the archive {count}"
                yield Problem(where, what, "missing", head.cell, of_end(head, last))
                continue
            same = next((each for each in segments if each.n == head.segments - 1), None)
            if same is None:
                continue  # the gap is a problem of the cell
            if same.head != head:
                what = f"differs from segment {head.segments - 1}: history was sealed again"
                affected = self._of(self.folder.cell(head.cell), same)
                yield Problem(where, what, "checkpoint", head.cell, affected)
            elif (reach := self._reach.get(head.cell)) is not None:
                reach.checkpoint, reach.checkpoint_last = str(stored.file), head.last
                reach.checkpoint_events = head.events

    # --- content of the files ---------------------------------------------------------------

    def _sums(self, cell: CellFolder, records: Sequence[Record]) -> Iterator[Problem]:
        """Check the bytes of every file; later checks do not read a file with a fault."""
        from eventsched.archive.sealed_file import open_sealed

        for record in records:
            for file in record.files:
                try:
                    open_sealed(cell, record, file.kind).close()
                except ArchiveError as error:
                    self._faulty.add(cell.path / file.name)
                    what = error.what if isinstance(error, FileFault) else str(error)
                    where = f"{self._name(cell)}/{file.name}"
                    affected = self._of(cell, record)
                    yield Problem(where, what, CONTENT[file.kind], cell.cell, affected)

    def _packs(self, cell: CellFolder, segments: Segments) -> Iterator[Problem]:
        """Check that each pack is signed and follows from its segments, byte for byte."""
        from eventsched.archive.packer import find_pack_fault

        for pack in segments.packs:
            where = f"{self._name(cell)}/{pack.path.name}"
            try:
                pack.check_signed(self._public)
                files = [file for n in pack.numbers for file in segments[n].files]
                if any(cell.path / file.name in self._faulty for file in files):
                    continue
                fault = find_pack_fault(cell, pack, segments)
            except FileFault as error:
                fault = error.what
            except ArchiveError as error:
                fault = str(error)
            if fault:
                yield Problem(where, fault, "pack", cell.cell)

    def _own_files_of_packed(self, cell: CellFolder, segments: Segments) -> Iterator[Problem]:
        """Check the files that segments in packs still have of their own; nothing reads them."""
        from eventsched.archive.sealed_file import open_single

        names = set(cell.names())
        for record in segments[: segments.packed]:
            for file in record.files:
                if file.name in names:
                    try:
                        open_single(cell, record, file.kind).close()
                    except FileFault as fault:
                        if not fault.is_missing:  # otherwise it was removed meanwhile
                            where = f"{self._name(cell)}/{file.name}"
                            yield Problem(where, fault.what, "extra", cell.cell)
            name = record_name(record)
            if name in names:
                try:
                    is_same = cell.read(name) == record
                except FileFault as fault:
                    is_same = fault.is_missing
                except ArchiveError:
                    is_same = False
                if not is_same:
                    where, what = f"{self._name(cell)}/{name}", "differs from the record in a pack"
                    yield Problem(where, what, "extra", cell.cell)

    def _leaves(
        self, cell: CellFolder, records: Sequence[Record], *, counted: bool = False
    ) -> Iterator[Problem]:
        """Check that the entries give the signed root; count them with `counted`."""
        from eventsched.archive.sealed_file import open_sealed
        from eventsched.archive.segment import read_entries

        for record in records:
            where = f"{self._name(cell)} segment {record.n}"
            try:
                if self._is_faulty(cell, record, "events"):
                    continue
                with open_sealed(cell, record, "events") as file:
                    entries = read_entries(file)
            except ArchiveError as error:
                affected = self._of(cell, record)
                yield Problem(where, str(error), "events", cell.cell, affected)
                continue
            if len(entries) != record.events:
                what = f"has {len(entries)} entries, not {record.events}"
            elif merkle.root_of(merkle.leaf_hashes(entry_leaves(entries))).hex() != record.root:
                what = "its entries are not those that were sealed"
            else:
                what = _range_fault(record, entries)
                yield from self._derived(cell, record, entries)
            if what:
                yield Problem(where, what, "events", cell.cell, self._of(cell, record))
            if counted:
                self.report.events += len(entries)
                self._progress(self.report.events)

    def _derived(
        self, cell: CellFolder, record: Record, entries: Sequence[bytes]
    ) -> Iterator[Problem]:
        """Check that columns, session index and audio of a segment follow from its entries."""
        from eventsched.archive.derived import DerivedContent

        kinds = [file.kind for file in record.files if not self._is_faulty(cell, record, file.kind)]
        try:
            content = DerivedContent(entries, self._core)
            for name, what in content.faults(cell, record, kinds):
                kind = next(file.kind for file in record.files if file.name == name)
                effect: Effect = "columns" if kind == "events" else CONTENT[kind]
                where, affected = f"{self._name(cell)}/{name}", self._of(cell, record)
                yield Problem(where, what, effect, cell.cell, affected)
        except (ArchiveError, ValueError) as error:
            where, affected = f"{self._name(cell)} segment {record.n}", self._of(cell, record)
            yield Problem(where, str(error), "columns", cell.cell, affected)

    def _snapshots(
        self, cell: CellFolder, records: Sequence[Record], projection_set: ProjectionSet
    ) -> Iterator[Problem]:
        """Check that a fold from the first entry gives every snapshot; with `--snapshots`."""
        from eventsched.archive.sealed_file import open_sealed
        from eventsched.archive.segment import read_entries, read_snapshot
        from eventsched.archive.snapshot import SnapshotFold

        fold = SnapshotFold(projection_set)
        for record in records:
            where = f"{cell.cell} segment {record.n}"
            if record.versions != fold.versions:
                what = f"its snapshot is of read models {record.versions}, not {fold.versions}"
                yield Problem(where, what, "snapshot", cell.cell, self._of(cell, record))
                return
            try:
                if any(self._is_faulty(cell, record, kind) for kind in ("events", "snapshot")):
                    return
                with open_sealed(cell, record, "events") as file:
                    entries = read_entries(file)
                for data in entries:
                    event = decode_event(decode_entry(data))
                    if isinstance(event, Event):
                        fold.add(event)
                with open_sealed(cell, record, "snapshot") as file:
                    snapshot = read_snapshot(file)
            except (ArchiveError, ValueError) as error:
                affected = self._of(cell, record)
                yield Problem(where, str(error), "snapshot", cell.cell, affected)
                return
            if snapshot != fold.snapshot(last=record.last, is_full=record.is_full):
                what, affected = (
                    "its snapshot does not follow from the entries",
                    self._of(cell, record),
                )
                yield Problem(where, what, "snapshot", cell.cell, affected)

    def _is_faulty(self, cell: CellFolder, record: Record, kind: str) -> bool:
        """Whether the file is known to be another one than was sealed."""
        return cell.path / record.file(kind).name in self._faulty


def _unlisted(cell: CellFolder, records: Sequence[Record], packs: Sequence[Pack] = ()) -> set[str]:
    """The files that are of no segment: no file, no record, no pack."""
    names = set(cell.names()) - {pack.path.name for pack in packs}
    for record in records:
        names -= {record_name(record), *(file.name for file in record.files)}
    return names


def _linked(cell: CellFolder, folder: CellFolder) -> set[str]:
    """The files of a move that was interrupted: the folder of the cell has them too."""
    names = set(cell.names()) & set(folder.names())
    return {name for name in names if (cell.path / name).samefile(folder.path / name)}


def _continues(records: Sequence[Record], first: Record) -> bool:
    """Whether the chain of `first` continues that of the segments with lower numbers."""
    if first.n > len(records):
        return False
    before = bytes.fromhex(records[first.n - 1].head.records) if first.n else CHAIN_START
    return chain_after(before, first.segment).hex() == first.head.records


def _is_next(before: Record | None, record: Record) -> bool:
    """Whether the signed head of a record follows from that of the record before it."""
    return (
        before is not None
        and record.n == before.n + 1
        and record.head.records
        == chain_after(bytes.fromhex(before.head.records), record.segment).hex()
        and record.head.events == before.head.events + record.events
        and (record.head.segments, record.head.last) == (record.n + 1, record.last)
    )


def _range_fault(record: Record, entries: Sequence[bytes]) -> str:
    """What differs if the first and last entries are not those of the record."""
    try:
        ends = decode_entry(entries[0])[0], decode_entry(entries[-1])[0]
    except (ValueError, UnicodeDecodeError) as error:
        return str(error)
    if ends == (record.first, record.last):
        return ""
    return f"has {ends[0]} to {ends[1]}, not {record.first} to {record.last}"
