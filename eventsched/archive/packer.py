"""Packs sealed segments: writes packs, removes the files that are in them, takes segments out.

Owns: which segments are packed and when, the bytes of a pack, the order of writes and removals.
Must not: change a file of a segment, sign anything but the index of a pack, or seal.
Read next: pack.py (the form of a pack), footer.py, set_aside.py (takes segments out).

A pack begins after the last one. It ends after PACK_SEGMENTS segments, or with the segment with
which it reaches PACK_BYTES, and is written once these are sealed. So its bytes follow from the
segments alone. It is complete and on disk before its name appears. The files of its segments are
removed when the next pack is written or another archiver begins, so that a reader which has listed
them can still open them. After a crash at any step a segment has its own files, or is in a pack, or
both with the same bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from hashlib import sha256
from typing import BinaryIO

import msgspec

from eventsched.archive.files import FileFault
from eventsched.archive.footer import joined_footer
from eventsched.archive.layout import (
    RECORD,
    SEGMENT,
    CellFolder,
    first_id_of,
    pack_name,
    record_name,
)
from eventsched.archive.manifest import Record, SegmentTree, encode
from eventsched.archive.pack import (
    LENGTH_BYTES,
    SEGMENT_ROW,
    Pack,
    PackIndex,
    session_hash,
    session_row_bytes,
)
from eventsched.archive.sealed_file import open_sealed
from eventsched.archive.segment import session_names
from eventsched.archive.segments import Segments
from eventsched.archive.signing import SigningKey
from eventsched.errors import ArchiveError
from eventsched.private_files import sync_folder
from eventsched.schema.ids import check_id

PACK_SEGMENTS = 128
PACK_BYTES = 256 * 1024 * 1024


class PackTables:
    """The tables and the footer of a pack, while its segments are added in order.

    Args:
        tree: The archive's tree and chain before the first segment; they are changed.
    """

    def __init__(self, tree: SegmentTree) -> None:
        self._tree = tree
        self._before = tree.chain
        self._records: list[Record] = []
        self._rows = bytearray()
        self._sessions: dict[bytes, int] = {}

    def add(self, record: Record, record_at: int, sessions: Iterable[str]) -> bytes:
        """Add a segment whose record is at this place; return the record's bytes."""
        line = encode(record) + b"\n"
        first, last = check_id(record.first), check_id(record.last)
        digest = sha256(line).digest()
        self._rows += SEGMENT_ROW.pack(*first, *last, record_at, len(line), digest)
        bit = 1 << len(self._records)
        for session in map(session_hash, sessions):
            self._sessions[session] = self._sessions.get(session, 0) | bit
        self._tree.add(record.segment)
        self._records.append(record)
        return line

    def finish(self) -> tuple[bytes, PackIndex]:
        """The table of sessions and the table of segments, joined, and the unsigned index."""
        first, last = self._records[0], self._records[-1]
        width = session_row_bytes(len(self._records)) - len(session_hash(""))
        sessions = b"".join(
            name + self._sessions[name].to_bytes(width, "little") for name in sorted(self._sessions)
        )
        index = PackIndex(
            cell=first.cell,
            first_segment=first.n,
            segments=len(self._records),
            first=first.first,
            last=last.last,
            before=self._before.hex(),
            head=last.head,
            peaks=[peak.hex() for peak in self._tree.peaks],
            segment_table=sha256(self._rows).hexdigest(),
            session_table=sha256(sessions).hexdigest(),
            sessions=len(self._sessions),
        )
        return sessions + self._rows, index


def tail_of(tables: bytes, index: PackIndex, footer: bytes) -> bytes:
    """Everything after the members of a pack."""
    line = encode(index) + b"\n"
    return tables + line + len(line).to_bytes(LENGTH_BYTES, "little") + footer


# --- writing --------------------------------------------------------------------------------


def next_pack(segments: Segments) -> list[Record]:
    """The records of the segments that the next pack has; empty until all of them are sealed."""
    size = 0
    for count, record in enumerate(segments.single, 1):
        size += sum(file.bytes for file in record.files)
        if count == PACK_SEGMENTS or size >= PACK_BYTES:
            return segments.single[:count]
    return []


def write_pack(folder: CellFolder, key: SigningKey, records: list[Record]) -> str:
    """Write the pack of these segments, the next ones of the archive. Return its name.

    Raises:
        ArchiveError: A file is not the one that was sealed.
        OSError: The pack cannot be written.
    """
    tables = PackTables(folder.records().tree_of_packs())
    name = pack_name(records[0].first, records[-1].last)
    events: list[tuple[int, Record]] = []
    with folder.new_file(name) as out:
        for record in records:
            sessions: list[str] = []
            for file_sum in record.files:
                with open_sealed(folder, record, file_sum.kind) as file:
                    if file_sum.kind == "events":
                        events.append((out.tell(), record))
                    elif file_sum.kind == "sessions":
                        sessions = session_names(file)
                        file.seek(0)
                    shutil.copyfileobj(file, out)
            out.write(tables.add(record, out.tell(), sessions))
        content, index = tables.finish()
        out.write(tail_of(content, index.signed(key), footer_of(folder, events)))
    sync_folder(folder.path)
    return name


