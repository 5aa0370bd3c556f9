"""What one sealed segment is, in one small JSON file; and the signed head that ends it.

Owns: the records, their one encoding, the chain over them, what is signed.
Never does: read segments. Read next: sealer.py (writes them), verifier.py (holds files against
them).

A record names the segment's range, the root over its entries and the SHA-256 of each of its files.
Its head speaks for the whole archive up to here: the root of the tree over the segments' roots,
and a chain of SHA-256 over the records, so that nothing that a record says can change unseen.
A head is complete in itself: exported, it is a checkpoint.
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


class Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The archive of one cell up to one segment, signed."""

    format: int = FORMAT
    cell: str
    segments: Annotated[int, msgspec.Meta(ge=1, lt=10**9)]
    skipped: Count
    """Entries that the log had lost before the archive began."""
    events: Count
    """Entries in these segments."""
    last: str
    """Id of the last of them."""
    root: Hex
    """Of the tree whose leaves are the segments' roots."""
    records: Hex
    """Of the chain over their records."""
    key: str
    """Public key, base64."""
    signature: str = ""

    @property
    def public(self) -> bytes:
        return from_base64(self.key) or b""

    def unsigned(self) -> bytes:
        return _SIGNED + encode(msgspec.structs.replace(self, signature=""))

    def signed(self, key: SigningKey) -> Head:
        whose = msgspec.structs.replace(self, key=b64encode(key.public).decode(), signature="")
        signature = b64encode(key.sign(whose.unsigned())).decode()
        return msgspec.structs.replace(whose, signature=signature)

    def is_signed_by(self, public: bytes) -> bool:
        signature = from_base64(self.signature)
        if signature is None or self.public != public:
            return False
        return is_signed(public, self.unsigned(), signature)


class FileSum(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of a segment."""

    name: str
    bytes: Count
    sha256: Hex


class Segment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is in one segment; the chain runs over it."""

    format: int = FORMAT
    n: Annotated[int, msgspec.Meta(ge=0, lt=10**9)]
    cell: str
    first: str
    last: str
    events: Annotated[int, msgspec.Meta(ge=1, lt=10**9)]
    root: Hex
    """Over the stored bytes of its entries, in their order."""
    files: list[FileSum]
    is_full: bool
    """Whether its snapshot has every record; else those that this segment changed."""
    versions: dict[str, int]
    """Of the projections whose records the snapshot has."""
    utterances: Count = 0
    """With their audio."""

    def file(self, kind: str) -> FileSum:
        """The file of a kind. Raises ArchiveError when the record has none."""
        for one in self.files:
            if one.name.endswith(f".{kind}.parquet"):
                return one
        raise ArchiveError(f"segment {self.n} of {self.cell} has no {kind} file")


class Record(Segment, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One segment and the signed head of the archive that ends with it."""

    head: Head

    @classmethod
    def of(cls, segment: Segment, head: Head) -> Record:
        return cls(**msgspec.structs.asdict(segment), head=head)

    @property
    def segment(self) -> Segment:
        return Segment(**{name: getattr(self, name) for name in Segment.__struct_fields__})


def chained(before: bytes, segment: Segment) -> bytes:
    """The chain after this segment."""
    return sha256(before + encode(segment)).digest()


def encode(told: msgspec.Struct) -> bytes:
    return msgspec.json.encode(told)


def decode(data: bytes, kind: type[S], where: str) -> S:
    """What these bytes, a line of JSON, say. Raises ArchiveError for any encoding but our own."""
    try:
        told = msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ArchiveError(f"{where} cannot be read: {error}") from error
    if encode(told) + b"\n" != data:
        raise ArchiveError(f"{where} is not as it was written")
    return told
