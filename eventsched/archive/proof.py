"""Makes and checks proofs that an archive has an entry. A check needs neither archive nor server.

Owns: the form of a proof, and what it proves: these bytes are the entry with this id, at this
position of this segment of this cell, in the history that the head's key has signed.
Must not: write files, or choose the key that is trusted.
Read next: codec.py (the leaf of an entry), manifest.py (the leaf of a segment, the head).

A proof leads from the entry to the signed head in four steps, and each step binds the next one:

    leaf of the entry      the entry's bytes, which begin with its id, and its position
    root of the segment    from that leaf by `path`, at this position of a tree of `events` leaves
    leaf of the segment    its cell, number, first and last id, number of entries and root
    root of the head       from that leaf by `segment_path`, at this number; the head is signed

eventsched/examples/check_proof.mjs checks a proof without this package.
"""

from __future__ import annotations

import zlib
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import msgspec

from eventsched.archive import merkle
from eventsched.archive.codec import decode_entry, entry_leaf, entry_leaves
from eventsched.archive.layout import ArchiveFolder, CellFolder
from eventsched.archive.manifest import Count, Record, SegmentSummary, TreeHead, decode
from eventsched.archive.signing import fingerprint, from_base64
from eventsched.errors import ArchiveError, NotFound
from eventsched.schema.ids import check_id
from eventsched.store.transport import Entry

ENTRY_BYTES_MAX = 1 << 20
"""A stored entry is smaller: its text has at most 64 KiB, its other fields less."""
PROOF_BYTES_MAX = 2 << 20
PROOFS_BYTES_MAX = 256 << 20
"""Bytes of a file of proofs, a line each."""