def footer_of(folder: CellFolder, events: Iterable[tuple[int, Record]]) -> bytes:
    """The Parquet footer over the events files of segments, given the place of each file.

    Raises ArchiveError if a file is not the one that was sealed.
    """

    def members() -> Iterable[tuple[int, BinaryIO]]:
        for at, record in events:
            with open_sealed(folder, record, "events") as file:
                yield at, file

    try:
        return joined_footer(members())
    except ValueError as error:
        raise ArchiveError(f"{folder.path}: events cannot be packed: {error}") from error


def remove_packed_files(folder: CellFolder) -> list[str]:
    """Remove the own files of segments that are in packs; return their names.

    A file is removed only if its pack has the file that was sealed. The caller must have the lock.
    Raises ArchiveError if a pack has not.
    """
    segments = folder.records()
    if not segments.packs:
        return []
    packed_to = segments.packs[-1].last
    names = [
        name
        for name in folder.names()
        if (RECORD.fullmatch(name) or SEGMENT.fullmatch(name)) and first_id_of(name) <= packed_to
    ]
    for n in sorted({_number_of(name, segments) for name in names}):
        _check_members(folder, segments[n])
    for name in names:
        (folder.path / name).unlink(missing_ok=True)
    return names


def _number_of(name: str, segments: Segments) -> int:
    ms, seq = first_id_of(name)
    return segments.count_to((ms, seq - 1))


def _check_members(folder: CellFolder, record: Record) -> None:
    for file_sum in record.files:
        open_sealed(folder, record, file_sum.kind).close()


# --- taking segments out ----------------------------------------------------------------------


def unpack_from(folder: CellFolder, n: int) -> None:
    """Give segment `n` and those after it their own files again, and remove their packs.

    Other segments of these packs get their own files, too. The caller must have the lock. A
    repeated call completes an interrupted one. Raises ArchiveError if a pack was changed.
    """
    segments = folder.records()
    for pack in reversed(segments.packs_between(range(n, len(segments)))):
        for number in pack.numbers:
            _unpack(folder, segments[number])
        sync_folder(folder.path)
        pack.path.unlink()
        sync_folder(folder.path)


def _unpack(folder: CellFolder, record: Record) -> None:
    for file_sum in record.files:
        with (
            open_sealed(folder, record, file_sum.kind) as file,
            folder.new_file(file_sum.name) as out,
        ):
            shutil.copyfileobj(file, out)
    folder.write(record_name(record), encode(record) + b"\n")


# --- checking -------------------------------------------------------------------------------


def check_footer(folder: CellFolder, pack: Pack, segments: Segments) -> None:
    """Check a pack before it is read as one Parquet file.

    Raises ArchiveError if a member is not the file that was sealed, or if the footer names
    anything but the events of the members.
    """
    records = [segments[n] for n in pack.numbers]
    events = [(pack.place_of(record, record.file("events").name), record) for record in records]
    if pack.footer() != footer_of(folder, events):
        raise FileFault(pack.path, "has a footer that does not follow from its segments")


def find_pack_fault(folder: CellFolder, pack: Pack, segments: Segments) -> str:
    """Why a pack is not the one that follows from its segments, or an empty text.

    Its members are checked by `open_sealed`; here: index, tables, footer and size. Raises
    ArchiveError if a member or a record is not the one that was sealed.
    """
    before = segments.pack_of(pack.numbers.start - 1)
    tables = PackTables(before.tree() if before is not None else SegmentTree())
    events: list[tuple[int, Record]] = []
    at = 0
    for n in pack.numbers:
        record = segments[n]
        if at != pack.place_of(record, record.files[0].name):
            return "has bytes that are of no segment"
        events.append((pack.place_of(record, record.file("events").name), record))
        with open_sealed(folder, record, "sessions") as file:
            sessions = session_names(file)
        at += sum(file_sum.bytes for file_sum in record.files)
        at += len(tables.add(record, at, sessions))
    content, index = tables.finish()
    signed = msgspec.structs.replace(index, signature=pack.index.signature)
    tail = tail_of(content, signed, footer_of(folder, events))
    if at != pack.members_end or pack.tail() != tail:
        return "has an index that does not follow from its segments"
    return ""
