"""Archive and log as one history: every event once, in order, whatever is trimmed meanwhile.

Owns: where the next events are read from (sealed segments, then the log), and that nothing is
missed between the two; the read models as they were at any event.
Never does: write, wait, decode. Read next: archive/snapshot.py, archive/segment.py, ../reading.py.

Reading goes on behind the last event that was given out. What comes from the log counts only if
nothing behind that event can have gone: nothing is trimmed that the archive does not hold, so it is
asked, after the log was read, how far that is. If the log's beginning has moved past the place,
what was read is dropped and taken from the archive instead.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import partial

import msgspec

from eventsched.archive import threads
from eventsched.archive.codec import decode_entry
from eventsched.archive.layout import ArchiveFolder, CellFolder
from eventsched.archive.manifest import Record
from eventsched.archive.signing import fingerprint
from eventsched.errors import ArchiveError
from eventsched.projection.fold import Folding, decode_event, sessions_of
from eventsched.projection.protocol import ProjectionSet
from eventsched.projection.store import ProjectionStore
from eventsched.schema.events import FIELDS, Event
from eventsched.schema.ids import AFTER_ALL, BEFORE_ALL, START, EntryId, format_id, parse_id
from eventsched.schema.keys import name_of
from eventsched.store.transport import Entry, entries_of

READ_MAX = 1_000
IDS_MAX = 500
"""Entries fetched by id in one call."""
_JOB = 2 * FIELDS.index("j") + 1
_NODE = 2 * FIELDS.index("n") + 1


class Of(msgspec.Struct, frozen=True, kw_only=True):
    """Whose events: those that fit all that is given. Sessions and jobs are found by indexes."""

    session: str = ""
    """Its name in the cell; events of others that its index names belong to it."""
    job: str = ""
    """Its key."""
    node: str = ""
    """Its full id."""

    @property
    def index(self) -> str:
        """The session in whose index they all are; empty when there is none."""
        return self.session or (name_of(self.job.split(":")[1]) if self.job else "")

    def fits(self, entry: Entry) -> bool:
        """Whether it is of this job and node; the index has seen to the session."""
        fields = entry[1]
        if not (self.job or self.node):
            return True
        if len(fields) != 2 * len(FIELDS):
            return False
        return (not self.job or fields[_JOB] == self.job.encode()) and (
            not self.node or fields[_NODE] == self.node.encode()
        )


EVERYTHING = Of()


class _Read(msgspec.Struct, frozen=True):
    """What one look at the log gave."""

    entries: Sequence[Entry]
    to: EntryId
    """All up to here that was asked for is in `entries`."""
    is_last: bool
    """There was no more."""


class History:
    """One cell's events. Without a server: as far as the archive goes."""

    def __init__(
        self,
        views: ProjectionStore | None,
        folder: CellFolder | None,
        projection_set: ProjectionSet,
    ) -> None:
        """`projection_set` is the one whose indexes say which events belong to a session."""
        self._views = views
        self._folder = folder
        self._set = projection_set

    @classmethod
    async def open(
        cls,
        views: ProjectionStore | None,
        archive: ArchiveFolder | None,
        projection_set: ProjectionSet,
        *,
        cell: str = "",
    ) -> History:
        """The history of a cell. Raises ArchiveError when the archive is not that cell's."""
        if views is not None and archive is not None:
            key = views.keys.archive
            of = await views.transport.command("HGET", key, "of", key=key)
            if of is None or of.decode() != fingerprint(archive.public):
                raise ArchiveError(f"{archive.path} is not the archive of cell {views.cell}")
        cell = views.cell if views is not None else cell
        return cls(views, archive.cell(cell) if archive is not None else None, projection_set)

    async def entries(
        self, after: str = START, upto: str = "", of: Of = EVERYTHING
    ) -> AsyncIterator[Entry]:
        """Entries behind `after` and not behind `upto`, oldest first; to the end without one.

        Raises ArchiveError when some of them are in an archive that is not at hand.
        """
        async for batch in self.batches(after, upto, of):
            for entry in batch:
                yield entry

    async def batches(
        self, after: str = START, upto: str = "", of: Of = EVERYTHING
    ) -> AsyncIterator[Sequence[Entry]]:
        """The same, in lists."""
        at, end = parse_id(after), parse_id(upto) if upto else AFTER_ALL
        is_sealed = True  # as far as is known: the archive is asked first
        while at < end:
            for record in await self._sealed(at, end) if is_sealed else ():
                sealed = await threads.in_thread(partial(self._read_segment, record, at, end, of))
                at = parse_id(record.last)
                for some in range(0, len(sealed), READ_MAX):
                    yield sealed[some : some + READ_MAX]
            if at >= end or self._views is None:
                return
            read = await self._read_log(self._views, at, end, of)
            is_sealed = await self._has_lost(self._views, at)
            if is_sealed:
                continue  # what was read may have a gap: the archive has it by now
            if read.entries:
                yield read.entries
            if read.is_last:
                return
            at = read.to

    async def folding_at(self, entry_id: str) -> Folding:
        """The read models with everything up to this id folded, from the nearest snapshot on."""
        start, folding = await self.nearest_folding(entry_id)
        async for entry in self.entries(start, entry_id):
            event = decode_event(entry)
            if isinstance(event, Event):
                folding.fold(event, whole=False)
        return folding

    async def nearest_folding(self, entry_id: str) -> tuple[str, Folding]:
        """The read models at the last snapshot that is not behind this id, and where that is.

        Without one they are empty, at the start. `changed` names every record.
        """
        count = len(self._set.projections)
        if self._folder is not None:
            from eventsched.archive.snapshot import fold_at

            folder, records = self._folder, await threads.in_thread(self._folder.records)
            n = sum(parse_id(one.last) <= parse_id(entry_id) for one in records) - 1
            if n >= 0:
                fold = await threads.in_thread(partial(fold_at, folder, records, n, self._set))
                for part in fold.folding.parts:
                    part.changed.update(fold.at[part.projection.name])
                return records[n].last, fold.folding
        return START, Folding(self._set.projections, [""] * count, complete=True)

    async def is_whole(self) -> bool:
        """Whether it begins with the first event that the cell has had."""
        if self._views is not None and await self._views.is_log_complete():
            return True
        records = await threads.in_thread(self._folder.records) if self._folder is not None else []
        return bool(records) and not records[0].head.skipped

    # --- sealed segments --------------------------------------------------------------------

    async def _sealed(self, at: EntryId, end: EntryId) -> list[Record]:
        """The segments that hold something in between, as of now."""
        if self._folder is None:
            return []
        records = await threads.in_thread(self._folder.records)
        return [one for one in records if at < parse_id(one.last) and parse_id(one.first) <= end]

    def _read_segment(self, record: Record, at: EntryId, end: EntryId, of: Of) -> list[Entry]:
        from eventsched.archive.segment import entries_at, entries_where, rows_of_session

        assert self._folder is not None
        path = self._folder.path
        events = path / record.file("events").name
        if of.index:
            rows = rows_of_session(path / record.file("sessions").name, of.index)
            found = entries_at(events, rows) if rows else []
        else:
            equal = {"node": of.node} if of.node else {}
            found = [data for *_, data in entries_where(events, ms=(at[0], end[0]), equal=equal)]
        entries = [decode_entry(data) for data in found]
        return [one for one in entries if at < parse_id(one[0]) <= end and of.fits(one)]

    # --- the log ----------------------------------------------------------------------------

    async def _read_log(self, views: ProjectionStore, at: EntryId, end: EntryId, of: Of) -> _Read:
        if of.index:
            indexed = await self._read_index(views, at, end, of)
            if indexed is not None:
                return indexed
        upto = format_id(*end) if end != AFTER_ALL else "+"
        entries = await views.read_log(format_id(*at), READ_MAX, upto)
        to = parse_id(entries[-1][0]) if entries else at
        is_last = len(entries) < READ_MAX
        if of == EVERYTHING:
            return _Read(entries, to, is_last=is_last)
        fitting = [one for one in entries if of.fits(one) and self._belongs(one, of.index)]
        return _Read(fitting, to, is_last=is_last)

    async def _read_index(
        self, views: ProjectionStore, at: EntryId, end: EntryId, of: Of
    ) -> _Read | None:
        """What the session's index names behind `at`; none when the log is to be read from there.

        The checkpoint is read first: all up to it is in the index, and more may be.
        """
        checkpoint = parse_id(await views.checkpoint(self._set.name))
        key = views.keys.session_index(of.index)
        kept = await views.transport.command("LRANGE", key, 0, -1, key=key)
        ids = [one for one in map(bytes.decode, kept) if at < parse_id(one) <= end]
        if not ids:
            if checkpoint <= at:
                return None
            return _Read([], min(checkpoint, end), is_last=False)
        some = ids[:IDS_MAX]
        reply = await views.run("read_entries", *some)
        fitting = [one for one in entries_of(reply) if of.fits(one)]
        return _Read(fitting, parse_id(some[-1]), is_last=False)

    def _belongs(self, entry: Entry, session: str) -> bool:
        return not session or session in sessions_of(decode_event(entry), self._set)

    async def _has_lost(self, views: ProjectionStore, at: EntryId) -> bool:
        """Whether the log may have lost entries behind `at`, which the archive then has.

        Raises ArchiveError when that archive is not at hand.
        """
        key = views.keys.archive
        kept = await views.transport.command("HGET", key, "to", key=key)
        if kept is None or parse_id(kept.decode()) <= at:
            return False
        first = parse_id(await views.first_id(views.keys.log))
        if (BEFORE_ALL < first <= at) or await views.is_log_complete():
            return False
        if await self._sealed(at, AFTER_ALL):
            return True
        if self._folder is None:
            raise ArchiveError(
                f"the log of cell {views.cell} begins in its archive: "
                f"say where that is with --archive DIR or EVENTSCHED_ARCHIVE"
            )
        raise ArchiveError(
            f"{self._folder.path} ends at {format_id(*at)}, the cell's archive at {kept.decode()}: "
            f"it is an old copy"
        )
