"""New events of one cell, read once for all streams.

Owns: the shared reader, which views show an event, how much of the event loop one turn takes.
Never does: write to a connection. Read next: event_view.py, event_stream.py, history/reader.py.

All tenants share the event loop, so nothing here is done for many events or many streams in one
piece. After it has woken streams, the reader rests for a time in proportion to their number: events
that arrive meanwhile are sent together, and sending takes a bounded part of the loop, however many
events and streams there are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import anyio
import msgspec
from anyio.lowlevel import checkpoint

from eventsched.gateway.event_view import EventView
from eventsched.gateway.tenant_view import event_for_tenant
from eventsched.history.event_json import event_json
from eventsched.history.reader import Reader
from eventsched.history.session_tenants import SessionTenants
from eventsched.history.source import HistorySource
from eventsched.logs import get_logger
from eventsched.projection.fold import FailedEvent, decode_event
from eventsched.schema.events import Event
from eventsched.schema.ids import parse_id
from eventsched.store.retry import Backoff
from eventsched.store.transport import Entry
from eventsched.tokens.claims import ALL_TENANTS, Claims

BLOCK_MS = 2_000
READ_COUNT = 500
DECODED_AT_ONCE = 50
PUTS_AT_ONCE = 50
"""Events that are added to views before other work has a turn."""
WOKEN_AT_ONCE = 16
"""Streams that are woken before other work has a turn."""
REACH_S = 5.0
"""How long a stream waits for the reader to reach its position; a position may be invented."""
REST_S = 0.0005
"""Rest of the reader for each stream that it has woken; a stream takes a fifth of it to send."""

log = get_logger("eventsched.gateway")


class FeedItem:
    """One event, encoded at most once for all views."""

    def __init__(self, event: Event | FailedEvent, reader: Reader) -> None:
        self.id = event.id
        self._event = event
        self._reader = reader
        self._tenant: str | None = None
        self._data: dict[tuple[bool, bool], bytes] = {}

    async def tenant(self) -> str:
        """Return the tenant of the event; empty if it has none, or cannot be decoded."""
        if self._tenant is None:
            event = self._event
            self._tenant = await self._reader.tenant(event) if isinstance(event, Event) else ""
        return self._tenant

    async def data_for(self, claims: Claims) -> bytes:
        """Return the event as the bearer sees it; empty if it is not shown."""
        is_whole = claims.tenant == ALL_TENANTS
        if not is_whole and await self.tenant() != claims.tenant:
            return b""
        return self.data(texts=claims.texts, is_whole=is_whole)

    def data(self, *, texts: bool, is_whole: bool) -> bytes:
        """Return the event as JSON, with or without texts and the evidence about other tenants."""
        form = texts, is_whole
        if form not in self._data:
            event = event_json(self._event, texts=texts)
            self._data[form] = msgspec.json.encode(event if is_whole else event_for_tenant(event))
        return self._data[form]


class EventFeed:
    """Reads the new events of a cell while it has views."""

    def __init__(
        self, cell: str, source: HistorySource, tenants: SessionTenants | None = None
    ) -> None:
        self.cell = cell
        self.reader = Reader(source, tenants=tenants)
        store = source.projection_store(cell)
        assert store is not None
        self._store = store
        self._position = ""
        self._views: dict[str, set[EventView]] = {}
        """Tenant -> its views."""
        self._lock = anyio.Lock()
        self._wanted = anyio.Event()
        self._has_read = anyio.Event()
        self.reads = 0
        """How often the log was read."""

    async def reach(self, position: str) -> None:
        """Wait until the reader has read up to a position; a view that joins then is not before it.

        A client may have the position of another gateway, which has read on.
        """
        with anyio.move_on_after(REACH_S):
            while self._views and parse_id(self._position) < parse_id(position):
                await self._has_read.wait()

    async def join(self, view: EventView) -> None:
        """Give the view all events after the position that this sets."""
        async with self._lock:
            if not self._views:
                self._position = await self._store.last_id(self._store.keys.log)
            self._views.setdefault(view.key.tenant, set()).add(view)
            view.positions[self.cell] = self._position
            self._wanted.set()

    def leave(self, view: EventView) -> None:
        """Give the view nothing more."""
        views = self._views.get(view.key.tenant, set())
        views.discard(view)
        if not views:
            self._views.pop(view.key.tenant, None)
        self._has_read.set()  # without views, a further one begins at the end of the log
        self._has_read = anyio.Event()

    async def run(self) -> None:
        """Read until cancelled."""
        backoff = Backoff(self._store.transport, log, cell=self.cell)
        while True:
            if not self._views:
                self._wanted = anyio.Event()
                await self._wanted.wait()
            async with backoff.attempt():
                await self._store.wait_log(self._position, BLOCK_MS)
                await self._wake(await self._read())

    async def _read(self) -> set[EventView]:
        """Add new events to the views that show them; return the views with something to send."""
        shown: set[EventView] = set()
        puts = 0
        async with self._lock:
            self.reads += 1
            entries = await self._store.read_log(self._position, READ_COUNT)
            for item in await self.items_of(entries):
                for view in self._views_of(await item.tenant()):
                    view.put(self.cell, item)
                    shown.add(view)
                    puts += 1
                    if puts % PUTS_AT_ONCE == 0:
                        await checkpoint()
                self._position = item.id
            for view in [view for views in self._views.values() for view in views]:
                view.move(self.cell, self._position)
                view.delete_sent()
                if view.has_due_position(anyio.current_time()):
                    shown.add(view)
            self._has_read.set()
            self._has_read = anyio.Event()
        return shown

    def _views_of(self, tenant: str) -> list[EventView]:
        """Return the views that show the events of a tenant."""
        return [*self._views.get(tenant, ()), *self._views.get(ALL_TENANTS, ())]

    async def _wake(self, views: set[EventView]) -> None:
        """Let the streams of these views send, a few in each turn, and rest."""
        readers = [reader for view in views for reader in view.readers]
        for number, reader in enumerate(readers, 1):
            reader.arrived.set()
            if number % WOKEN_AT_ONCE == 0:
                await checkpoint()
        if readers:
            await anyio.sleep(REST_S * len(readers))

    async def items_of(self, entries: Sequence[Entry]) -> list[FeedItem]:
        """Return the events of some entries of the cell, whose tenants are looked up together."""
        events = [event async for event in _decoded(entries)]
        await self.reader.load_tenants(self.cell, events)
        return [FeedItem(event, self.reader) for event in events]


async def _decoded(entries: Sequence[Entry]) -> AsyncIterator[Event | FailedEvent]:
    """Yield the events of entries; other work has a turn after some."""
    for number, entry in enumerate(entries, 1):
        yield decode_event(entry)
        if number % DECODED_AT_ONCE == 0:
            await checkpoint()
