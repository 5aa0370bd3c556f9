"""Reads a pack: one file that has the files of many sealed segments, byte for byte, and an index.

Owns: the form of a pack, and the checks of its index: sums, ranges, and the signature.
Must not: write packs (packer.py does), or read Parquet.
Read next: segments.py (packs and single segments as one sequence), packer.py, sealed_file.py.

A pack, from its first byte to its last:

    members     for each segment: its files in the order of its record, then its record
    sessions    a row for each session, in order: 8 bytes of the SHA-256 of its name, and a bit for
                each segment that has entries of it
    segments    a row for each segment: its first and last id, place and SHA-256 of its record
    index       a line of JSON: range, heads, sums of both tables, signature; then its length
    footer      a Parquet footer over the events files (footer.py): a pack is a Parquet file, too

The key of the archive signs the index, and an index commits to the chain before and after its
segments. So a reader that has checked it knows which segments have a session, without opening them.
"""

from __future__ import annotations

import os
from base64 import b64encode
from bisect import bisect_left
from hashlib import sha256
from pathlib import Path
from struct import Struct
from typing import Annotated, BinaryIO

import msgspec

from eventsched.archive.files import FileFault, open_regular
from eventsched.archive.footer import footer_bytes
from eventsched.archive.manifest import (
    CHAIN_START,
    RECORD_BYTES_MAX,
    Count,
    Hex,
    Segment,
    SegmentTree,
    TreeHead,
    decode,
    encode,
)
from eventsched.archive.signing import SigningKey, fingerprint, is_signed
from eventsched.errors import ArchiveError
from eventsched.schema.ids import BEFORE_FIRST, EntryId, check_id

SEGMENTS_MAX = 4_096
"""Segments of a pack that readers accept; an archiver packs fewer (packer.py)."""
INDEX_BYTES_MAX = 16 * 1_024
LENGTH_BYTES = 4
SEGMENT_ROW = Struct("<QQQQQI32s")
"""First id, last id, place of the record, its bytes, its SHA-256."""
SESSION_BYTES = 8
_SIGNED = b"eventsched archive pack 1\n"
_NO_PACK = "is no pack of segments"


