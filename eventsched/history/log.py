"""Reads archive and log as one history: every event once, in order, while entries are trimmed.

Owns: the choice between sealed segments and the log, so that no entry is missed or read twice; the
read models at any event. Nothing is read from an archive before it is verified: its key has signed
the records, and each file has the sum of its record.
Must not: write, wait, or decode events for its callers.
Read next: source.py (all cells), index.py, archive/segment.py, archive/snapshot.py.

A read continues after the last entry that was returned. Entries read from the log are valid only if
none after that entry has been trimmed. Nothing is trimmed before it is archived, so after each read
of the log the archive's end is checked. If the log has been trimmed past the position, the entries
are discarded and read from the archive.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from functools import partial

import msgspec

from eventsched.archive import threads
from eventsched.archive.codec import decode_entry
from eventsched.archive.layout import ArchiveFolder, CellFolder
from eventsched.archive.manifest import Record
from eventsched.archive.segments import Segments
from eventsched.archive.signing import fingerprint
from eventsched.errors import ArchiveError
from eventsched.formatting import utc_time
from eventsched.history.index import IndexReader
from eventsched.projection.fold import Folding, decode_event, sessions_of
from eventsched.projection.protocol import ProjectionSet
from eventsched.projection.store import ProjectionStore
from eventsched.schema.events import FIELDS, Event
from eventsched.schema.ids import AFTER_ALL, BEFORE_ALL, START, EntryId, format_id, parse_id
from eventsched.schema.keys import name_of
from eventsched.store.transport import Entry

READ_MAX = 500
"""Entries in one read of the log: less than a millisecond of the server."""
_JOB = 2 * FIELDS.index("j") + 1
_NODE = 2 * FIELDS.index("n") + 1


class EntryFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Selects entries that match all given fields. They are found by an index."""

    session: str = ""
    """Its name in the cell. Matches all entries that its index lists, also of other sessions."""
    job: str = ""
    """Its key."""
    node: str = ""
    """Its full id."""

    @property
    def index(self) -> str:
        """The session whose index lists all matching entries; empty if there is none."""
        return self.session or (name_of(self.job.split(":")[1]) if self.job else "")

    def matches(self, entry: Entry) -> bool:
        """Whether the entry is of the job and the node; the session is not checked."""
        fields = entry[1]
        if not (self.job or self.node):
            return True
        if len(fields) != 2 * len(FIELDS):
            return False
        return (not self.job or fields[_JOB] == self.job.encode()) and (
            not self.node or fields[_NODE] == self.node.encode()
        )


ALL_ENTRIES = EntryFilter()


def _indexed(segments: Segments, numbers: range, where: EntryFilter) -> Sequence[int]:
    """Those of these segments that may have matching entries, by the indexes of packs."""
    return list(segments.with_session(numbers, where.index)) if where.index else numbers


class _LogRead(msgspec.Struct, frozen=True):
    """The result of one read of the log."""

    entries: Sequence[Entry]
    to: EntryId
    """`entries` has all matching entries up to this id."""
    is_last: bool
    """The log has no entry after `to`."""


