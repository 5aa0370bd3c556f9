"""Sealing: entries become one segment of the archive.

Owns: one cell's segments as they grow: what is gathered, the trees and the chain so far, the files
and their record. The same entries under the same key give the same files.
Never does: Redis; where a segment ends is its caller's. Read next: archiver.py, manifest.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import TypeAlias

from eventsched.archive import merkle
from eventsched.archive.layout import CellFolder, stem
from eventsched.archive.manifest import CHAIN_START, FileSum, Head, Record, Segment, chained
from eventsched.archive.segment import (
    Rows,
    Utterance,
    audio_parquet,
    sessions_parquet,
    snapshot_parquet,
)
from eventsched.archive.signing import SigningKey
from eventsched.archive.snapshot import FULL_EVERY, fold_at
from eventsched.projection.fold import decode_event, sessions_of
from eventsched.projection.protocol import ProjectionSet
from eventsched.schema.events import Event, UtteranceFinalized
from eventsched.schema.ids import START, EntryId, check_id
from eventsched.schema.keys import name_of
from eventsched.store.transport import Entry

Finalized: TypeAlias = tuple[Event, UtteranceFinalized]


class Gathered:
    """The entries of the segment that comes next."""

    def __init__(self) -> None:
        self.rows = Rows()
        self.first = self.last = ""
        self.indexes: dict[str, list[int]] = {}
        self.utterances: list[Utterance] = []
        self.audio_bytes = 0
        self.heard: dict[str, str] = {}
        """Session -> last chunk of its last utterance here; by its name in the cell."""

    def __len__(self) -> int:
        return len(self.rows)


class Sealer:
    """Writes one cell's segments, from where its folder ends."""

    def __init__(self, folder: CellFolder, key: SigningKey, projection_set: ProjectionSet) -> None:
        self.folder = folder
        self._key = key
        self._set = projection_set
        self.records = folder.records()
        self.skipped = self.records[0].head.skipped if self.records else 0
        """Entries that the log had lost before the first segment."""
        self.heard: Mapping[str, str] = {}
        """Of the segment sealed last: session -> up to which chunk its audio is sealed."""
        self._tree = merkle.Tree()
        self._chain = CHAIN_START
        for record in self.records:
            self._grow(record.segment)
        self._fold = fold_at(folder, self.records, len(self.records) - 1, projection_set)
        self.gathered = Gathered()
        self._last: EntryId = check_id(self.records[-1].last) if self.records else (-1, 0)

    def _grow(self, segment: Segment) -> None:
        self._tree.append(merkle.leaf_hash(bytes.fromhex(segment.root)))
        self._chain = chained(self._chain, segment)

    @property
    def sealed_to(self) -> str:
        return self.records[-1].last if self.records else START

    @property
    def passed(self) -> int:
        """Entries that the log ever had up to there."""
        return self.skipped + (self.records[-1].head.events if self.records else 0)

    @property
    def last(self) -> str:
        """The last entry that is sealed or gathered."""
        return self.gathered.last or self.sealed_to

    def add(self, entries: Sequence[Entry]) -> list[Finalized]:
        """Gather entries, in the log's order; the utterances that were finalized by them.

        Raises ArchiveError for entries in another order.
        """
        if not entries:
            return []
        gathered, row = self.gathered, len(self.gathered)
        self._last = gathered.rows.add(entries, self._last)
        gathered.first = gathered.first or entries[0][0]
        gathered.last = entries[-1][0]
        finalized: list[Finalized] = []
        for row_no, entry in enumerate(entries, row):
            one = decode_event(entry)
            for session in sessions_of(one, self._set):
                gathered.indexes.setdefault(session, []).append(row_no)
            if not isinstance(one, Event):
                continue
            self._fold.add(one)
            if isinstance(one.data, UtteranceFinalized):
                finalized.append((one, one.data))
                gathered.heard[name_of(one.session)] = one.data.last
        return finalized

    def hear(self, utterance: Utterance, data: UtteranceFinalized) -> None:
        """The audio of an utterance that was finalized in what is gathered."""
        self.gathered.utterances.append(utterance)
        self.gathered.audio_bytes += data.bytes

    def seal(self) -> Record:
        """Everything gathered is one segment, on disk when this returns."""
        gathered = self.gathered
        segment, files = self._made(gathered)
        self._grow(segment)
        record = Record.of(segment, self._head(segment))
        for name, content in files.items():
            self.folder.write(name, content)
        self.folder.write_record(record)
        self.records.append(record)
        self.heard, self.gathered = gathered.heard, Gathered()
        return record

    def _made(self, gathered: Gathered) -> tuple[Segment, dict[str, bytes]]:
        """The segment, and the content of its files by their names."""
        n = len(self.records)
        is_full = n % FULL_EVERY == 0 or self.records[-1].versions != self._fold.versions
        kept = self._fold.take(last=gathered.last, is_full=is_full)
        made = {
            "events": gathered.rows.parquet(),
            "sessions": sessions_parquet(gathered.indexes),
            "snapshot": snapshot_parquet(kept),
        }
        if gathered.utterances:
            made["audio"] = audio_parquet(gathered.utterances)
        name = stem(gathered.first, gathered.last)
        files = {f"{name}.{kind}.parquet": content for kind, content in made.items()}
        segment = Segment(
            n=n,
            cell=self.folder.cell,
            first=gathered.first,
            last=gathered.last,
            events=len(gathered),
            root=merkle.root_of(merkle.leaf_hashes(gathered.rows.entries())).hex(),
            files=[
                FileSum(name=each, bytes=len(content), sha256=sha256(content).hexdigest())
                for each, content in files.items()
            ],
            is_full=is_full,
            versions=dict(self._fold.versions),
            utterances=len(gathered.utterances),
        )
        return segment, files

    def _head(self, segment: Segment) -> Head:
        return Head(
            cell=segment.cell,
            segments=self._tree.size,
            skipped=self.skipped,
            events=self.passed - self.skipped + segment.events,
            last=segment.last,
            root=self._tree.root().hex(),
            records=self._chain.hex(),
            key="",
        ).signed(self._key)
