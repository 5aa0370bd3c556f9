"""Verifies an archive's folder against a key and a checkpoint. No server.

Owns: the checks, in an order that finds a change with the least work; checkpoints.
Must not: write.
Read next: manifest.py (the signed bytes), merkle.py, derived.py, snapshot.py, proof.py.

An unsigned change of any file breaks a hash that a signed tree head covers. Segments that are
removed at the end, or a history that was sealed again with the same key, can only be detected with
a checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import msgspec

from eventsched.archive import merkle
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
    TreeHead,
    chain_after,
    decode,
    encode,
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

CHECKPOINT_BYTES_MAX = 16 << 20
RELIST_S = 0.5
"""A running archiver writes a segment's record shortly after its files."""
Progress = Callable[[int], None]
Tail: TypeAlias = tuple[CellFolder, list[Record]]
"""Segments that were set aside, and their folder."""


class Problem(msgspec.Struct, frozen=True):
    """A difference from the sealed state."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class AuditReport(msgspec.Struct, kw_only=True):
    """The result of a verification."""

    key: str = ""
    """Fingerprint of the archive's key."""
    is_key_checked: bool = False
    """A trusted key or a checkpoint was given. Otherwise the key is the one in the folder: the
    maker of the folder can sign any history with it."""
    cells: int = 0
    segments: int = 0
    events: int = 0
    checkpoints: int = 0
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
            is_key_checked=key is not None or checkpoint is not None,
        )
        self._public = read_public(key) if key is not None else self.folder.public
        self._heads = read_checkpoint(checkpoint, self._public) if checkpoint is not None else []
        self._set = projection_set
        self._core = projection_set or load_core()
        self._faulty: set[Path] = set()
        """Files that are not those that were sealed."""
        self._progress: Progress = lambda _: None
        self._tails: list[Tail] = []

    def on_progress(self, progress: Progress) -> None:
        """Call `progress` with the number of verified events."""
        self._progress = progress

    def run(self) -> AuditReport:
        """Verify everything and return the report."""
        self.report.problems = list(self.problems())
        return self.report

    def problems(self) -> Iterator[Problem]:
        """The problems, cheap checks first."""
        if self._public != self.folder.public:
            key = fingerprint(self.folder.public)
            yield Problem(PUBLIC, f"is key {key}, not {fingerprint(self._public)}")
        yield from self._foreign_files()
        readable: list[tuple[CellFolder, list[Record]]] = []
        packed: list[tuple[CellFolder, Segments]] = []
        for name in self.folder.cells():
            cell = self.folder.cell(name)
            try:
                segments = cell.records()
                records = segments[:]
            except ArchiveError as error:
                yield Problem(name, str(error))
                continue
            yield from self._records(cell, records, segments.packs)
            yield from self._set_aside(cell, records)
            readable.append((cell, records))
            packed.append((cell, segments))
        yield from self._checkpoints({cell.cell: records for cell, records in readable})
        for cell, records in [*readable, *self._tails]:
            yield from self._sums(cell, records)
        for cell, segments in packed:
            yield from self._packs(cell, segments)
            yield from self._own_files_of_packed(cell, segments)
        for cell, records in self._tails:
            yield from self._leaves(cell, records)
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
                yield Problem(path.name, "is not part of the archive")

    def _records(
        self, cell: CellFolder, records: Sequence[Record], packs: Sequence[Pack]
    ) -> Iterator[Problem]:
        """Check the records with their signed heads, and that they name every file."""
        self.report.cells += 1
        yield from self._heads_of(cell, records, 0)
        self.report.segments += len(records)
        yield from self._unlisted(cell, records, packs)

    def _heads_of(
        self, cell: CellFolder, records: Sequence[Record], start: int
    ) -> Iterator[Problem]:
        """Check the chain, the tree and the signed heads of the records from `start` on."""
        tree, skipped = SegmentTree(), records[0].head.skipped if records else 0
        for record in records[:start]:
            tree.add(record.segment)
        for record in records[start:]:
            where = f"{self._name(cell)} segment {record.n}"
            if not tree.follows(record, skipped=skipped):
                yield Problem(where, "does not follow from the segments up to it")
            elif not record.head.is_signed_by(self._public):
                yield Problem(where, f"is not signed by key {fingerprint(self._public)}")

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
            yield Problem(f"{cell.cell}/{name}", "is named by no segment")

    def _set_aside(self, cell: CellFolder, records: Sequence[Record]) -> Iterator[Problem]:
        """Check the segments that were set aside, and that they follow from those before them."""
        tails: list[Tail] = []
        try:
            paths = cell.set_aside_folders()
        except ArchiveError as error:
            yield Problem(f"{cell.cell}/{SET_ASIDE}", str(error))
            return
        for path in paths:
            folder = CellFolder(path, cell.cell)
            if not path.is_dir():
                yield Problem(self._name(folder), "is not part of the archive")
                continue
            try:
                tail = folder.listed_records()
                note = cell.set_aside_note(path) if cell.has_note(path) else None
            except ArchiveError as error:
                yield Problem(self._name(folder), str(error))
                continue
            unlisted = _unlisted(folder, tail)
            if note is None:
                unlisted -= _linked(cell, folder)
            elif not tail or note != self._note_of(tail, note) or cell.path_of(note) != path:
                yield Problem(
                    f"{self._name(folder)}/{NOTE}", "does not describe the segments there"
                )
            for name in sorted(unlisted):
                yield Problem(f"{self._name(folder)}/{name}", "is named by no segment")
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
                where = f"{self._name(folder)} segment {start}"
                yield Problem(where, "does not follow from the segments up to it")
                continue
            sequences.append([*before, *tail])
            try:
                check_sequence(folder.path, sequences[-1])
            except ArchiveError as error:
                yield Problem(self._name(folder), str(error))
            else:
                yield from self._heads_of(folder, sequences[-1], start)

    def _checkpoints(self, records: dict[str, list[Record]]) -> Iterator[Problem]:
        """Check that no segment of the checkpoint was removed, sealed again or set aside.

        A note about segments that were set aside proves nothing: a user who can write to the folder
        can write one. Only the auditor can find out whether it is true.
        """
        set_aside = {record.head: folder for folder, tail in self._tails for record in tail}
        for head in self._heads:
            self.report.checkpoints += 1
            where = f"checkpoint of {head.cell}"
            if head in set_aside:
                note = f"{self._name(set_aside[head])}/{NOTE}"
                yield Problem(
                    where,
                    f"segment {head.segments - 1} was set aside: ask the operator whether {note} "
                    "is true, then keep a new checkpoint",
                )
                continue
            segments = records.get(head.cell, [])
            if len(segments) < head.segments:
                what = f"has {head.segments} segments, the archive {len(segments)}"
                yield Problem(where, what)
                continue
            if segments[head.segments - 1].head != head:
                what = f"differs from segment {head.segments - 1}: history was sealed again"
                yield Problem(where, what)

    # --- content of the files ---------------------------------------------------------------

    def _sums(self, cell: CellFolder, records: Sequence[Record]) -> Iterator[Problem]:
        """Check the bytes of every file; later checks do not read a file with a fault."""
        from eventsched.archive.sealed_file import open_sealed

        for record in records:
            for file in record.files:
                try:
                    open_sealed(cell, record, file.kind).close()
                except FileFault as fault:
                    yield Problem(f"{self._name(cell)}/{file.name}", fault.what)
                    self._faulty.add(cell.path / file.name)

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
                yield Problem(where, fault)

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
                            yield Problem(f"{self._name(cell)}/{file.name}", fault.what)
            name = record_name(record)
            if name in names:
                try:
                    is_same = cell.read(name) == record
                except FileFault as fault:
                    is_same = fault.is_missing
                except ArchiveError:
                    is_same = False
                if not is_same:
                    yield Problem(f"{self._name(cell)}/{name}", "differs from the record in a pack")

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
                yield Problem(where, str(error))
                continue
            if len(entries) != record.events:
                yield Problem(where, f"has {len(entries)} entries, not {record.events}")
            elif merkle.root_of(merkle.leaf_hashes(entry_leaves(entries))).hex() != record.root:
                yield Problem(where, "its entries are not those that were sealed")
            else:
                yield from _check_range(where, record, entries)
                yield from self._derived(cell, record, entries)
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
                yield Problem(f"{self._name(cell)}/{name}", what)
        except (ArchiveError, ValueError) as error:
            yield Problem(f"{self._name(cell)} segment {record.n}", str(error))

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
                yield Problem(where, what)
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
                yield Problem(where, str(error))
                return
            if snapshot != fold.snapshot(last=record.last, is_full=record.is_full):
                yield Problem(where, "its snapshot does not follow from the entries")

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


