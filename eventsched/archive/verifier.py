"""Verify and prove: an archive's folder against itself, a key and a checkpoint. No server.

Owns: what is held against what, in an order that finds a change with the least work; proofs.
Never does: write. Read next: manifest.py (what is signed), merkle.py, snapshot.py.

An unsigned change anywhere breaks a hash that a signed head leads to. Segments that are cut off at
the end, or a whole history sealed anew with the key, can only be seen by who kept a checkpoint.
"""

from __future__ import annotations

import time
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import msgspec

from eventsched.archive import merkle
from eventsched.archive.codec import decode_entry
from eventsched.archive.layout import PART, PUBLIC, ArchiveFolder, CellFolder
from eventsched.archive.manifest import CHAIN_START, Head, Record, chained, decode, encode
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
LISTED_AGAIN_S = 0.5
"""A running archiver names a segment's files a moment after they appear."""
Progress = Callable[[int], None]


class Problem(msgspec.Struct, frozen=True):
    """One thing that is not as it was sealed."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class AuditReport(msgspec.Struct, kw_only=True):
    """What was looked at."""

    key: str = ""
    """Fingerprint."""
    cells: int = 0
    segments: int = 0
    events: int = 0
    checkpoints: int = 0
    problems: list[Problem] = []


class Verifier:
    """One look at one archive."""

    def __init__(
        self,
        path: Path,
        *,
        checkpoint: Path | None = None,
        key: Path | None = None,
        projection_set: ProjectionSet | None = None,
    ) -> None:
        """Raises ArchiveError when `path` is no archive, or key or checkpoint cannot be used."""
        self.folder = ArchiveFolder.open(path)
        self.report = AuditReport(key=fingerprint(self.folder.public))
        self._public = read_public(key) if key is not None else self.folder.public
        self._heads = read_checkpoint(checkpoint, self._public) if checkpoint is not None else []
        self._set = projection_set
        self._progress: Progress = lambda _: None

    def on_progress(self, told: Progress) -> None:
        """Call this with the number of events that have been looked at."""
        self._progress = told

    def run(self) -> AuditReport:
        """Everything that is wrong."""
        self.report.problems = list(self.problems())
        return self.report

    def problems(self) -> Iterator[Problem]:
        """One after the other, what is cheap to find first."""
        if self._public != self.folder.public:
            said = fingerprint(self.folder.public)
            yield Problem(PUBLIC, f"is key {said}, not {fingerprint(self._public)}")
        yield from self._strange()
        sound: list[tuple[CellFolder, list[Record]]] = []
        for name in self.folder.cells():
            cell = self.folder.cell(name)
            try:
                records = cell.records()
            except ArchiveError as error:
                yield Problem(name, str(error))
                continue
            yield from self._records(cell, records)
            sound.append((cell, records))
        yield from self._checkpoints({cell.cell: records for cell, records in sound})
        for cell, records in sound:
            yield from self._sums(cell, records)
        for cell, records in sound:
            yield from self._leaves(cell, records)
            if self._set is not None:
                yield from self._snapshots(cell, records, self._set)

    # --- what is there ----------------------------------------------------------------------

    def _strange(self) -> Iterator[Problem]:
        """Files that belong to no archive."""
        for path in sorted(self.folder.path.iterdir()):
            is_cell = path.is_dir() and CELL.fullmatch(path.name)
            if path.name != PUBLIC and not is_cell and path.suffix != PART:
                yield Problem(path.name, "is not part of the archive")

    def _records(self, cell: CellFolder, records: Sequence[Record]) -> Iterator[Problem]:
        """The chain over the records, the tree over their roots, and the signed heads."""
        self.report.cells += 1
        tree, chain, events = merkle.Tree(), CHAIN_START, 0
        skipped = records[0].head.skipped if records else 0
        for record in records:
            tree.append(merkle.leaf_hash(bytes.fromhex(record.root)))
            chain = chained(chain, record.segment)
            events += record.events
            where = f"{cell.cell} segment {record.n}"
            head = record.head
            said = Head(
                cell=cell.cell, segments=tree.size, skipped=skipped, events=events,
                last=record.last, root=tree.root().hex(), records=chain.hex(), key=head.key,
                signature=head.signature,
            )  # fmt: skip
            if head != said:
                yield Problem(where, "does not follow from the segments up to it")
            elif not head.is_signed_by(self._public):
                yield Problem(where, f"is not signed by key {fingerprint(self._public)}")
        self.report.segments += len(records)
        yield from self._unlisted(cell, records)

    def _unlisted(self, cell: CellFolder, records: Sequence[Record]) -> Iterator[Problem]:
        strange = _unlisted(cell, records)
        if strange:
            time.sleep(LISTED_AGAIN_S)
            strange &= _unlisted(cell, cell.records())
        for name in sorted(strange):
            yield Problem(f"{cell.cell}/{name}", "is named by no segment")

    def _checkpoints(self, records: dict[str, list[Record]]) -> Iterator[Problem]:
        """What was signed then still holds: nothing is cut off, nothing sealed anew."""
        for head in self._heads:
            self.report.checkpoints += 1
            where = f"checkpoint of {head.cell}"
            found = records.get(head.cell, [])
            if len(found) < head.segments:
                what = f"has {head.segments} segments, the archive {len(found)}"
                yield Problem(where, what)
                continue
            if found[head.segments - 1].head != head:
                what = f"differs from segment {head.segments - 1}: history was sealed anew"
                yield Problem(where, what)

    # --- what is in the files ---------------------------------------------------------------

    def _sums(self, cell: CellFolder, records: Sequence[Record]) -> Iterator[Problem]:
        for record in records:
            for one in record.files:
                path = cell.path / one.name
                if not path.is_file():
                    yield Problem(f"{cell.cell}/{one.name}", "is missing")
                elif path.stat().st_size != one.bytes or _sum_of(path) != one.sha256:
                    yield Problem(f"{cell.cell}/{one.name}", "is not the file that was sealed")

    def _leaves(self, cell: CellFolder, records: Sequence[Record]) -> Iterator[Problem]:
        """The entries themselves give the root that is signed."""
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
                yield from _range(where, record, entries)
            self.report.events += len(entries)
            self._progress(self.report.events)

    def _snapshots(
        self, cell: CellFolder, records: Sequence[Record], projection_set: ProjectionSet
    ) -> Iterator[Problem]:
        """Folding anew from the first entry gives every snapshot: with `--snapshots`."""
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
                    one = decode_event(decode_entry(data))
                    if isinstance(one, Event):
                        fold.add(one)
                kept = read_snapshot(cell.path / record.file("snapshot").name)
            except (ArchiveError, ValueError) as error:
                yield Problem(where, str(error))
                return
            if kept != fold.take(last=record.last, is_full=record.is_full):
                yield Problem(where, "its snapshot does not follow from the entries")


def _unlisted(cell: CellFolder, records: Sequence[Record]) -> set[str]:
    named = {one.name for record in records for one in record.files}
    return set(cell.names()) - named - set(cell.record_names())


def _sum_of(path: Path) -> str:
    found = sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            found.update(block)
    return found.hexdigest()


def _range(where: str, record: Record, entries: Sequence[bytes]) -> Iterator[Problem]:
    """The segment begins and ends where its record says."""
    try:
        ends = decode_entry(entries[0])[0], decode_entry(entries[-1])[0]
    except (ValueError, UnicodeDecodeError) as error:
        yield Problem(where, str(error))
        return
    if ends != (record.first, record.last):
        yield Problem(where, f"has {ends[0]} to {ends[1]}, not {record.first} to {record.last}")


# --- checkpoints ----------------------------------------------------------------------------


def checkpoint_of(folder: ArchiveFolder) -> bytes:
    """The newest signed head of each cell, a line each: to be kept elsewhere."""
    lines = []
    for name in folder.cells():
        records = folder.cell(name).records()
        if records:
            lines.append(encode(records[-1].head) + b"\n")
    if not lines:
        raise ArchiveError(f"{folder.path} has no segment yet")
    return b"".join(lines)


def read_checkpoint(path: Path, public: bytes) -> list[Head]:
    """The heads of an exported checkpoint. Raises ArchiveError unless this key signed them all."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise ArchiveError(f"cannot read {path}: {error.strerror}") from error
    heads = [decode(line, Head, f"checkpoint {path}") for line in lines]
    if not heads or len({head.cell for head in heads}) != len(heads):
        raise ArchiveError(f"checkpoint {path} has no heads, or two of one cell")
    for head in heads:
        if not head.is_signed_by(public):
            raise ArchiveError(f"checkpoint {path} is not signed by key {fingerprint(public)}")
    return heads