class Proof(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Proves that an archive with this signed head has this entry. Below 2 KB but for long texts.

    Without the entry's bytes there is no proof: a hash alone does not show of which entry it is.
    """

    format: Literal[1] = 1
    id: str
    """Id of the entry."""
    entry: str
    """Its stored bytes, deflated, base64."""
    position: Count
    """Its position in the segment, from 0."""
    path: str
    """Hashes from its leaf to the segment's root, joined, base64."""
    segment: SegmentSummary
    segment_path: str
    """Hashes from the segment's leaf to the root of the head, joined, base64."""
    head: TreeHead


def prove(folder: ArchiveFolder, entry_id: str, cell: str | None = None) -> Proof:
    """Prove that the archive has the entry. Raises NotFound, ArchiveError."""
    for name in [cell] if cell else folder.cells():
        for proof in prove_all(folder, name, [entry_id]):
            return proof
    raise NotFound(f"no event {entry_id} in {folder.path}")


def prove_all(folder: ArchiveFolder, cell: str, entry_ids: Iterable[str]) -> Iterator[Proof]:
    """Prove those of the entries that the archive has, by segment. Raises ArchiveError."""
    segments = folder.cell(cell).signed_records()
    wanted: dict[int, set[str]] = {}
    for entry_id in entry_ids:
        ms, seq = check_id(entry_id)
        for n in segments.between((ms, seq - 1), (ms, seq)):
            wanted.setdefault(n, set()).add(entry_id)
    if not wanted:
        return
    records = segments[:]
    paths = merkle.Paths(merkle.leaf_hashes(each.summary.leaf() for each in records))
    for n in sorted(wanted):
        yield from _proofs(folder.cell(cell), records, paths.of(n), n, wanted[n])


def _proofs(
    cell: CellFolder, records: Sequence[Record], path: list[bytes], n: int, wanted: set[str]
) -> Iterator[Proof]:
    """The proofs of some entries of segment `n`; `path` leads from it to the root of the head."""
    from eventsched.archive.sealed_file import open_sealed
    from eventsched.archive.segment import read_entries

    record = records[n]
    with open_sealed(cell, record, "events") as file:
        entries = read_entries(file)
    try:
        ids = [decode_entry(data)[0] for data in entries]
    except ValueError as error:
        raise ArchiveError(f"segment {record.n} of {record.cell}: {error}") from error
    paths = merkle.Paths(merkle.leaf_hashes(entry_leaves(entries)))
    for position, entry_id in enumerate(ids):
        if entry_id in wanted:
            yield Proof(
                id=entry_id,
                entry=_base64(zlib.compress(entries[position], 9)),
                position=position,
                path=_base64(b"".join(paths.of(position))),
                segment=record.summary,
                segment_path=_base64(b"".join(path)),
                head=records[-1].head,
            )


class CheckedProof(msgspec.Struct, frozen=True):
    """A proof that leads from its entry to its signed head."""

    proof: Proof
    entry: Entry
    key: str
    """Fingerprint of the key that signed the head."""
    is_key_checked: bool
    """It is the trusted key. Otherwise the maker of the proof may have signed anything with it."""


def check_proof(data: bytes, trusted: bytes | None, where: str) -> CheckedProof:
    """Check a proof.

    Args:
        data: The content of its file.
        trusted: The public key that must have signed it; without it, any key may have.
        where: Name of the proof, for messages.

    Raises:
        ArchiveError: The proof does not prove its entry.
    """
    if len(data) > PROOF_BYTES_MAX:
        raise ArchiveError(f"{where} is no proof: it has more than {PROOF_BYTES_MAX:,} bytes")
    proof = decode(data, Proof, where)
    head, segment = proof.head, proof.segment
    key = head.public if trusted is None else trusted
    if not head.is_signed_by(key):
        raise ArchiveError(f"{where} is not signed by key {fingerprint(key)}")
    stored, entry = _entry_of(proof, where)
    root = _root(entry_leaf(proof.position, stored), proof.position, segment.events, proof.path)
    top = _root(segment.leaf(), segment.n, head.segments, proof.segment_path)
    if (root, top, segment.cell) != (segment.root, head.root, head.cell):
        raise ArchiveError(f"{where} does not lead from the entry to the signed root")
    if not check_id(segment.first) <= check_id(proof.id) <= check_id(segment.last):
        raise ArchiveError(f"{where} has an entry that is not in the range of its segment")
    return CheckedProof(proof, entry, fingerprint(key), trusted is not None)


def _entry_of(proof: Proof, where: str) -> tuple[bytes, Entry]:
    """The stored bytes of the entry, and the entry."""
    if not proof.entry:
        raise ArchiveError(
            f"{where} has no entry: it does not prove that the archive has {proof.id}, because a "
            "hash alone does not show of which entry it is"
        )
    try:
        stored = _inflated(from_base64(proof.entry) or b"")
        entry = decode_entry(stored)
    except (zlib.error, ValueError) as error:
        raise ArchiveError(f"{where} has no readable entry: {error}") from error
    if entry[0] != proof.id:
        raise ArchiveError(f"{where} has entry {entry[0]}, not {proof.id}")
    return stored, entry


def _inflated(packed: bytes) -> bytes:
    """Inflate an entry of a bounded size. Raises ValueError for any other data."""
    decompressor = zlib.decompressobj()
    data = decompressor.decompress(packed, ENTRY_BYTES_MAX)
    if not decompressor.eof or decompressor.unused_data:
        raise ValueError("not deflated as a single entry")
    return data


def _root(leaf: bytes, index: int, size: int, path: str) -> str | None:
    """The root that the path gives for this leaf, as hex; None if it does not fit the tree."""
    hashes, width = from_base64(path), merkle.HASH_BYTES
    if hashes is None or len(hashes) % width:
        return None
    steps = [hashes[at : at + width] for at in range(0, len(hashes), width)]
    root = merkle.root_by_path(merkle.leaf_hash(leaf), index, size, steps)
    return root.hex() if root is not None else None


def _base64(data: bytes) -> str:
    return b64encode(data).decode()
