"""Checks that the other content of a segment follows from its entries, which the roots cover.

Owns: the columns that SQL reads, the index by session, and the audio of the utterances.
Must not: check the entries, or the snapshot (verifier.py does).
Read next: segment.py (the files), sealer.py (writes them), verifier.py (the caller).

The maker of an archive can sign any file. So a reader of columns, of an index or of audio reads the
history that the roots prove only after this check. That audio is absent cannot be detected: an
archiver without the option for audio does not store it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from eventsched.archive.codec import decode_entry
from eventsched.archive.layout import CellFolder
from eventsched.archive.manifest import Record
from eventsched.archive.sealed_file import open_sealed
from eventsched.archive.segment import (
    RowBuffer,
    Utterance,
    differing_column,
    read_utterances,
    session_columns,
)
from eventsched.projection.fold import decode_event, sessions_of
from eventsched.projection.protocol import ProjectionSet
from eventsched.schema.events import Event, UtteranceFinalized
from eventsched.schema.ids import BEFORE_FIRST, parse_id
from eventsched.store.replies import fields_of

_SESSION, _PAYLOAD = b"s", b"b"
"""Fields of a chunk, as of every event."""


class DerivedContent:
    """The content of a segment that follows from its entries, computed as the sealer does.

    Args:
        entries: The stored bytes of the entries. Raises ArchiveError or ValueError unless each is
            an entry and their ids increase.
        projection_set: The set whose sessions the index lists.
    """

    def __init__(self, entries: Sequence[bytes], projection_set: ProjectionSet) -> None:
        self._rows = RowBuffer()
        self._indexes: dict[str, list[int]] = {}
        self._finalized: dict[str, tuple[str, UtteranceFinalized]] = {}
        decoded = [decode_entry(data) for data in entries]
        self._rows.add(decoded, BEFORE_FIRST)
        for row, entry in enumerate(decoded):
            event = decode_event(entry)
            for session in sessions_of(event, projection_set):
                self._indexes.setdefault(session, []).append(row)
            if isinstance(event, Event) and isinstance(event.data, UtteranceFinalized):
                self._finalized[event.id] = event.session, event.data

    def faults(
        self, folder: CellFolder, record: Record, kinds: Sequence[str]
    ) -> Iterator[tuple[str, str]]:
        """(file name, fault) of each file that has other content. Raises ArchiveError.

        Args:
            folder: Of the segment.
            record: The segment.
            kinds: The kinds of its files that can be read.
        """
        expected = {
            "events": self._rows.columns(),
            "sessions": session_columns(self._indexes),
        }
        for kind, columns in expected.items():
            if kind in kinds:
                with open_sealed(folder, record, kind) as file:
                    name = differing_column(file, kind, columns)
                if name:
                    what = f"its column {name} does not follow from the entries"
                    yield record.file(kind).name, what
        if "audio" in kinds:
            with open_sealed(folder, record, "audio") as file:
                utterances = read_utterances(file)
            for what in self._audio_faults(record, utterances):
                yield record.file("audio").name, what

    def _audio_faults(self, record: Record, utterances: Sequence[Utterance]) -> Iterator[str]:
        ids = [utterance.entry_id for utterance in utterances]
        present = set(ids)
        order = [entry_id for entry_id in self._finalized if entry_id in present]
        if ids != order or len(ids) != record.utterances:
            yield "its utterances are not those that the entries finalize"
            return
        for utterance in utterances:
            session, data = self._finalized[utterance.entry_id]
            named = utterance.session, utterance.utterance
            if named != (session, data.utterance) or not _is_audio_of(data, session, utterance):
                yield f"the audio of {utterance.entry_id} does not follow from the entry"


def _is_audio_of(data: UtteranceFinalized, session: str, utterance: Utterance) -> bool:
    """Whether the chunks have the session, the ids, the number and the bytes of the event."""
    try:
        chunks = [decode_entry(chunk) for chunk in utterance.chunks]
        ids = [parse_id(chunk_id) for chunk_id, _ in chunks]
        ends = parse_id(data.first), parse_id(data.last)
        values = [fields_of(fields) for _, fields in chunks]
    except ValueError:
        return False
    return (
        len(chunks) == data.count > 0
        and (ids[0], ids[-1]) == ends
        and all(before < after for before, after in pairwise(ids))
        and all(each.get(_SESSION) == session.encode() for each in values)
        and sum(len(each.get(_PAYLOAD, b"")) for each in values) == data.bytes
    )