# --- proofs ---------------------------------------------------------------------------------


class Proof(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One event is in the archive whose head was signed. Complete in itself, below 2 KB."""

    format: int = 1
    id: str
    entry: str
    """Stored bytes, deflated, base64; empty when there is no room for them."""
    leaf: str
    """Leaf hash, base64."""
    index: int
    size: int
    path: str
    """From the leaf to the segment's root: hashes, joined, base64."""
    segment_path: str
    """From the segment's root to the head's."""
    segment: int
    head: Head


def prove(folder: ArchiveFolder, entry_id: str, cell: str | None = None) -> Proof:
    """That the event is in the archive. Raises NotFound, ArchiveError."""
    place = check_id(entry_id)
    for name in [cell] if cell else folder.cells():
        records = folder.cell(name).records()
        for record in records:
            if check_id(record.first) <= place <= check_id(record.last):
                found = _proof(folder.cell(name), records, record, entry_id)
                if found is not None:
                    return found
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
    roots = [merkle.leaf_hash(bytes.fromhex(one.root)) for one in records]
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


class Checked(msgspec.Struct, frozen=True):
    """What a proof shows."""

    proof: Proof
    key: str
    entry: Entry | None
    """The entry itself, when the proof has it."""


def check_proof(data: bytes, public: bytes | None, where: str) -> Checked:
    """What the proof shows. Raises ArchiveError when it shows nothing."""
    proof = decode(data, Proof, where)
    head = proof.head
    whose = head.public if public is None else public
    if not head.is_signed_by(whose):
        raise ArchiveError(f"{where} is not signed by key {fingerprint(whose)}")
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
    return Checked(proof, fingerprint(whose), _entry_of(proof, leaf, where))


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
    """Only one packed entry, of a bounded size."""
    inflating = zlib.decompressobj()
    data = inflating.decompress(packed, 1 << 20)
    if not inflating.eof or inflating.unused_data:
        raise ValueError("not packed as it was")
    return data


def _root(leaf: bytes | None, index: int, size: int, path: str) -> bytes | None:
    hashes = from_base64(path)
    wide = merkle.HASH_BYTES
    if leaf is None or hashes is None or len(leaf) != wide or len(hashes) % wide:
        return None
    steps = [hashes[at : at + wide] for at in range(0, len(hashes), wide)]
    return merkle.root_by_path(leaf, index, size, steps)


def _base64(data: bytes) -> str:
    return b64encode(data).decode()
