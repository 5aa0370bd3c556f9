"""Sealing: entries become one segment of the archive.

Owns: one cell's segments as they grow: what is gathered, the trees and the chain so far, the files
and their record. The same entries under the same key give the same files.
Never does: Redis; where a segment ends is its caller's. Read next: archiver.py, record.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from eventsched.archive import merkle
from eventsched.archive.ids import Place, place_of
from eventsched.archive.layout import CellFolder, stem
from eventsched.archive.record import CHAIN_START, FileSum, Head, Record, chained
from eventsched.archive.segment import (
    Rows,
    Utterance,
    audio_parquet,
    sessions_parquet,
    snapshot_parquet,
)
from eventsched.archive.signing import SigningKey
from eventsched.archive.snapshot import FULL_EVERY, fold_at
from eventsched.events import Event, UtteranceFinalized
from eventsched.folding import decoded, trails_of
from eventsched.projection import ProjectionSet
from eventsched.transport import Entry


class Gathered:
    """The entries of the segment that comes next."""

    def __init__(self) -> None:
        self.rows = Rows()
        self.first = self.last = ""
        self.trails: dict[str, list[int]] = {}
        self.finalized: list[Event] = []
        self.audio_bytes = 0

    def __len__(self) -> int:
        return len(self.rows)


class Sealer:
    """Writes one cell's segments, from where its folder ends."""

    def __init__(self, folder: CellFolder, key: SigningKey, projection_set: ProjectionSet) -> None:
        self.folder = folder
        self._key = key
        self._set = projection_set
        self.records = folder.records()
        self._tree = merkle.Tree()
        self._chain = CHAIN_START
        for record in self.records:
            self._grow(record)
        self._fold = fold_at(folder, self.records, len(self.records) - 1, projection_set)
        self.gathered = Gathered()
        self._last: Place = place_of(self.records[-1].last) if self.records else (-1, 0)

    def _grow(self, record: Record) -> None:
        self._tree.append(merkle.leaf_hash(bytes.fromhex(record.root)))
        self._chain = chained(self._chain, record)

    @property
    def head(self) -> Head | None:
        """Of the last sealed segment."""
        return self.records[-1].head if self.records else None

    @property
    def sealed_to(self) -> str:
        return self.records[-1].last if self.records else "0-0"

    @property
    def last(self) -> str:
        """The last entry that is sealed or gathered."""
        return self.gathered.last or self.sealed_to

    def add(self, entries: Sequence[Entry]) -> None:
        """Gather entries, in the log's order. Raises ArchiveError for any other."""
        if not entries:
            return
        gathered, row = self.gathered, len(self.gathered)
        self._last = gathered.rows.add(entries, self._last)
        gathered.first = gathered.first or entries[0][0]
        gathered.last = entries[-1][0]
        for row_no, entry in enumerate(entries, row):
            one = decoded(entry)
            for session in trails_of(one, self._set):
                gathered.trails.setdefault(session, []).append(row_no)
            if isinstance(one, Event):
                self._fold.add(one)
                self._note(gathered, one)

    def _note(self, gathered: Gathered, event: Event) -> None:
        if isinstance(event.data, UtteranceFinalized):
            gathered.finalized.append(event)
            gathered.audio_bytes += event.data.bytes

    def seal(self, utterances: Sequence[Utterance] | None = None, *, skipped: int = 0) -> Record:
        """Everything gathered is one segment, on disk when this returns.

        `utterances`: their audio, where it is archived. `skipped`: entries that the log had lost
        before the first segment.
        """
        gathered, n = self.gathered, len(self.records)
        is_full = n % FULL_EVERY == 0 or self.records[-1].versions != self._fold.versions
        kept = self._fold.take(last=gathered.last, is_full=is_full)
        made = {
            "events": gathered.rows.parquet(),
            "sessions": sessions_parquet(gathered.trails),
            "snapshot": snapshot_parquet(kept),
        }
        if utterances is not None:
            made["audio"] = audio_parquet(utterances)
        name = stem(gathered.first, gathered.last)
        files = {f"{name}.{kind}.parquet": content for kind, content in made.items()}
        root = merkle.root_of(merkle.leaf_hashes(gathered.rows.entries()))
        record = Record(
            n=n,
            cell=self.folder.cell,
            first=gathered.first,
            last=gathered.last,
            events=len(gathered),
            root=root.hex(),
            files=[
                FileSum(name=each, bytes=len(content), sha256=sha256(content).hexdigest())
                for each, content in files.items()
            ],
            is_full=is_full,
            versions=dict(self._fold.versions),
            utterances=len(utterances or ()),
        )
        self._grow(record)
        record = self._headed(record, skipped)
        self.folder.path.mkdir(parents=True, exist_ok=True)
        for each, content in files.items():
            self.folder.write(each, content)
        self.folder.write_record(record)
        self.records.append(record)
        self.gathered = Gathered()
        return record

    def _headed(self, record: Record, skipped: int) -> Record:
        before = self.head
        head = Head(
            cell=record.cell,
            segments=self._tree.size,
            skipped=before.skipped if before else skipped,
            events=(before.events if before else 0) + record.events,
            last=record.last,
            root=self._tree.root().hex(),
            records=self._chain.hex(),
            key="",
        ).signed(self._key)
        return Record(**{name: getattr(record, name) for name in _BODY}, head=head)


_BODY = tuple(name for name in Record.__struct_fields__ if name != "head")
