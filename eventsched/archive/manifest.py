"""Defines the record of a sealed segment, a small JSON file, and the signed tree head in it.

Owns: the fields of records and heads, their only encoding, the chain over records, the signed
bytes.
Must not: read segments.
Read next: sealer.py (writes records), verifier.py (verifies files against them).

A record has the range of the segment, the Merkle root over its entries and the SHA-256 of each of
its files. Its tree head covers the archive up to this segment: the root of the tree over the roots
of all segments, and a SHA-256 chain over their records, which shows any change of a record. An
exported head is a checkpoint.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from typing import Annotated, TypeVar

import msgspec

from eventsched.archive.signing import SigningKey, from_base64, is_signed
from eventsched.errors import ArchiveError

FORMAT = 1
CHAIN_START = bytes(32)
_SIGNED = b"eventsched archive head 1\n"
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
    """Root of the tree whose leaves are the roots of the segments."""
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
        signature = from_base64(self.signature)
        if signature is None or self.public != public:
            return False
        return is_signed(public, self.unsigned(), signature)


class FileSum(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of a segment."""

    name: str
    bytes: Count
    sha256: Hex


class Segment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of a segment; the chain covers these fields."""

    format: int = FORMAT
    n: Annotated[int, msgspec.Meta(ge=0, lt=10**9)]
    cell: str
    first: str
    last: str
    events: Annotated[int, msgspec.Meta(ge=1, lt=10**9)]
    root: Hex
    """Merkle root over the stored bytes of its entries, in order."""
    files: list[FileSum]
    is_full: bool
    """Whether its snapshot has all records; otherwise those that this segment changed."""
    versions: dict[str, int]
    """Versions of the projections whose records the snapshot has."""
    utterances: Count = 0
    """Utterances with audio."""

    def file(self, kind: str) -> FileSum:
        """The file of a kind. Raises ArchiveError if the record has none."""
        for file in self.files:
            if file.name.endswith(f".{kind}.parquet"):
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


def chain_after(before: bytes, segment: Segment) -> bytes:
    """The chain after this segment, given the chain before it."""
    return sha256(before + encode(segment)).digest()


def encode(value: msgspec.Struct) -> bytes:
    return msgspec.json.encode(value)


def decode(data: bytes, kind: type[S], where: str) -> S:
    """Decode a line of JSON. Raises ArchiveError for any encoding other than ours."""
    try:
        value = msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ArchiveError(f"{where} cannot be read: {error}") from error
    if encode(value) + b"\n" != data:
        raise ArchiveError(f"{where} is not as it was written")
    return value
