"""Verifies an archive's folder against a key and a checkpoint, and proves events. No server.

Owns: the checks, in an order that finds a change with the least work; proofs.
Must not: write.
Read next: manifest.py (the signed bytes), merkle.py, snapshot.py.

An unsigned change of any file breaks a hash that a signed tree head covers. Segments that are
removed at the end, or a history that was sealed again with the same key, can only be detected with
a checkpoint.
"""

from __future__ import annotations

import time
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from hashlib import sha256
from pathlib import Path

import msgspec

from eventsched.archive import merkle
from eventsched.archive.codec import decode_entry
from eventsched.archive.layout import (
    NOTE,
    PART,
    PUBLIC,
    SET_ASIDE,
    ArchiveFolder,
    CellFolder,
    SetAsideNote,
)
from eventsched.archive.manifest import CHAIN_START, Record, TreeHead, chain_after, decode, encode
from eventsched.archive.signing import fingerprint, from_base64, read_public
from eventsched.errors import ArchiveError, NotFound
from eventsched.projection.fold import decode_event
from eventsched.projection.protocol import ProjectionSet
from eventsched.schema.events import Event
from eventsched.schema.ids import check_id
from eventsched.schema.keys import CELL
from eventsched.store.transport import Entry

PROOF_BYTES_MAX = 2_000
_BLOCK = 1 << 20
RELIST_S = 0.5
"""A running archiver writes a segment's record shortly after its files."""
Progress = Callable[[int], None]


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
    cells: int = 0
    segments: int = 0
    events: int = 0
    checkpoints: int = 0
    problems: list[Problem] = []
    set_aside: list[SetAsideNote] = []
    """Segments that an operator has set aside, because the log had lost them."""


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
        self.report = AuditReport(key=fingerprint(self.folder.public))
        self._public = read_public(key) if key is not None else self.folder.public
        self._heads = read_checkpoint(checkpoint, self._public) if checkpoint is not None else []
        self._set = projection_set
        self._progress: Progress = lambda _: None
        self._tails: list[tuple[CellFolder, list[Record]]] = []
        """Segments that were set aside, by their folder."""

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
        for name in self.folder.cells():
            cell = self.folder.cell(name)
            try:
                records = cell.records()
            except ArchiveError as error:
                yield Problem(name, str(error))
                continue
            yield from self._records(cell, records)
            yield from self._set_aside(cell, records)
            readable.append((cell, records))
        yield from self._checkpoints({cell.cell: records for cell, records in readable})
        for cell, records in [*readable, *self._tails]:
            yield from self._sums(cell, records)
        for cell, records in self._tails:
            yield from self._leaves(cell, records)
        for cell, records in readable:
            yield from self._leaves(cell, records, counted=True)
            if self._set is not None:
                yield from self._snapshots(cell, records, self._set)

    # --- records and heads-------------------------------------------------------------------

    def _foreign_files(self) -> Iterator[Problem]:
        """Files that are not part of an archive."""
        for path in sorted(self.folder.path.iterdir()):
            is_cell = path.is_dir() and CELL.fullmatch(path.name)
            if path.name != PUBLIC and not is_cell and path.suffix != PART:
                yield Problem(path.name, "is not part of the archive")

    def _records(self, cell: CellFolder, records: Sequence[Record]) -> Iterator[Problem]:
        """Check the chain over the records, the tree over their roots, and the signed heads."""
        self.report.cells += 1
        tree, chain, events = merkle.Tree(), CHAIN_START, 0
        skipped = records[0].head.skipped if records else 0
        for record in records:
            tree.append(merkle.leaf_hash(bytes.fromhex(record.root)))
            chain = chain_after(chain, record.segment)
            events += record.events
            where = f"{cell.cell} segment {record.n}"
            head = record.head
            expected = TreeHead(
                cell=cell.cell, segments=tree.size, skipped=skipped, events=events,
                last=record.last, root=tree.root().hex(), records=chain.hex(), key=head.key,
                signature=head.signature,
            )  # fmt: skip
            if head != expected:
                yield Problem(where, "does not follow from the segments up to it")
            elif not head.is_signed_by(self._public):
                yield Problem(where, f"is not signed by key {fingerprint(self._public)}")
        self.report.segments += len(records)
        yield from self._unlisted(cell, records)

    def _unlisted(self, cell: CellFolder, records: Sequence[Record]) -> Iterator[Problem]:
        unlisted = _unlisted(cell, records)
        if unlisted:
            time.sleep(RELIST_S)
            unlisted &= _unlisted(cell, cell.records())
        for name in sorted(unlisted):
            yield Problem(f"{cell.cell}/{name}", "is named by no segment")

    def _set_aside(self, cell: CellFolder, records: Sequence[Record]) -> Iterator[Problem]:
        """Check the segments that were set aside: each follows from the one before it."""
        chains = {(record.n, record.head.records) for record in records}
        for path in cell.set_aside_folders():
            folder = CellFolder(path, cell.cell)
            where = f"{cell.cell}/{SET_ASIDE}/{path.name}"
            try:
                note, tail = cell.set_aside_note(path), folder.listed_records()
            except ArchiveError as error:
                yield Problem(where, str(error))
                continue
            self.report.set_aside.append(note)
            self._tails.append((folder, tail))
            chains |= {(record.n, record.head.records) for record in tail}
            if not tail or note != SetAsideNote.of(tail, key=note.key, why=note.why, by=note.by):
                yield Problem(f"{where}/{NOTE}", "does not describe the segments beside it")
        for folder, tail in self._tails:
            if folder.cell == cell.cell:
                yield from self._heads_of_tail(folder, tail, chains)

    def _heads_of_tail(
        self, folder: CellFolder, tail: Sequence[Record], chains: AbstractSet[tuple[int, str]]
    ) -> Iterator[Problem]:
        """Check the signed heads against `chains`, the chain values by number of the segment."""
        for record in tail:
            before = {bytes.fromhex(value) for n, value in chains if n == record.n - 1}
            follows = {
                chain_after(value, record.segment).hex() for value in before or {CHAIN_START}
            }
            head = record.head
            where = f"{folder.cell}/{SET_ASIDE}/{folder.path.name} segment {record.n}"
            if head.records not in follows or head.last != record.last:
                yield Problem(where, "does not follow from the segments up to it")
            elif not head.is_signed_by(self._public):
                yield Problem(where, f"is not signed by key {fingerprint(self._public)}")

    def _checkpoints(self, records: dict[str, list[Record]]) -> Iterator[Problem]:
        """Check that no segment of the checkpoint was removed or sealed again.

        A segment that was set aside is neither.
        """
        set_aside = [record.head for _, tail in self._tails for record in tail]
        for head in self._heads:
            self.report.checkpoints += 1
            if head in set_aside:
                continue
            where = f"checkpoint of {head.cell}"
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
        for record in records:
            for file in record.files:
                path = cell.path / file.name
                if not path.is_file():
                    yield Problem(f"{cell.cell}/{file.name}", "is missing")
                elif path.stat().st_size != file.bytes or _sha256_of(path) != file.sha256:
                    yield Problem(f"{cell.cell}/{file.name}", "is not the file that was sealed")

    def _leaves(
        self, cell: CellFolder, records: Sequence[Record], *, counted: bool = False
    ) -> Iterator[Problem]:
        """Check that the entries give the signed root; count them with `counted`."""
        from eventsched.archive.segment import read_entries

        for record in records:
            where = f"{cell.cell} segment {record.n}"
            try:
                entries = read_entries(cell.path / record.file("events").name)
            except ArchiveError as error:
                yield Problem(where, str(error))
                continue
            if len(entries) != record.events:
                yield Problem(where, f"has {len(entries)} entries, not {record.events}")
            elif merkle.root_of(merkle.leaf_hashes(entries)).hex() != record.root:
                yield Problem(where, "its entries are not those that were sealed")
            else:
                yield from _check_range(where, record, entries)
            if counted:
                self.report.events += len(entries)
                self._progress(self.report.events)

    def _snapshots(
        self, cell: CellFolder, records: Sequence[Record], projection_set: ProjectionSet
    ) -> Iterator[Problem]:
        """Check that a fold from the first entry gives every snapshot; with `--snapshots`."""
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
                for data in read_entries(cell.path / record.file("events").name):
                    event = decode_event(decode_entry(data))
                    if isinstance(event, Event):
                        fold.add(event)
                snapshot = read_snapshot(cell.path / record.file("snapshot").name)
            except (ArchiveError, ValueError) as error:
                yield Problem(where, str(error))
                return
            if snapshot != fold.snapshot(last=record.last, is_full=record.is_full):
                yield Problem(where, "its snapshot does not follow from the entries")


