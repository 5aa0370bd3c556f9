"""Makes and reads snapshots: the read models of `core` after the last entry of a segment.

Owns: folding while sealing, the records that a segment's snapshot has, restoring them.
Must not: define the content of a record (projections/ does).
Read next: sealer.py (the caller), projection/fold.py.

Every FULL_EVERY-th segment has all records; the segments between have the records that they
changed. So a fold can start at the end of any segment, from at most FULL_EVERY small files. The
snapshots can be made again from the entries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from eventsched.archive.codec import decode_entry
from eventsched.archive.layout import CellFolder
from eventsched.archive.manifest import Record
from eventsched.archive.sealed_file import open_sealed
from eventsched.archive.segment import SnapshotRecord, read_entries, read_snapshot
from eventsched.errors import ArchiveError
from eventsched.projection.fold import Folding, decode_event
from eventsched.projection.protocol import ProjectionSet, WholeRecordCodec
from eventsched.schema.events import Event

FULL_EVERY = 16
_encode = msgspec.msgpack.Encoder().encode
Records = dict[tuple[str, str], SnapshotRecord]
"""(projection, entity) -> record."""


class SnapshotFold:
    """The read models, folded entry by entry."""

    def __init__(self, projection_set: ProjectionSet) -> None:
        count = len(projection_set.projections)
        self.versions = {part.name: part.version for part in projection_set.projections}
        self.folding = Folding(projection_set.projections, [""] * count, complete=True)
        self.at: dict[str, dict[str, str]] = {name: {} for name in self.versions}
        """Projection -> entity -> id of the last event that changed it before the last snapshot."""

    def load(self, records: Mapping[tuple[str, str], SnapshotRecord]) -> None:
        """Load the records of a snapshot; `add` then folds the events after it.

        Raises ArchiveError if a record is not one of these projections.
        """
        parts = {part.projection.name: part for part in self.folding.parts}
        codecs = {name: WholeRecordCodec(part.projection.view) for name, part in parts.items()}
        for record in records.values():
            try:
                view = codecs[record.projection].decode({"v": record.view or b""})
            except (KeyError, ValueError, msgspec.MsgspecError, RecursionError) as error:
                what = f"{record.projection!r} {record.entity!r}"
                raise ArchiveError(f"a snapshot has no readable record {what}") from error
            parts[record.projection].views[record.entity] = view
            self.at[record.projection][record.entity] = record.at

    def add(self, event: Event) -> None:
        """Fold an event. A projection that cannot fold it skips it, as the projector does."""
        self.folding.fold(event, atomic=False)

    def snapshot(self, *, last: str, is_full: bool) -> list[SnapshotRecord]:
        """All records, or those that changed since the last call, by projection and entity."""
        records: list[SnapshotRecord] = []
        for part in self.folding.parts:
            name = part.projection.name
            at = self.at[name]
            dropped = at.keys() - part.views.keys()
            for entity in dropped:
                del at[entity]
            at.update(part.changed)
            entities: Iterable[str] = at if is_full else {**part.changed, **dict.fromkeys(dropped)}
            for entity in sorted(entities):
                view = part.views.get(entity)
                encoded = _encode(view) if view is not None else None
                records.append(SnapshotRecord(name, entity, at.get(entity, last), encoded))
            part.clear_changes()
        return records


def records_at(folder: CellFolder, records: Sequence[Record], n: int) -> Records:
    """All records after segment `n`."""
    first = n
    while first > 0 and not records[first].is_full:
        first -= 1
    state: Records = {}
    for segment in records[first : n + 1]:
        with open_sealed(folder, segment, "snapshot") as file:
            snapshot = read_snapshot(file)
        for record in snapshot:
            if record.view is None:
                state.pop((record.projection, record.entity), None)
            else:
                state[record.projection, record.entity] = record
    return state


def fold_at(
    folder: CellFolder, records: Sequence[Record], n: int, projection_set: ProjectionSet
) -> SnapshotFold:
    """The fold after segment `n` (-1: before the first).

    It starts from the snapshot if the same versions of the projections made it; otherwise from the
    first entry.
    """
    fold = SnapshotFold(projection_set)
    if n >= 0 and _is_usable(records, n, fold.versions):
        fold.load(records_at(folder, records, n))
        return fold
    for record in records[: n + 1]:
        with open_sealed(folder, record, "events") as file:
            entries = read_entries(file)
        for data in entries:
            event = decode_event(decode_entry(data))
            if isinstance(event, Event):
                fold.add(event)
    if n >= 0:
        fold.snapshot(last=records[n].last, is_full=True)
    return fold


def _is_usable(records: Sequence[Record], n: int, versions: Mapping[str, int]) -> bool:
    """Whether these versions made all snapshots from the last full one on."""
    while records[n].versions == versions:
        if records[n].is_full:
            return True
        n -= 1
    return False
