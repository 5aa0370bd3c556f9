"""What a problem of an archive affects: times, the number of events, sessions.

Owns: finding the sessions of a segment in those of its files that can still be read, and the sizes
of gaps between segments.
Must not: decide what is a problem (verifier.py does), or print (cli/audit_report.py does).
Read next: verifier.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from eventsched.archive.layout import CellFolder
from eventsched.archive.manifest import Record, TreeHead
from eventsched.errors import ArchiveError
from eventsched.schema.keys import name_of

SESSIONS_MAX = 100
"""Sessions that are named; others are only counted."""
IsFaulty = Callable[[Record, str], bool]
"""Whether the file of a record with this kind is known to be another one than was sealed."""


class Affected(msgspec.Struct, frozen=True, kw_only=True):
    """The events that a problem concerns."""

    cell: str
    first: str
    """Id of the first of them; of events that are missing, the id of the last one before them, or
    empty if there is none."""
    last: str
    """Id of the last of them; of events that are missing, the id of the first one after them."""
    is_gap: bool = False
    """Whether the events are missing: they lie between the two ids."""
    events: int | None = None
    """How many; None if it is not known."""
    sessions: list[str] = []
    """Full ids of the first SESSIONS_MAX sessions."""
    sessions_total: int | None = None
    """None if the sessions are not known."""


def of_segment(cell: CellFolder, record: Record, is_faulty: IsFaulty) -> Affected:
    """All events of a segment."""
    sessions = _sessions(cell, record, is_faulty)
    return Affected(
        cell=cell.cell,
        first=record.first,
        last=record.last,
        events=record.events,
        sessions=[f"{cell.cell}.{name}" for name in (sessions or [])[:SESSIONS_MAX]],
        sessions_total=None if sessions is None else len(sessions),
    )


def of_gap(cell: str, before: Record | None, after: Record) -> Affected:
    """The events of the segments that are missing between two others.

    Args:
        cell: The cell.
        before: The segment before the gap; None if the archive begins with the gap.
        after: The segment after it.
    """
    counted = before.head.events if before is not None else 0
    return Affected(
        cell=cell,
        first=before.last if before is not None else "",
        last=after.first,
        is_gap=True,
        events=max(0, after.head.events - after.events - counted),
    )


def of_end(head: TreeHead, last: Record | None) -> Affected:
    """The events between the last segment of an archive and the head of a checkpoint."""
    counted = last.head.events if last is not None else 0
    return Affected(
        cell=head.cell,
        first=last.last if last is not None else "",
        last=head.last,
        is_gap=True,
        events=max(0, head.events - counted),
    )


def _sessions(cell: CellFolder, record: Record, is_faulty: IsFaulty) -> Sequence[str] | None:
    """Names of the sessions of a segment, from its index or its entries; None if both are lost."""
    from eventsched.archive.sealed_file import open_sealed
    from eventsched.archive.segment import session_names, sessions_of_events

    for kind, read in (("sessions", session_names), ("events", sessions_of_events)):
        try:
            if is_faulty(record, kind):
                continue
            with open_sealed(cell, record, kind) as file:
                names = {name_of(name) or name for name in read(file) if name}
        except ArchiveError:
            continue  # the verifier reports the file
        return sorted(names)
    return None