def _unlisted(cell: CellFolder, records: Sequence[Record]) -> set[str]:
    named = {file.name for record in records for file in record.files}
    return set(cell.names()) - named - set(cell.record_names())


def _sha256_of(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


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
        if records:
            lines.append(encode(records[-1].head) + b"\n")
    if not lines:
        raise ArchiveError(f"{folder.path} has no segment yet")
    return b"".join(lines)


def read_checkpoint(path: Path, public: bytes) -> list[TreeHead]:
    """The heads of an exported checkpoint. Raises ArchiveError unless this key signed them all."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise ArchiveError(f"cannot read {path}: {error.strerror}") from error
    heads = [decode(line, TreeHead, f"checkpoint {path}") for line in lines]
    if not heads or len({head.cell for head in heads}) != len(heads):
        raise ArchiveError(f"checkpoint {path} has no heads, or two of one cell")
    for head in heads:
        if not head.is_signed_by(public):
            raise ArchiveError(f"checkpoint {path} is not signed by key {fingerprint(public)}")
    return heads


# --- proofs ---------------------------------------------------------------------------------


class Proof(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Proves that an event is in an archive with this signed head. Self-contained, below 2 KB."""

    format: int = 1
    id: str
    entry: str
    """Stored bytes, deflated, base64; empty if they would exceed the size."""
    leaf: str
    """Leaf hash, base64."""
    index: int
    size: int
    path: str
    """Hashes from the leaf to the segment's root, joined, base64."""
    segment_path: str
    """Hashes from the segment's root to the root of the head, joined, base64."""
    segment: int
    head: TreeHead


def prove(folder: ArchiveFolder, entry_id: str, cell: str | None = None) -> Proof:
    """Prove that the event is in the archive. Raises NotFound, ArchiveError."""
    id_ = check_id(entry_id)
    for name in [cell] if cell else folder.cells():
        records = folder.cell(name).records()
        for record in records:
            if check_id(record.first) <= id_ <= check_id(record.last):
                proof = _proof(folder.cell(name), records, record, entry_id)
                if proof is not None:
                    return proof
    raise NotFound(f"no event {entry_id} in {folder.path}")


def _proof(
    cell: CellFolder, records: Sequence[Record], record: Record, entry_id: str
) -> Proof | None:
    from eventsched.archive.segment import read_entries

    entries = read_entries(cell.path / record.file("events").name)
    ids = [decode_entry(data)[0] for data in entries]
    if entry_id not in ids:
        return None
    index = ids.index(entry_id)
    leaves = merkle.leaf_hashes(entries)
    roots = [merkle.leaf_hash(bytes.fromhex(each.root)) for each in records]
    proof = Proof(
        id=entry_id,
        entry=_base64(zlib.compress(entries[index], 9)),
        leaf=_base64(leaves[index]),
        index=index,
        size=len(leaves),
        path=_base64(b"".join(merkle.prove(leaves, index))),
        segment_path=_base64(b"".join(merkle.prove(roots, record.n))),
        segment=record.n,
        head=records[-1].head,
    )
    if len(encode(proof)) < PROOF_BYTES_MAX:
        return proof
    return msgspec.structs.replace(proof, entry="")


class VerifiedProof(msgspec.Struct, frozen=True):
    """A proof that was verified."""

    proof: Proof
    key: str
    entry: Entry | None
    """The entry, if the proof has it."""


def check_proof(data: bytes, public: bytes | None, where: str) -> VerifiedProof:
    """Verify a proof. Raises ArchiveError if it is not valid."""
    proof = decode(data, Proof, where)
    head = proof.head
    key = head.public if public is None else public
    if not head.is_signed_by(key):
        raise ArchiveError(f"{where} is not signed by key {fingerprint(key)}")
    leaf = from_base64(proof.leaf)
    root = _root(leaf, proof.index, proof.size, proof.path)
    top = _root(
        None if root is None else merkle.leaf_hash(root),
        proof.segment,
        head.segments,
        proof.segment_path,
    )
    if leaf is None or top is None or top.hex() != head.root:
        raise ArchiveError(f"{where} does not lead from the event to the signed root")
    return VerifiedProof(proof, fingerprint(key), _entry_of(proof, leaf, where))


def _entry_of(proof: Proof, leaf: bytes, where: str) -> Entry | None:
    if not proof.entry:
        return None
    packed = from_base64(proof.entry)
    try:
        data = _inflated(packed or b"")
        entry = decode_entry(data)
    except (zlib.error, ValueError) as error:
        raise ArchiveError(f"{where} holds no entry: {error}") from error
    if merkle.leaf_hash(data) != leaf or entry[0] != proof.id:
        raise ArchiveError(f"{where} holds another entry than the one it proves")
    return entry


def _inflated(packed: bytes) -> bytes:
    """Inflate an entry of a bounded size. Raises ValueError for any other data."""
    decompressor = zlib.decompressobj()
    data = decompressor.decompress(packed, 1 << 20)
    if not decompressor.eof or decompressor.unused_data:
        raise ValueError("not deflated as a single entry")
    return data


def _root(leaf: bytes | None, index: int, size: int, path: str) -> bytes | None:
    hashes = from_base64(path)
    width = merkle.HASH_BYTES
    if leaf is None or hashes is None or len(leaf) != width or len(hashes) % width:
        return None
    steps = [hashes[at : at + width] for at in range(0, len(hashes), width)]
    return merkle.root_by_path(leaf, index, size, steps)


def _base64(data: bytes) -> str:
    return b64encode(data).decode()
