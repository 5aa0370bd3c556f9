"""New events of one cell, read once for all streams.

Owns: the shared reader, which events a stream shows, the bound of the events that wait to be sent.
Never does: write to a connection. Read next: event_stream.py, history/reader.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import anyio
import msgspec

from eventsched.gateway.cursor import format_cursor
from eventsched.gateway.tenant_view import event_for_tenant
from eventsched.history.event_json import event_json
from eventsched.history.reader import Reader
from eventsched.history.session_tenants import SessionTenants
from eventsched.history.source import HistorySource
from eventsched.logs import get_logger
from eventsched.projection.fold import FailedEvent, decode_event
from eventsched.schema.events import Event
from eventsched.store.retry import Backoff
from eventsched.store.transport import Entry
from eventsched.tokens.claims import ALL_TENANTS, Claims

BLOCK_MS = 2_000
READ_COUNT = 500
WAITING_BYTES_MAX = 1024 * 1024
"""Bytes of events that may wait for a client that reads slowly."""
EVENT_BYTES = 128
"""Memory of an event beside its data."""

log = get_logger("eventsched.gateway")


class Watcher:
    """One stream of events: its position, and the events that wait to be sent.

    Args:
        claims: Whose stream it is.
        positions: Id of the last event that was sent or left out, by cell.
    """

    def __init__(self, claims: Claims, positions: dict[str, str]) -> None:
        self.positions = positions
        self.is_slow = False
        """Too many bytes wait: the stream must end."""
        self.arrived = anyio.Event()
        self._claims = claims
        self._waiting: deque[tuple[str, str, bytes]] = deque()
        """Cell, id and data of each event; without data it is not shown."""
        self._bytes = 0
        self._has_moved = False
        """The position has moved since the last block, by events that are not shown."""

    async def data_of(self, item: FeedItem) -> bytes:
        """Return the data of an event as the stream shows it; empty if it is not shown."""
        if not await item.is_shown_to(self._claims):
            return b""
        is_whole = self._claims.tenant == ALL_TENANTS
        return item.data(texts=self._claims.texts, is_whole=is_whole)

    async def put(self, cell: str, item: FeedItem) -> None:
        """Add an event to those that wait to be sent."""
        if self.is_slow:
            return
        data = await self.data_of(item)
        last = self._waiting[-1] if self._waiting else None
        if not data and last is not None and last[0] == cell and not last[2]:
            self._waiting.pop()
        else:
            self._bytes += len(data) + EVENT_BYTES
        self._waiting.append((cell, item.id, data))
        self.is_slow = self._bytes > WAITING_BYTES_MAX
        if data or self.is_slow:
            self.arrived.set()

    def take(self) -> bytes:
        """Remove all events that wait, and return their blocks."""
        self.arrived = anyio.Event()
        taken = b"".join(self.block_of(*each) for each in self._waiting)
        self._waiting.clear()
        self._bytes = 0
        return taken

    def block_of(self, cell: str, entry_id: str, data: bytes) -> bytes:
        """Move the position after an event, and return its block; empty if it is not shown."""
        self.positions[cell] = entry_id
        self._has_moved = not data
        if not data:
            return b""
        return b"id: %b\ndata: %b\n\n" % (format_cursor(self.positions).encode(), data)

    def position_block(self) -> bytes:
        """Return a block that moves the client's position only; empty if it has not moved."""
        if not self._has_moved:
            return b""
        self._has_moved = False
        return b"id: %b\n\n" % format_cursor(self.positions).encode()


class FeedItem:
    """One event, encoded at most once for all watchers."""

    def __init__(self, event: Event | FailedEvent, reader: Reader) -> None:
        self.id = event.id
        self._event = event
        self._reader = reader
        self._tenant: str | None = None
        self._data: dict[tuple[bool, bool], bytes] = {}

    async def is_shown_to(self, claims: Claims) -> bool:
        """Whether the bearer may see the event."""
        if claims.tenant == ALL_TENANTS:
            return True
        if isinstance(self._event, FailedEvent):
            return False
        if self._tenant is None:
            self._tenant = await self._reader.tenant(self._event)
        return self._tenant == claims.tenant

    def data(self, *, texts: bool, is_whole: bool) -> bytes:
        """Return the event as JSON, with or without texts and the evidence about other tenants."""
        form = texts, is_whole
        if form not in self._data:
            event = event_json(self._event, texts=texts)
            self._data[form] = msgspec.json.encode(event if is_whole else event_for_tenant(event))
        return self._data[form]


class EventFeed:
    """Reads the new events of a cell while it has watchers."""

    def __init__(
        self, cell: str, source: HistorySource, tenants: SessionTenants | None = None
    ) -> None:
        self.cell = cell
        self.reader = Reader(source, tenants=tenants)
        store = source.projection_store(cell)
        assert store is not None
        self._store = store
        self._position = ""
        self._watchers: set[Watcher] = set()
        self._lock = anyio.Lock()
        self._wanted = anyio.Event()
        self.reads = 0
        """How often the log was read."""

    async def join(self, watcher: Watcher) -> str:
        """Give the watcher all events after the returned id."""
        async with self._lock:
            if not self._watchers:
                self._position = await self._store.last_id(self._store.keys.log)
            self._watchers.add(watcher)
            self._wanted.set()
            return self._position

    def leave(self, watcher: Watcher) -> None:
        """Give the watcher nothing more."""
        self._watchers.discard(watcher)

    async def run(self) -> None:
        """Read until cancelled."""
        backoff = Backoff(self._store.transport, log, cell=self.cell)
        while True:
            if not self._watchers:
                self._wanted = anyio.Event()
                await self._wanted.wait()
            async with backoff.attempt():
                await self._store.wait_log(self._position, BLOCK_MS)
                await self._read()

    async def _read(self) -> None:
        async with self._lock:
            self.reads += 1
            entries = await self._store.read_log(self._position, READ_COUNT)
            for item in await self.items_of(entries):
                for watcher in list(self._watchers):
                    await watcher.put(self.cell, item)
                self._position = item.id

    async def items_of(self, entries: Sequence[Entry]) -> list[FeedItem]:
        """Return the events of some entries of the cell, whose tenants are looked up together."""
        events = [decode_event(entry) for entry in entries]
        await self.reader.load_tenants(self.cell, events)
        return [FeedItem(event, self.reader) for event in events]
