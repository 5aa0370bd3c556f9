"""Seals entries as a segment of the archive.

Owns: the segments of one cell: the buffered entries, the Merkle tree and the chain up to now, the
files and their record, packing them. The same entries and the same key always give the same files.
Must not: call Redis, or decide where a segment ends (the archiver does).
Read next: archiver.py (the caller), manifest.py, segment.py, packer.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import TypeAlias

from eventsched.archive import merkle
from eventsched.archive.codec import entry_leaves
from eventsched.archive.layout import CellFolder, file_name, file_stem
from eventsched.archive.manifest import FileSum, Record, Segment
from eventsched.archive.packer import next_pack, remove_packed_files, write_pack
from eventsched.archive.segment import (
    RowBuffer,
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
from eventsched.schema.ids import BEFORE_FIRST, START, EntryId, check_id
from eventsched.schema.keys import name_of
from eventsched.store.transport import Entry

Finalized: TypeAlias = tuple[Event, UtteranceFinalized]


class OpenSegment:
    """The buffered entries of the next segment."""

    def __init__(self) -> None:
        self.rows = RowBuffer()
        self.first = self.last = ""
        self.indexes: dict[str, list[int]] = {}
        self.utterances: list[Utterance] = []
        self.audio_bytes = 0
        """Of the utterances that its entries finalize, stored or not."""
        self.audio_to: dict[str, str] = {}
        """Session, by its name in the cell -> last chunk of its last utterance in the segment."""

    def __len__(self) -> int:
        return len(self.rows)


class Sealer:
    """Writes the segments of one cell, from the end of its folder on."""

    def __init__(self, folder: CellFolder, key: SigningKey, projection_set: ProjectionSet) -> None:
        self.folder = folder
        self._key = key
        self._set = projection_set
        self.records = folder.records()
        self.skipped = self.records.skipped
        """Entries that were trimmed from the log before the first segment."""
        self.audio_to: Mapping[str, str] = {}
        """Of the last sealed segment: session -> the last chunk whose audio is sealed."""
        self._tree = self.records.tree_of_packs()
        for record in self.records.single:
            self._tree.add(record.segment)
        self._fold = fold_at(folder, self.records, len(self.records) - 1, projection_set)
        self.open_segment = OpenSegment()
        self._last: EntryId = check_id(self.sealed_to) if self.records else BEFORE_FIRST

    @property
    def sealed_to(self) -> str:
        head = self.records.head
        return head.last if head is not None else START

    @property
    def processed(self) -> int:
        """Entries that the log ever had up to `sealed_to`."""
        head = self.records.head
        return self.skipped + (head.events if head is not None else 0)

    @property
    def last(self) -> str:
        """Id of the last sealed or buffered entry."""
        return self.open_segment.last or self.sealed_to

    def add(
        self, entries: Sequence[Entry], is_full: Callable[[OpenSegment], bool] = lambda _: False
    ) -> list[Finalized]:
        """Buffer entries, in the order of the log; return the utterances that they finalize.

        The entry with which the open segment `is_full` is the last one that is buffered: so the end
        of a segment does not depend on how many entries a call adds.

        Raises ArchiveError if the entries are in another order.
        """
        segment = self.open_segment
        finalized: list[Finalized] = []
        for entry in entries:
            event, row_no = decode_event(entry), len(segment)
            self._last = segment.rows.add([entry], self._last)
            segment.first, segment.last = segment.first or entry[0], entry[0]
            for session in sessions_of(event, self._set):
                segment.indexes.setdefault(session, []).append(row_no)
            if isinstance(event, Event):
                self._fold.add(event)
                if isinstance(event.data, UtteranceFinalized):
                    finalized.append((event, event.data))
                    segment.audio_bytes += event.data.bytes
                    segment.audio_to[name_of(event.session)] = event.data.last
            if is_full(segment):
                break
        return finalized

    def add_audio(self, utterance: Utterance) -> None:
        """Add the chunks of an utterance, whose event `add` has buffered, to the open segment."""
        self.open_segment.utterances.append(utterance)

    def seal(self) -> Record:
        """Write the buffered entries as a segment. It is on disk when this returns."""
        open_segment = self.open_segment
        segment, files = self._encode(open_segment)
        self._tree.add(segment)
        head = self._tree.head_after(segment, skipped=self.skipped)
        record = Record.of(segment, head.signed(self._key))
        for name, content in files.items():
            self.folder.write(name, content)
        self.folder.write_record(record)
        self.records.append(record)
        self.audio_to, self.open_segment = open_segment.audio_to, OpenSegment()
        return record

    def pack(self) -> str:
        """Pack the next segments, if all of them are sealed. Return the name of the pack, or "".

        The pack is on disk when this returns. Raises ArchiveError, OSError; the archive then is as
        before, and sealing can continue.
        """
        records = next_pack(self.records)
        if not records:
            return ""
        remove_packed_files(self.folder)
        name = write_pack(self.folder, self._key, records)
        self.records = self.folder.records()
        return name

    def _encode(self, open_segment: OpenSegment) -> tuple[Segment, dict[str, bytes]]:
        """The segment, and the content of its files by name."""
        n = len(self.records)
        is_full = n % FULL_EVERY == 0 or self.records[-1].versions != self._fold.versions
        snapshot = self._fold.snapshot(last=open_segment.last, is_full=is_full)
        contents = {
            "events": open_segment.rows.parquet(),
            "sessions": sessions_parquet(open_segment.indexes),
            "snapshot": snapshot_parquet(snapshot),
        }
        if open_segment.utterances:
            contents["audio"] = audio_parquet(open_segment.utterances)
        name = file_stem(open_segment.first, open_segment.last)
        files = {file_name(name, kind): content for kind, content in contents.items()}
        segment = Segment(
            n=n,
            cell=self.folder.cell,
            first=open_segment.first,
            last=open_segment.last,
            events=len(open_segment),
            root=merkle.root_of(
                merkle.leaf_hashes(entry_leaves(open_segment.rows.entries()))
            ).hex(),
            files=[
                FileSum(name=each, bytes=len(content), sha256=sha256(content).hexdigest())
                for each, content in files.items()
            ],
            is_full=is_full,
            versions=dict(self._fold.versions),
            utterances=len(open_segment.utterances),
        )
        return segment, files