class PackIndex(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The signed part of a pack's index."""

    format: int = 1
    cell: str
    first_segment: Annotated[int, msgspec.Meta(ge=0, lt=10**9)]
    segments: Annotated[int, msgspec.Meta(ge=1, le=SEGMENTS_MAX)]
    first: str
    """Id of the first entry."""
    last: str
    """Id of the last entry."""
    before: Hex
    """The chain over the records before the first segment."""
    head: TreeHead
    """The head after the last segment."""
    peaks: Annotated[list[Hex], msgspec.Meta(max_length=64)]
    """Of the archive's tree at this head (merkle.py)."""
    segment_table: Hex
    """SHA-256 of the table of segments."""
    session_table: Hex
    """SHA-256 of the table of sessions."""
    sessions: Count
    signature: str = ""

    @property
    def end(self) -> int:
        """Number of the segment after the last one."""
        return self.first_segment + self.segments

    def unsigned(self) -> bytes:
        return _SIGNED + encode(msgspec.structs.replace(self, signature=""))

    def signed(self, key: SigningKey) -> PackIndex:
        signature = b64encode(key.sign(self.unsigned())).decode()
        return msgspec.structs.replace(self, signature=signature)

    def is_signed_by(self, public: bytes) -> bool:
        return self.head.public == public and is_signed(public, self.unsigned(), self.signature)


def session_hash(session: str) -> bytes:
    """The session in the table of sessions. Two with the same hash share a row."""
    return sha256(session.encode()).digest()[:SESSION_BYTES]


def session_row_bytes(segments: int) -> int:
    return SESSION_BYTES + (segments + 7) // 8


class Pack:
    """An open pack. Only its index is read; every other read opens the file again.

    Args:
        path: The file.
        index: Its index.
        rows: The table of segments.
        rows_at: Place of this table in the file.
    """

    def __init__(self, path: Path, index: PackIndex, rows: bytes, rows_at: int) -> None:
        self.path = path
        self.index = index
        self.first = check_id(index.first)
        self.last = check_id(index.last)
        self._rows = rows
        self._sessions_bytes = index.sessions * session_row_bytes(index.segments)
        self.members_end = rows_at - self._sessions_bytes
        """Place of the table of sessions."""
        self._check()
        self._public = b""
        """The key by which the index is known to be signed."""

    @classmethod
    def open(cls, path: Path) -> Pack:
        """Read the index of a pack. Raises ArchiveError if it is not one."""
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            index, index_at = _read_index(file, path, size)
            rows_bytes = index.segments * SEGMENT_ROW.size
            rows_at = index_at - rows_bytes
            if rows_at < 0:
                raise FileFault(path, _NO_PACK)
            file.seek(rows_at)
            rows = file.read(rows_bytes)
        if sha256(rows).hexdigest() != index.segment_table:
            raise FileFault(path, "has another table of segments than its index")
        return cls(path, index, rows, rows_at)

    def _check(self) -> None:
        """Raises ArchiveError unless index and table of segments are consistent."""
        index, last, place = self.index, BEFORE_FIRST, 0
        ids = []
        for *numbers, record_at, record_bytes, _ in SEGMENT_ROW.iter_unpack(self._rows):
            first, after = (numbers[0], numbers[1]), (numbers[2], numbers[3])
            is_in_order = last < first <= after and place <= record_at
            if not is_in_order or not 0 < record_bytes <= RECORD_BYTES_MAX:
                raise FileFault(self.path, "has segments that do not follow one another")
            last, place = after, record_at + record_bytes
            ids.append((first, after))
        head = index.head
        if (
            place != self.members_end
            or (ids[0][0], ids[-1][1]) != (self.first, self.last)
            or (head.cell, head.segments, head.last) != (index.cell, index.end, index.last)
        ):
            raise FileFault(self.path, "has an index of other segments")

    def check_signed(self, public: bytes) -> None:
        """Raises ArchiveError unless this key has signed the index."""
        if self._public == public:
            return
        if not self.index.is_signed_by(public):
            raise FileFault(self.path, f"is not signed by key {fingerprint(public)}")
        self._public = public

    def check_follows(self, before: Pack | None) -> None:
        """Raises ArchiveError unless the segments follow those of this pack, or are the first."""
        start, chain, last, skipped = 0, CHAIN_START.hex(), BEFORE_FIRST, self.index.head.skipped
        if before is not None:
            start, last = before.index.end, before.last
            chain, skipped = before.index.head.records, before.index.head.skipped
        if self.index.first_segment > start:
            raise ArchiveError(f"{self.path.parent}: segment {start} is missing")
        follows = self.index.first_segment == start and self.index.before == chain
        if not follows or self.first <= last or self.index.head.skipped != skipped:
            raise FileFault(self.path, "does not follow from the segments up to it")

    def tree(self) -> SegmentTree:
        """The archive's tree and chain after the last segment. Raises ArchiveError."""
        return SegmentTree.at(self.index.head, [bytes.fromhex(peak) for peak in self.index.peaks])

    @property
    def numbers(self) -> range:
        """Numbers of its segments."""
        return range(self.index.first_segment, self.index.end)

    def has(self, n: int) -> bool:
        return n in self.numbers

    def ids(self, n: int) -> tuple[EntryId, EntryId]:
        """First and last id of segment `n`."""
        row = self._row(n)
        return (row[0], row[1]), (row[2], row[3])

    def _row(self, n: int) -> tuple[int, int, int, int, int, int, bytes]:
        at = (n - self.index.first_segment) * SEGMENT_ROW.size
        return SEGMENT_ROW.unpack_from(self._rows, at)

    def record_line(self, n: int) -> bytes:
        """The record of segment `n`, as it was written. Raises ArchiveError if it was changed."""
        *_, at, size, digest = self._row(n)
        with open_regular(self.path) as file:
            file.seek(at)
            line = file.read(size)
        if sha256(line).digest() != digest:
            raise FileFault(self.path, f"has another record of segment {n} than its index")
        return line

    def place_of(self, segment: Segment, name: str) -> int:
        """Place of a file of one of its segments. Raises ArchiveError if it has no such place."""
        names = [file.name for file in segment.files]
        after = sum(file.bytes for file in segment.files[names.index(name) :])
        place = self._row(segment.n)[4] - after
        if place < 0:
            raise FileFault(self.path, f"does not have the files of segment {segment.n}")
        return place

    def segments_with(self, session: str) -> list[int]:
        """Numbers of the segments that may have entries of a session; no other segment has.

        Raises ArchiveError if the table of sessions was changed.
        """
        count, width = self.index.sessions, session_row_bytes(self.index.segments)
        with open_regular(self.path) as file:
            file.seek(self.members_end)
            table = file.read(self._sessions_bytes)
        if sha256(table).hexdigest() != self.index.session_table:
            raise FileFault(self.path, "has another table of sessions than its index")
        wanted = session_hash(session)
        row = bisect_left(
            range(count), wanted, key=lambda n: table[n * width : n * width + SESSION_BYTES]
        )
        found = table[row * width : (row + 1) * width]
        if found[:SESSION_BYTES] != wanted:
            return []
        bits = int.from_bytes(found[SESSION_BYTES:], "little")
        return [n for at, n in enumerate(self.numbers) if bits >> at & 1]

    def tail(self) -> bytes:
        """Everything after the members. Raises FileFault."""
        with open_regular(self.path) as file:
            file.seek(self.members_end)
            return file.read()

    def footer(self) -> bytes:
        """The Parquet footer, with its length. Raises FileFault."""
        with open_regular(self.path) as file:
            size = os.fstat(file.fileno()).st_size
            try:
                length = footer_bytes(file, size)
            except ValueError as error:
                raise FileFault(self.path, _NO_PACK) from error
            file.seek(size - length)
            return file.read(length)


def _read_index(file: BinaryIO, path: Path, size: int) -> tuple[PackIndex, int]:
    """The index and its place. Raises ArchiveError if the file has none."""
    try:
        index_end = size - footer_bytes(file, size) - LENGTH_BYTES
    except ValueError as error:
        raise FileFault(path, _NO_PACK) from error
    if index_end < 0:
        raise FileFault(path, _NO_PACK)
    file.seek(index_end)
    length = int.from_bytes(file.read(LENGTH_BYTES), "little")
    if not 0 < length <= min(index_end, INDEX_BYTES_MAX):
        raise FileFault(path, _NO_PACK)
    file.seek(index_end - length)
    return decode(file.read(length), PackIndex, str(path)), index_end - length
