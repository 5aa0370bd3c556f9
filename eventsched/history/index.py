"""Reads an index of the log page by page: the ids of the entries of one session or one node.

Owns: the position in the index, which moves if entries are removed from its start.
Must not: decide whether the index lists an entry; lua/save_views.lua writes it.
Read next: log.py.
"""

from __future__ import annotations

from eventsched.projection.store import ProjectionStore
from eventsched.schema.ids import START, EntryId, parse_id

IDS_MAX = 256
"""Ids in one page. Reading them and their entries takes the server less than a millisecond."""


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


def _increasing(page: list[str], after: EntryId) -> list[str]:
    """The ids of the page after `after`; an id that a repeated save has added again is left out."""
    ids = []
    for id_ in page:
        if (parsed := parse_id(id_)) > after:
            ids.append(id_)
            after = parsed
    return ids
