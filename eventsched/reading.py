"""Reading what happened and what is: a session's history, the state of anything.

Owns: a session's trail (its index up to the checkpoint, the log's tail after it), records of the
live views, and folding a trail where no record is kept any more.
Never does: write, wait. Read next: overview.py (the cell as a whole), projection.py.

One Reader serves one connection; it reads what roles wrote and changes nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import msgspec

from eventsched import keys
from eventsched.connection import Connection
from eventsched.errors import InvalidMessage, NotFound
from eventsched.events import Event
from eventsched.folding import Folded, Unfolded, decoded, in_order, trails_of
from eventsched.projection import Projection, ProjectionSet, load_sets
from eventsched.store import Store
from eventsched.transport import Entry, entries_of
from eventsched.views import Views

IDS_MAX = 500
"""Entries fetched by id in one call."""
TAIL_MAX = 1_000
"""Entries of the log's tail read in one call."""
SWITCHES_MAX = 3
"""How often a record is looked for when a rebuild switches builds meanwhile."""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What one record says, and as of when."""

    kind: str
    id: str
    cell: str
    at: str
    """Last log id that changed it."""
    is_live: bool
    """Read from the live view; else folded from the trail, up to its retirement."""
    view: Any
    """The projection's record."""


class Reader:
    """Reads through one connection."""

    def __init__(self, connection: Connection, sets: Sequence[ProjectionSet] | None = None) -> None:
        self._connection = connection
        self._sets = load_sets() if sets is None else sets
        self._trailing = next((one for one in self._sets if one.sessions is not None), None)

    @property
    def projections(self) -> Mapping[str, Projection]:
        """Every read model that is installed, by name."""
        return {one.name: one for each in self._sets for one in each.projections}

    # --- what happened ----------------------------------------------------------------------

    async def history(self, session: str) -> AsyncIterator[Event | Unfolded]:
        """Every event of a session, oldest first; an entry that is none comes as `Unfolded`.

        Raises NotFound when there is no such session, or nothing of it is kept.
        """
        full = keys.complete(session, self._connection.cells)
        store = self._connection.store_of(full)
        count = 0
        async for entry in self._trail(store, keys.name_of(full)):
            count += 1
            yield decoded(entry)
        if not count:
            raise NotFound(f"no session {session}")

    async def _trail(self, store: Store, session: str) -> AsyncIterator[Entry]:
        """Its index, then what of the log's tail belongs to it and is not in the index.

        The checkpoint is read first: what is folded meanwhile is in the index as well, and the
        tail is read from where the index was known to end.
        """
        views = Views(store.transport, store.cell)
        checkpoint = await views.checkpoint(self._trailing.name) if self._trailing else "0-0"
        ids = await self._index(store, session)
        last = in_order(checkpoint)
        for first in range(0, len(ids), IDS_MAX):
            for entry in await _entries(store, ids[first : first + IDS_MAX]):
                last = max(last, in_order(entry[0]))
                yield entry
        after = checkpoint
        while entries := await views.read_log(after, TAIL_MAX):
            after = entries[-1][0]
            for entry in entries:
                if in_order(entry[0]) > last and self._belongs(entry, session):
                    yield entry
            if len(entries) < TAIL_MAX:
                return

    async def _index(self, store: Store, session: str) -> list[str]:
        key = store.keys.idx(session)
        kept = await store.transport.command("LRANGE", key, 0, -1, key=key)
        return [one.decode() for one in kept]

    def _belongs(self, entry: Entry, session: str) -> bool:
        if self._trailing is None:
            return False
        return session in trails_of(decoded(entry), self._trailing)

    # --- what is ----------------------------------------------------------------------------

    async def state(self, kind: str, entity: str) -> State:
        """The record of `entity` in the read model `kind`.

        A session, group or job of a session that is retired, or not folded yet, is folded from
        the session's trail. Raises NotFound, InvalidMessage for a read model that is not there.
        """
        projection = self.projections.get(kind)
        if projection is None:
            raise InvalidMessage.of(
                "kind", f"no read model {kind!r}", f"choose of {', '.join(self.projections)}"
            )
        store, record, session = self._place(kind, entity)
        found = await self._live(store, projection, record)
        is_live = found is not None
        if found is None and session:
            found = await self._folded(store, projection, record, session)
        if found is None:
            raise NotFound(f"no {kind} {entity}")
        view, at = found
        return State(
            kind=kind, id=entity, cell=store.cell, at=at, is_live=is_live, view=view
        )

    def _place(self, kind: str, entity: str) -> tuple[Store, str, str]:
        """The store that has the record, the record's id in it, and the session it is part of."""
        if kind == "job":
            parts = entity.split(":")
            if len(parts) != 6:
                raise NotFound(f"no job {entity}")
            return self._connection.store_of(parts[1]), entity, keys.name_of(parts[1])
        full = keys.complete(entity, self._connection.cells)
        name = keys.name_of(full)
        is_of_session = kind in ("session", "group")
        return self._connection.store_of(full), name, name if is_of_session else ""

    async def _live(
        self, store: Store, projection: Projection, record: str
    ) -> tuple[Any, str] | None:
        """The stored record. A rebuild may switch between the two reads: then look again."""
        views = Views(store.transport, store.cell)
        build = await views.live(projection.name)
        for _ in range(SWITCHES_MAX):
            if build is None:
                return None
            key = store.keys.view(projection.name, build, record)
            stored, at = await store.transport.command("HMGET", key, "v", "at", key=key)
            if stored is not None:
                return msgspec.msgpack.decode(stored, type=projection.view), at.decode()
            before, build = build, await views.live(projection.name)
            if build == before:
                return None
        return None

    async def _folded(
        self, store: Store, projection: Projection, record: str, session: str
    ) -> tuple[Any, str] | None:
        """The record as the session's events make it; what it was before it was dropped."""
        folded = Folded(projection, "", complete=True)
        found: tuple[Any, str] | None = None
        async for entry in self._trail(store, session):
            event = decoded(entry)
            if isinstance(event, Unfolded) or event.type not in projection.handles:
                continue
            folded.commit(event.id, folded.stage(event))
            view = folded.views.get(record)
            if view is None and found is not None:
                return found
            if view is not None:
                found = view, event.id
        return found


async def _entries(store: Store, ids: Sequence[str]) -> list[Entry]:
    reply = await store.transport.run("read_entries", [store.keys.log], ["", *ids])
    return entries_of(reply)
