"""Reads events, states and the status of the system for applications.

Owns: the methods of `Client` that read.
Must not: write, but for the position of a consumer group; fold events (history/reader.py does).
Read next: history/reader.py, history/status.py, log_reading.py.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from functools import cached_property
from typing import TYPE_CHECKING

from eventsched.encryption.decrypt import EventDecryptor
from eventsched.encryption.keystore import KeyStore
from eventsched.errors import InvalidMessage
from eventsched.schema.ids import START, parse_id
from eventsched.schema.validation import check_between, check_name
from eventsched.store.cell import Store
from eventsched.store.connection import Connection
from eventsched.store.retry import Backoff

if TYPE_CHECKING:  # a producer and a node need none of these
    from pathlib import Path

    from eventsched.archive.layout import ArchiveFolder
    from eventsched.client.log_reading import CellConsumer, CellFollower
    from eventsched.history.reader import Reader, State
    from eventsched.history.source import HistorySource
    from eventsched.history.status import SystemStatus
    from eventsched.projection.fold import FailedEvent
    from eventsched.projection.protocol import ProjectionSet
    from eventsched.schema.events import Event

CLAIM_MS, CLAIM_MS_MIN, CLAIM_MS_MAX = 60_000, 1_000, 86_400_000
"""Time after which an event that is not acknowledged goes to another process."""
READER_EVENTS_MAX = 100
"""Events of one reader, which caches the keys of sessions and those that it has not found."""
POLL_S = 0.05
"""How often `wait_for` reads the checkpoint; a projector saves some 20 times a second at most."""


class ReadingClient:
    """The part of a client that reads. Every position is an entry's id or an ISO 8601 time."""

    def __init__(
        self,
        stores: Mapping[str, Store],
        *,
        keys: KeyStore | None = None,
        archive: Path | None = None,
        connection: Connection | None = None,
    ) -> None:
        self.stores = stores
        self.keys = keys
        """The keys of encrypted sessions; without a key store they cannot be opened or read."""
        self._archive_path = archive
        self._connection = connection

    @property
    def cells(self) -> list[str]:
        """Names of the cells of the server."""
        return list(self.stores)

    async def state(self, kind: str, id: str, *, at: str = "") -> State:  # noqa: A002
        """Return the record of an entity in a read model, now or at an earlier position.

        The record may lag behind the log; `wait_for` waits until it has an event. A record at a
        position is folded from the events in the log.

        Args:
            kind: `session`, `group`, `job`, `node`, or a read model of an enabled package.
            id: Id of the session, group or node, key of a job or
                `<session>:<utterance>:<target>`, or id of the record.
            at: A position; the last event if left out.

        Raises:
            NotFound: There is no such record at this position.
            InvalidMessage: There is no such read model, or the position is in the future.
            UnreadableRecord: The stored record has another form; a rebuild replaces it.
            ArchiveError: It needs events that only the archive has, and `connect` got no archive.
            ServerUnavailable: The server is away.
        """
        from eventsched.history.position import parse_position

        needs_log = bool(at) or kind == "job"
        reader = self._reader(self._source(self._archive if needs_log else None))
        entity = await reader.job_key(id) if kind == "job" else id
        return await reader.state(kind, entity, parse_position(at, "at") if at else None)

    async def list(self, kind: str, *, after: str = "", limit: int = 100) -> list[State]:
        """Return the current records of a read model, by cell and then by the bytes of their ids.

        The list may lag behind the log, as `state`. To read on, pass the id of the last record as
        `after`; a list shorter than `limit` is the last.

        Args:
            kind: `session`, `group`, `job`, `node`, or a read model of an enabled package.
            after: Id after which the list begins; the record need not exist any more.
            limit: Greatest number of records, 1 to 1,000.

        Raises:
            InvalidMessage: There is no such read model or cell, or the limit is out of range.
            UnreadableRecord: A stored record has another form; a rebuild replaces it.
            ServerUnavailable: The server is away.
        """
        from eventsched.history.records_by_id import list_records

        page = await list_records(self._source(), kind, after=after, limit=limit)
        return page.items

    async def history(
        self,
        id: str = "",  # noqa: A002
        *,
        node: str = "",
        tenant: str = "",
        types: Iterable[str] = (),
        since: str = "",
        until: str = "",
    ) -> AsyncIterator[Event | FailedEvent]:
        """Yield the events of a session, a job, a node, or all events, oldest first.

        Events are read from the log by pages. The iteration ends with the last event at its start.
        Texts of encrypted sessions are decrypted if the key store has their keys.

        Args:
            id: Id of a session, or a job as in `state`; empty for all events.
            node: Id of a node; only events of this node.
            tenant: Only events of this tenant.
            types: Only events of these types, such as `JobFailed`.
            since: The first position.
            until: The last position.

        Yields:
            Each event; a FailedEvent for an entry that cannot be decoded or decrypted.

        Raises:
            NotFound: The session, job or node does not exist.
            InvalidMessage: An argument is not acceptable.
            ArchiveError: It needs events that only the archive has, and `connect` got no archive;
                or the archive cannot be read.
            ServerUnavailable: The server is away.
        """
        from eventsched.history.event_filter import make_filter

        source = self._source(self._archive)
        reader = self._reader(source)
        where = await make_filter(
            source, reader, id, node=node, tenant=tenant, types=list(types),
            since=since, until=until,
        )  # fmt: skip
        async for event in reader.history(where, await reader.ends(where)):
            yield event

    async def events(
        self, *, group: str = "", start: str = "$", claim_ms: int = CLAIM_MS
    ) -> AsyncGenerator[Event | FailedEvent]:
        """Yield the events of all cells as they happen, without end.

        The events of a cell come in the order of its log; those of several cells are merged as they
        arrive. `event.cell` and `event.id` identify an event.

        With a consumer group, any number of processes share the events: each event goes to one of
        them, at least once. It is acknowledged when the loop asks for the next one. An event that a
        process has not acknowledged within `claim_ms` goes to another one. The position of the
        group is stored on the server, and trimming of the log waits for the group. Without a group
        nothing waits: a reader that is further behind than the log goes back misses events that
        were trimmed by age, and gets an ArchiveError for events that only the archive has.

        While the server is away, the iteration waits. Texts of encrypted sessions are decrypted if
        the key store has their keys.

        Args:
            group: Name of a consumer group, which is created at its first use; not one of the
                system. Empty: every caller gets all events, and nothing is stored.
            start: `0` for the first event of the log, `$` for the next new one, or a position. A
                group that exists continues at its own position.
            claim_ms: Longest time to process an event, 1,000 ms to a day.

        Yields:
            Each event; a FailedEvent for an entry of an unknown type or version, with its stored
            fields, or for one that cannot be decoded or decrypted.

        Raises:
            InvalidMessage: An argument is not acceptable.
            NotFound: The group was dropped.
            ArchiveError: Without a group: the log was trimmed beyond the position.
            ServerUnavailable: The server is away at the first call.
        """
        from eventsched.client import log_reading

        check_between("claim_ms", claim_ms, CLAIM_MS_MIN, CLAIM_MS_MAX)
        source, first = self._source(), _start_id(start)
        if group:
            entries = log_reading.consume(await self._consumers(group, first, claim_ms))
        else:
            entries = log_reading.follow(await self._followers(source, first))
        async with aclosing(entries):
            reader, read = self._reader(source), 0
            async for cell, entry in entries:
                if read == READER_EVENTS_MAX:
                    reader, read = self._reader(source), 0
                read += 1
                yield await reader.read_entry(cell, entry)

    async def _consumers(self, group: str, first: str, claim_ms: int) -> Sequence[CellConsumer]:
        """A consumer of the group in each cell."""
        from eventsched.client.log_reading import CellConsumer
        from eventsched.projection.installed import enabled_names

        if check_name("group", group) in enabled_names():
            raise InvalidMessage.of("group", f"{group} is one of the system", "name another one")
        consumer = secrets.token_hex(8)
        for store in self.stores.values():
            await store.create_group(group, first)
        return [CellConsumer(store, group, consumer, claim_ms) for store in self.stores.values()]

    async def _followers(self, source: HistorySource, first: str) -> Sequence[CellFollower]:
        """A reader of each cell's log."""
        from eventsched.client.log_reading import CellFollower
        from eventsched.projection.store import ProjectionStore

        followers = []
        for store in self.stores.values():
            after = await store.last_id(store.keys.log) if first == "$" else first
            views = ProjectionStore(store.transport, store.cell)
            followers.append(CellFollower(views, await source.history_of(store.cell), after))
        return followers

    async def status(self) -> SystemStatus:
        """Return the status of the server and of each cell, as `eventsched status --json` does.

        Raises:
            ServerUnavailable: The server is away.
        """
        from eventsched.history.status import read_status

        assert self._connection is not None, "connect() makes clients that know their server"
        return await read_status(self._connection)

    async def wait_for(self, kind: str, log_id: str, *, cell: str = "") -> None:
        """Return once the records of a read model include an event.

        So an application reads its own writes: `Result.log` and `Event.id` are such ids. The call
        waits as long as no projector runs; bound it with `anyio.fail_after`.

        Args:
            kind: The read model, as in `state`.
            log_id: Id of the event in the log of its cell.
            cell: The cell; it may be left out if the server has only one.

        Raises:
            InvalidMessage: There is no such read model or cell, or the id has another form.
        """
        from eventsched.history.position import parse_position
        from eventsched.projection.installed import find_set
        from eventsched.projection.store import ProjectionStore

        name = find_set(self._sets, kind).name
        position = parse_position(log_id, "log_id")
        if position.seq is None:
            raise InvalidMessage.of("log_id", f"{log_id!r:.80} is no id", "give Result.log")
        store = self._cell_store(cell)
        views, backoff = ProjectionStore(store.transport, store.cell), Backoff(store.transport)
        while True:
            checkpoint = await backoff.call(lambda: views.checkpoint(name))
            if parse_id(checkpoint) >= parse_id(position.first):
                return
            await store.transport.sleep(POLL_S)

    @cached_property
    def _sets(self) -> Sequence[ProjectionSet]:
        """The enabled projections; loading them searches the installed packages."""
        from eventsched.projection.installed import load_sets

        return load_sets()

    def _source(self, archive: ArchiveFolder | None = None) -> HistorySource:
        from eventsched.history.source import HistorySource

        return HistorySource(self, archive, sets=self._sets)

    @cached_property
    def _archive(self) -> ArchiveFolder | None:
        from eventsched.archive.layout import ArchiveFolder

        return ArchiveFolder.open(self._archive_path) if self._archive_path else None

    def _reader(self, source: HistorySource) -> Reader:
        from eventsched.history.reader import Reader

        return Reader(source, EventDecryptor(self.keys) if self.keys else None)

    def _cell_store(self, cell: str) -> Store:
        """The store of a cell, or the only one. Raises InvalidMessage."""
        if not cell and len(self.stores) == 1:
            return next(iter(self.stores.values()))
        if cell not in self.stores:
            names = ", ".join(self.cells)
            raise InvalidMessage.of("cell", f"no cell {cell!r:.80}", f"the cells are {names}")
        return self.stores[cell]


def _start_id(start: str) -> str:
    """The id after which to read, or `$` for the end of the log. Raises InvalidMessage."""
    from eventsched.history.position import parse_position

    if start in ("0", "$"):
        return START if start == "0" else start
    return parse_position(start, "start").before