class History:
    """The events of one cell. Without a server it ends with the archive."""

    def __init__(
        self,
        store: ProjectionStore | None,
        folder: CellFolder | None,
        projection_set: ProjectionSet,
    ) -> None:
        """`projection_set` is the set whose indexes list the events of each session."""
        self._store = store
        self._folder = folder
        self._set = projection_set

    @classmethod
    async def open(
        cls,
        store: ProjectionStore | None,
        archive: ArchiveFolder | None,
        projection_set: ProjectionSet,
        *,
        cell: str = "",
    ) -> History:
        """The history of a cell. Raises ArchiveError if the archive is not that of the cell."""
        if store is not None and archive is not None:
            key = store.keys.archive
            owner = await store.transport.command("HGET", key, "of", key=key)
            if owner is None or owner.decode() != fingerprint(archive.public):
                raise ArchiveError(f"{archive.path} is not the archive of cell {store.cell}")
        cell = store.cell if store is not None else cell
        return cls(store, archive.cell(cell) if archive is not None else None, projection_set)

    async def entries(
        self, after: str = START, upto: str = "", where: EntryFilter = ALL_ENTRIES
    ) -> AsyncIterator[Entry]:
        """Matching entries after `after` and up to `upto`, oldest first.

        Args:
            after: Id before the first entry.
            upto: Id of the last entry; empty for the end of the history.
            where: Which entries.

        Raises ArchiveError if some of them are in an archive that is not available.
        """
        async for batch in self.batches(after, upto, where):
            for entry in batch:
                yield entry

    async def batches(
        self, after: str = START, upto: str = "", where: EntryFilter = ALL_ENTRIES
    ) -> AsyncGenerator[Sequence[Entry]]:
        """The same entries, in lists."""
        at, end = parse_id(after), parse_id(upto) if upto else AFTER_ALL
        index = self._index(where)
        may_be_sealed = True  # the archive is read first
        while at < end:
            if may_be_sealed and self._folder is not None:
                segments = await threads.in_thread(self._folder.signed_records)
                numbers = segments.between(at, end)
                to_read = await threads.in_thread(partial(_indexed, segments, numbers, where))
                for n in to_read:
                    sealed = await threads.in_thread(
                        partial(self._read_segment, segments, n, at, end, where)
                    )
                    at = segments.ids(n)[1]
                    for start in range(0, len(sealed), READ_MAX):
                        yield sealed[start : start + READ_MAX]
                if numbers:
                    at = segments.ids(numbers[-1])[1]
            if at >= end or self._store is None:
                return
            read = await self._read_log(self._store, at, end, where, index)
            may_be_sealed = await self._is_trimmed_after(self._store, at)
            if may_be_sealed:
                continue  # the read may have a gap: the archive has the entries by now
            if read.entries:
                yield read.entries
            if read.is_last:
                return
            at = read.to

    async def folding_at(self, entry_id: str) -> Folding:
        """The read models after this entry, folded from the nearest snapshot before it."""
        start, folding = await self.nearest_folding(entry_id)
        async for entry in self.entries(start, entry_id):
            event = decode_event(entry)
            if isinstance(event, Event):
                folding.fold(event, atomic=False)
        return folding

    async def nearest_folding(self, entry_id: str) -> tuple[str, Folding]:
        """The id and the read models of the last snapshot that is not after this entry.

        Without a snapshot: the start, and no records. `changed` lists every record.
        """
        count = len(self._set.projections)
        if self._folder is not None:
            from eventsched.archive.snapshot import fold_at

            folder, segments = self._folder, await threads.in_thread(self._folder.signed_records)
            n = segments.count_to(parse_id(entry_id)) - 1
            if n >= 0:
                fold = await threads.in_thread(partial(fold_at, folder, segments, n, self._set))
                for part in fold.folding.parts:
                    part.changed.update(fold.at[part.projection.name])
                return format_id(*segments.ids(n)[1]), fold.folding
        return START, Folding(self._set.projections, [""] * count, complete=True)

    async def is_complete(self) -> bool:
        """Whether it begins with the first event that the cell ever had."""
        if self._store is not None and await self._store.is_log_complete():
            return True
        if self._folder is None:
            return False
        segments = await threads.in_thread(self._folder.signed_records)
        return bool(segments) and not segments.skipped

    # --- sealed segments --------------------------------------------------------------------

    def _read_segment(
        self, segments: Segments, n: int, after: EntryId, upto: EntryId, where: EntryFilter
    ) -> list[Entry]:
        record = segments[n]
        try:
            entries = [decode_entry(data) for data in self._stored(record, after, upto, where)]
        except ValueError as error:
            raise ArchiveError(f"segment {record.n} of {record.cell}: {error}") from error
        return [
            entry
            for entry in entries
            if after < parse_id(entry[0]) <= upto and where.matches(entry)
        ]

    def _stored(
        self, record: Record, after: EntryId, upto: EntryId, where: EntryFilter
    ) -> list[bytes]:
        """The stored bytes of the entries of a segment that may match."""
        from eventsched.archive.sealed_file import open_sealed
        from eventsched.archive.segment import entries_at, entries_where, rows_of_session

        assert self._folder is not None
        if where.index:
            with open_sealed(self._folder, record, "sessions") as file:
                rows = rows_of_session(file, where.index, record.events)
            if not rows:
                return []
            with open_sealed(self._folder, record, "events") as file:
                return entries_at(file, rows)
        equal = {"node": where.node} if where.node else {}
        with open_sealed(self._folder, record, "events") as file:
            matching_rows = entries_where(file, ms=(after[0], upto[0]), equal=equal)
        return [data for *_, data in matching_rows]

    # --- the log ----------------------------------------------------------------------------

    def _index(self, where: EntryFilter) -> IndexReader | None:
        """The index that lists all matching entries; None if there is none."""
        if self._store is None or not (where.index or where.node):
            return None
        keys = self._store.keys
        key = (
            keys.session_index(where.index) if where.index else keys.node_index(name_of(where.node))
        )
        return IndexReader(self._store, key, self._set.name)

    async def _read_log(
        self,
        store: ProjectionStore,
        after: EntryId,
        upto: EntryId,
        where: EntryFilter,
        index: IndexReader | None,
    ) -> _LogRead:
        if index is not None:
            indexed = await self._read_index(store, index, after, upto, where)
            if indexed is not None:
                return indexed
        high = format_id(*upto) if upto != AFTER_ALL else "+"
        entries = await store.read_log(format_id(*after), READ_MAX, high)
        if not entries and await self._has_begun(store, after):
            await store.check_log_exists()
        to = parse_id(entries[-1][0]) if entries else after
        is_last = len(entries) < READ_MAX
        if where == ALL_ENTRIES:
            return _LogRead(entries, to, is_last=is_last)
        matching = [
            entry
            for entry in entries
            if where.matches(entry) and self._is_listed(entry, where.index)
        ]
        return _LogRead(matching, to, is_last=is_last)

    async def _has_begun(self, store: ProjectionStore, after: EntryId) -> bool:
        """Whether the log has had entries: a missing log then does not mean an empty one."""
        return after > BEFORE_ALL or await store.checkpoint(self._set.name) != START

    async def _read_index(
        self,
        store: ProjectionStore,
        index: IndexReader,
        after: EntryId,
        upto: EntryId,
        where: EntryFilter,
    ) -> _LogRead | None:
        """The next entries that the index lists after `after`; None if the log must be read."""
        checkpoint, ids = await index.read(after)
        if not ids:
            if checkpoint <= after:
                return None
            return _LogRead([], min(checkpoint, upto), is_last=False)
        to = min(parse_id(ids[-1]), upto)
        if to == upto:
            ids = [id_ for id_ in ids if parse_id(id_) <= upto]
        entries = [entry for entry in await index.entries(ids) if where.matches(entry)]
        return _LogRead(entries, to, is_last=False)

    def _is_listed(self, entry: Entry, session: str) -> bool:
        """Whether the session's index lists the entry; every entry without a session."""
        return not session or session in sessions_of(decode_event(entry), self._set)

    async def _is_trimmed_after(self, store: ProjectionStore, after: EntryId) -> bool:
        """Whether entries after `after` may have been trimmed; the archive then has them.

        Raises ArchiveError if that archive is not available.
        """
        key = store.keys.archive
        archived_to = await store.transport.command("HGET", key, "to", key=key)
        if archived_to is None or parse_id(archived_to.decode()) <= after:
            return False
        first = parse_id(await store.first_id(store.keys.log))
        if (BEFORE_ALL < first <= after) or await store.is_log_complete():
            return False
        if self._folder is None:
            # A read from this time on needs the log alone.
            since = f"the server has those since {utc_time(first[0] + 1)}; " if any(first) else ""
            raise ArchiveError(
                f"the first events of cell {store.cell} are in its archive alone: {since}"
                f"say where the archive is with --archive DIR or EVENTSCHED_ARCHIVE, which commands"
                " take"
            )
        segments = await threads.in_thread(self._folder.signed_records)
        if segments.between(after, AFTER_ALL):
            return True
        raise ArchiveError(
            f"{self._folder.path} ends at {format_id(*after)}, "
            f"the cell's archive at {archived_to.decode()}: it is an old copy"
        )
