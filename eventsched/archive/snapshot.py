"""Snapshots: the read models of `core` as they are at a segment's last entry.

Owns: folding beside sealing, which records a segment's snapshot has, putting them together again.
Never does: decide what a record says (projections/ does). Read next: sealer.py, ../folding.py.

Every FULL_EVERY-th segment keeps every record; those between keep what they changed. So a fold can
start at any segment's end, from at most FULL_EVERY small files, and anybody can make them again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from eventsched.archive.codec import decode_entry
from eventsched.archive.layout import CellFolder
from eventsched.archive.manifest import Record
from eventsched.archive.segment import Kept, read_entries, read_snapshot
from eventsched.projection.fold import Folding, decode_event
from eventsched.projection.protocol import ProjectionSet, WholeRecordCodec
from eventsched.schema.events import Event

FULL_EVERY = 16
_encode = msgspec.msgpack.Encoder().encode
Records = dict[tuple[str, str], Kept]
"""(projection, entity) -> its record."""


class SnapshotFold:
    """The read models, folded entry by entry."""

    def __init__(self, projection_set: ProjectionSet) -> None:
        count = len(projection_set.projections)
        self.versions = {one.name: one.version for one in projection_set.projections}
        self.folding = Folding(projection_set.projections, [""] * count, complete=True)
        self.at: dict[str, dict[str, str]] = {name: {} for name in self.versions}
        """Projection -> entity -> the last id that changed it, as of the last snapshot."""

    def start_from(self, records: Mapping[tuple[str, str], Kept]) -> None:
        """Go on from a snapshot."""
        parts = {part.projection.name: part for part in self.folding.parts}
        forms = {name: WholeRecordCodec(part.projection.view) for name, part in parts.items()}
        for kept in records.values():
            view = forms[kept.projection].decode({"v": kept.view or b""})
            parts[kept.projection].views[kept.entity] = view
            self.at[kept.projection][kept.entity] = kept.at

    def add(self, event: Event) -> None:
        """An event that a projection cannot fold is passed by, as the projector does in the end."""
        self.folding.fold(event, whole=False)

    def take(self, *, last: str, is_full: bool) -> list[Kept]:
        """The records, or those that changed since the last call; (projection, entity) in order."""
        found: list[Kept] = []
        for part in self.folding.parts:
            name = part.projection.name
            at = self.at[name]
            gone = at.keys() - part.views.keys()
            for entity in gone:
                del at[entity]
            at.update(part.changed)
            entities: Iterable[str] = at if is_full else {**part.changed, **dict.fromkeys(gone)}
            for entity in sorted(entities):
                view = part.views.get(entity)
                kept = _encode(view) if view is not None else None
                found.append(Kept(name, entity, at.get(entity, last), kept))
            part.clear_changes()
        return found


def records_at(folder: CellFolder, records: Sequence[Record], n: int) -> Records:
    """Every record as it was at the end of segment `n`."""
    first = n
    while first > 0 and not records[first].is_full:
        first -= 1
    found: Records = {}
    for record in records[first : n + 1]:
        for kept in read_snapshot(folder.path / record.file("snapshot").name):
            if kept.view is None:
                found.pop((kept.projection, kept.entity), None)
            else:
                found[kept.projection, kept.entity] = kept
    return found


def fold_at(
    folder: CellFolder, records: Sequence[Record], n: int, projection_set: ProjectionSet
) -> SnapshotFold:
    """A fold that has everything up to the end of segment `n` (-1: nothing yet).

    From the snapshot, when the same versions of the projections made it; else from the start.
    """
    fold = SnapshotFold(projection_set)
    if n >= 0 and _is_usable(records, n, fold.versions):
        fold.start_from(records_at(folder, records, n))
        return fold
    for record in records[: n + 1]:
        for data in read_entries(folder.path / record.file("events").name):
            one = decode_event(decode_entry(data))
            if isinstance(one, Event):
                fold.add(one)
    if n >= 0:
        fold.take(last=records[n].last, is_full=True)
    return fold


def _is_usable(records: Sequence[Record], n: int, versions: Mapping[str, int]) -> bool:
    """All that the snapshot is put together from was made by these versions."""
    while records[n].versions == versions:
        if records[n].is_full:
            return True
        n -= 1
    return False
