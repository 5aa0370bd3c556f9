"""Defines the record of a sealed segment, a small JSON file, and the signed tree head in it.

Owns: the fields of records and heads, their only encoding, the chain over records, the signed
bytes.
Must not: read segments.
Read next: sealer.py (writes records), verifier.py (verifies files against them).

A record has a summary of the segment (cell, number, range of ids, number of entries, Merkle root
over the entries) and the SHA-256 of each of its files. Its tree head covers the archive up to this
segment: the root of the tree over the summaries of all segments, and a SHA-256 chain over their
records, which shows any change of a record. An exported head is a checkpoint.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from typing import Annotated, TypeVar

import msgspec

from eventsched.archive import merkle
from eventsched.archive.signing import SigningKey, from_base64, is_signed
from eventsched.errors import ArchiveError
from eventsched.schema.nesting import check_json

FORMAT = 1
RECORD_BYTES_MAX = 64 * 1_024
CHAIN_START = bytes(32)
_SIGNED = b"eventsched archive head 1\n"
_LEAF = b"eventsched segment 1\n"
Hex = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, msgspec.Meta(ge=0, lt=10**14)]
S = TypeVar("S", bound=msgspec.Struct)


class TreeHead(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The signed head of a cell's archive after a segment."""

    format: int = FORMAT
    cell: str
    segments: Annotated[int, msgspec.Meta(ge=1, lt=10**9)]
    skipped: Count
    """Entries that were trimmed from the log before the first segment."""
    events: Count
    """Entries in the segments."""
    last: str
    """Id of the last entry."""
    root: Hex
    """Root of the tree whose leaves are the summaries of the segments."""
    records: Hex
    """The chain over their records."""
    key: str
    """Public key, base64."""
    signature: str = ""

    @property
    def public(self) -> bytes:
        return from_base64(self.key) or b""

    def unsigned(self) -> bytes:
        return _SIGNED + encode(msgspec.structs.replace(self, signature=""))

    def signed(self, key: SigningKey) -> TreeHead:
        unsigned = msgspec.structs.replace(self, key=b64encode(key.public).decode(), signature="")
        signature = b64encode(key.sign(unsigned.unsigned())).decode()
        return msgspec.structs.replace(unsigned, signature=signature)

    def is_signed_by(self, public: bytes) -> bool:
        return self.public == public and is_signed(public, self.unsigned(), self.signature)


class FileSum(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of a segment."""

    name: str
    bytes: Count
    sha256: Hex

    @property
    def kind(self) -> str:
        """What it has: the part of its name before `.parquet`, such as `events`."""
        return self.name.removesuffix(".parquet").rpartition(".")[2]


class SegmentSummary(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The place and the entries of a segment: what the archive's tree has of it, and a proof."""

    format: int = FORMAT
    n: Annotated[int, msgspec.Meta(ge=0, lt=10**9)]
    cell: str
    first: str
    """Id of the first entry."""
    last: str
    """Id of the last entry."""
    events: Annotated[int, msgspec.Meta(ge=1, lt=10**9)]
    """Entries in the segment: the size of their tree."""
    root: Hex
    """Merkle root over its entries, each with its position."""

    def leaf(self) -> bytes:
        """Its leaf in the archive's tree."""
        return _LEAF + encode(self)


class Segment(SegmentSummary, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of a segment; the chain covers these fields."""

    files: list[FileSum]
    is_full: bool
    """Whether its snapshot has all records; otherwise those that this segment changed."""
    versions: dict[str, int]
    """Versions of the projections whose records the snapshot has."""
    utterances: Count = 0
    """Utterances with audio."""

    @property
    def summary(self) -> SegmentSummary:
        return SegmentSummary(
            **{name: getattr(self, name) for name in SegmentSummary.__struct_fields__}
        )

    def file(self, kind: str) -> FileSum:
        """The file of a kind. Raises ArchiveError if the record has none."""
        for file in self.files:
            if file.kind == kind:
                return file
        raise ArchiveError(f"segment {self.n} of {self.cell} has no {kind} file")


class Record(Segment, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A segment, and the signed head of the archive after it."""

    head: TreeHead

    @classmethod
    def of(cls, segment: Segment, head: TreeHead) -> Record:
        return cls(**msgspec.structs.asdict(segment), head=head)

    @property
    def segment(self) -> Segment:
        return Segment(**{name: getattr(self, name) for name in Segment.__struct_fields__})


class SegmentTree:
    """The tree and the chain over the segments of a cell so far: what the next head signs."""

    def __init__(self) -> None:
        self._tree = merkle.Tree()
        self._chain = CHAIN_START
        self._events = 0

    @classmethod
    def at(cls, head: TreeHead, peaks: Sequence[bytes]) -> SegmentTree:
        """The tree and the chain at a head. Raises ArchiveError unless the peaks give its root."""
        tree = cls()
        try:
            tree._tree = merkle.Tree.of_peaks(head.segments, peaks)
        except ValueError as error:
            raise ArchiveError(f"the head of segment {head.segments - 1}: {error}") from error
        if tree._tree.root().hex() != head.root:
            raise ArchiveError(f"the head of segment {head.segments - 1} has another root")
        tree._chain, tree._events = bytes.fromhex(head.records), head.events
        return tree

    @property
    def size(self) -> int:
        """How many segments it has."""
        return self._tree.size

    @property
    def chain(self) -> bytes:
        return self._chain

    @property
    def peaks(self) -> list[bytes]:
        """Roots of the complete subtrees of the tree (merkle.py)."""
        return self._tree.peaks

    def add(self, segment: Segment) -> None:
        self._tree.append(merkle.leaf_hash(segment.summary.leaf()))
        self._chain = chain_after(self._chain, segment)
        self._events += segment.events

    def head_after(self, segment: Segment, *, skipped: int) -> TreeHead:
        """The head after this segment, which was added last; not signed."""
        return TreeHead(
            cell=segment.cell,
            segments=self.size,
            skipped=skipped,
            events=self._events,
            last=segment.last,
            root=self._tree.root().hex(),
            records=self._chain.hex(),
            key="",
        )

    def follows(self, record: Record, *, skipped: int) -> bool:
        """Add the segment of a record; whether the head of the record follows, but for its key."""
        self.add(record.segment)
        expected = self.head_after(record.segment, skipped=skipped)
        return expected == msgspec.structs.replace(record.head, key="", signature="")


def chain_after(before: bytes, segment: Segment) -> bytes:
    """The chain after this segment, given the chain before it."""
    return sha256(before + encode(segment)).digest()


def encode(value: msgspec.Struct) -> bytes:
    return msgspec.json.encode(value)


def decode(data: bytes, kind: type[S], where: str) -> S:
    """Decode a line of JSON. Raises ArchiveError for any encoding other than ours."""
    try:
        value = msgspec.json.decode(check_json(data), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ArchiveError(f"{where} cannot be read: {error}") from error
    if encode(value) + b"\n" != data:
        raise ArchiveError(f"{where} is not as it was written")
    return value
