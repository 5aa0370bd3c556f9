"""The tenants of sessions: looked up in batches, and remembered.

Owns: which records say the tenant of a session, the bound of remembered sessions.
Must not: decide who may read an event.
Read next: reader.py, gateway/reading.py.

Most events name their session and no tenant. A page of a tenant's events may pass thousands of
sessions of other tenants, so a lookup for each event would cost thousands of round trips.
"""

from __future__ import annotations

from collections.abc import Iterable

from eventsched.projection.fold import FailedEvent, decode_event
from eventsched.projection.store import ProjectionStore
from eventsched.schema.events import Event, SessionOpened
from eventsched.schema.ids import is_id
from eventsched.schema.keys import cell_of, name_of
from eventsched.store.transport import entries_of

REMEMBERED_MAX = 100_000
"""Sessions: some 20 MB."""


class SessionTenants:
    """The tenants of sessions that were looked up. The tenant of a session never changes."""

    def __init__(self) -> None:
        self._tenants: dict[str, str] = {}

    def of_session(self, session: str) -> str | None:
        """Return the tenant of a session by its full id; None if it is not remembered."""
        return self._tenants.get(session)

    def of_event(self, event: Event) -> str | None:
        """Return the tenant of an event, empty for events of nodes and cells.

        None if the tenant of the event's session is not remembered.
        """
        if event.job:
            return event.job.partition(":")[0]
        if not event.session:
            return ""
        if isinstance(event.data, SessionOpened):
            self.remember(event.session, event.data.tenant)
        return self._tenants.get(event.session)

    def remember(self, session: str, tenant: str) -> None:
        """Remember the tenant of a session; the session that was added first is forgotten."""
        self._tenants[session] = tenant
        if len(self._tenants) > REMEMBERED_MAX:
            del self._tenants[next(iter(self._tenants))]

    async def load(self, store: ProjectionStore, events: Iterable[Event | FailedEvent]) -> None:
        """Look up the sessions of these events of one cell that are not remembered."""
        sessions = {
            event.session
            for event in events
            if isinstance(event, Event)
            and self.of_event(event) is None
            and cell_of(event.session) == store.cell
        }
        await self.load_sessions(store, sessions)

    async def load_sessions(self, store: ProjectionStore, sessions: Iterable[str]) -> None:
        """Look up sessions of one cell by their full ids, in at most three rounds of reads.

        A session that neither has its record nor has SessionOpened first in its index is left out.
        """
        unknown = [session for session in sessions if session not in self._tenants]
        key_of = store.keys.session
        replies = await store.read_many(
            [("HGET", key_of(name_of(session)), "tenant") for session in unknown]
        )
        retired = []
        for session, tenant in zip(unknown, replies, strict=True):
            if tenant is None:
                retired.append(session)
            else:
                self.remember(session, tenant.decode(errors="replace"))
        if retired:
            await self._load_from_index(store, retired)

    async def _load_from_index(self, store: ProjectionStore, sessions: list[str]) -> None:
        """Look up sessions by SessionOpened, the first event that a session has in the log."""
        replies = await store.read_many(
            [("LRANGE", store.keys.session_index(name_of(each)), 0, 0) for each in sessions]
        )
        firsts = [reply[0].decode(errors="replace") for reply in replies if reply]
        log = store.keys.log
        entries = await store.read_many([("XRANGE", log, id_, id_) for id_ in firsts if is_id(id_)])
        for reply in entries:
            for entry in entries_of(reply):
                event = decode_event(entry)
                if isinstance(event, Event):
                    self.of_event(event)  # remembers the tenant of SessionOpened