def _check_range(where: str, record: Record, entries: Sequence[bytes]) -> Iterator[Problem]:
    """Check that the first and last entries are those of the record."""
    try:
        ends = decode_entry(entries[0])[0], decode_entry(entries[-1])[0]
    except (ValueError, UnicodeDecodeError) as error:
        yield Problem(where, str(error))
        return
    if ends != (record.first, record.last):
        yield Problem(where, f"has {ends[0]} to {ends[1]}, not {record.first} to {record.last}")


# --- checkpoints ----------------------------------------------------------------------------


def checkpoint_of(folder: ArchiveFolder) -> bytes:
    """The newest signed head of each cell, a line each, to be stored elsewhere."""
    lines = []
    for name in folder.cells():
        records = folder.cell(name).records()
        if records.head is not None:
            lines.append(encode(records.head) + b"\n")
    if not lines:
        raise ArchiveError(f"{folder.path} has no segment yet")
    return b"".join(lines)


def read_checkpoint(path: Path, public: bytes) -> list[TreeHead]:
    """The heads of an exported checkpoint. Raises ArchiveError unless this key signed them all."""
    try:
        with path.open("rb") as file:
            content = file.read(CHECKPOINT_BYTES_MAX + 1)
    except OSError as error:
        raise ArchiveError(f"cannot read {path}: {error.strerror}") from error
    if len(content) > CHECKPOINT_BYTES_MAX:
        raise ArchiveError(f"{path} is no checkpoint: more than {CHECKPOINT_BYTES_MAX:,} bytes")
    lines = content.splitlines(keepends=True)
    heads = [decode(line, TreeHead, f"checkpoint {path}") for line in lines]
    if not heads or len({head.cell for head in heads}) != len(heads):
        raise ArchiveError(f"checkpoint {path} has no heads, or two of one cell")
    for head in heads:
        if not head.is_signed_by(public):
            raise ArchiveError(f"checkpoint {path} is not signed by key {fingerprint(public)}")
    return heads
