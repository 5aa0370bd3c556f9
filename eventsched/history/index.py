"""Reads an index of the log page by page: the entries of one session or one node.

Owns: the position in the index, which moves if entries are removed from its start; whether the
entries of a page are read one by one or as a range of the log.
Must not: decide whether the index lists an entry; lua/save_views.lua writes it.
Read next: log.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from eventsched.projection.store import ProjectionStore
from eventsched.schema.ids import START, EntryId, parse_id
from eventsched.store.transport import Entry

IDS_MAX = 256
"""Ids in one page. Reading them and their entries takes the server less than a millisecond."""
RANGE_MAX = 2 * (IDS_MAX + 1)
"""Entries in one read of a range of the log."""


class IndexReader:
    """Reads one index from its start to its end."""

    def __init__(self, store: ProjectionStore, key: str, projection_set: str) -> None:
        """`projection_set` is the set that writes the index."""
        self._store = store
        self._key = key
        self._checkpoint_key = store.keys.checkpoint(projection_set)
        self._position = 0
        self._last = ""
        """The id before `_position`; empty at the start of the index."""
        self._is_dense = True
        """Whether, as far as the index has been read, it lists about half of the log or more."""

    async def read(self, after: EntryId) -> tuple[EntryId, list[str]]:
        """The next ids after `after`, and the checkpoint of the set.

        Without ids the index lists no entry after `after` and up to the checkpoint. If `after`
        precedes an id that was returned, the index is read from its start again.
        """
        if self._last and after < parse_id(self._last):
            self._restart()
        while True:
            checkpoint, page = await self._read_page()
            if page is None:
                self._restart()
                continue
            ids = _increasing(page, after)
            if ids or not page:
                return checkpoint, ids

    async def entries(self, ids: Sequence[str]) -> list[Entry]:
        """The log entries with these ids that still exist, in the order of the ids.

        The log is read as a range while the index lists most of its entries, as the index of a
        session without others does. An entry of a range costs a seventh of an entry that is read by
        its id.
        """
        if not (self._is_dense and ids):
            return await self._store.read_entries(ids)
        log = self._store.keys.log
        in_range = await self._store.read_range(log, ids[0], ids[-1], RANGE_MAX)
        listed = set(ids)
        entries = [entry for entry in in_range if entry[0] in listed]
        if len(in_range) < RANGE_MAX:
            return entries
        left = _increasing(ids, parse_id(in_range[-1][0]))
        self._is_dense = not left
        return entries + await self._store.read_entries(left)

    def _restart(self) -> None:
        self._position, self._last = 0, ""

    async def _read_page(self) -> tuple[EntryId, list[str] | None]:
        """The checkpoint, and the ids at the position; None if the position is no longer valid.

        The checkpoint is read first: the index lists all entries up to it, and perhaps more.
        """
        first = max(self._position - 1, 0)
        checkpoint, reply = await self._store.read_many(
            [
                ("GET", self._checkpoint_key),
                ("LRANGE", self._key, first, first + IDS_MAX),
            ]
        )
        ids = [id_.decode() for id_ in reply]
        if self._last:
            if ids[:1] != [self._last]:
                return parse_id(START), None
            ids = ids[1:]
        if ids:
            self._position, self._last = self._position + len(ids), ids[-1]
        return parse_id(checkpoint.decode() if checkpoint else START), ids


def _increasing(page: Sequence[str], after: EntryId) -> list[str]:
    """The ids of the page after `after`; an id that a repeated save has added again is left out."""
    ids = []
    for id_ in page:
        if (parsed := parse_id(id_)) > after:
            ids.append(id_)
            after = parsed
    return ids
