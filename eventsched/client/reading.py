"""Reads events, states and the status of the system for applications.

Owns: the methods of `Client` that read.
Must not: write; fold events (history/reader.py does).
Read next: history/reader.py, history/status.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from eventsched.encryption.decrypt import EventDecryptor
from eventsched.encryption.keystore import KeyStore
from eventsched.errors import InvalidMessage
from eventsched.schema.ids import parse_id
from eventsched.store.cell import Store
from eventsched.store.connection import Connection
from eventsched.store.retry import Backoff

if TYPE_CHECKING:  # a producer and a node need none of these
    from eventsched.history.reader import Reader, State
    from eventsched.history.source import HistorySource
    from eventsched.history.status import SystemStatus
    from eventsched.projection.fold import FailedEvent
    from eventsched.projection.protocol import ProjectionSet
    from eventsched.schema.events import Event

POLL_S = 0.05
"""How often `wait_for` reads the checkpoint; a projector saves some 20 times a second at most."""


class ReadingClient:
    """The part of a client that reads. Every position is an entry's id or an ISO 8601 time."""

    def __init__(
        self,
        stores: Mapping[str, Store],
        *,
        keys: KeyStore | None = None,
        connection: Connection | None = None,
    ) -> None:
        self.stores = stores
        self.keys = keys
        """The keys of encrypted sessions; without a key store they cannot be opened or read."""
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
            ServerUnavailable: The server is away.
        """
        from eventsched.history.position import parse_position

        reader = self._reader(self._source())
        entity = await reader.job_key(id) if kind == "job" else id
        return await reader.state(kind, entity, parse_position(at, "at") if at else None)

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
            ServerUnavailable: The server is away.
        """
        from eventsched.history.event_filter import make_filter

        source = self._source()
        reader = self._reader(source)
        where = await make_filter(
            source, reader, id, node=node, tenant=tenant, types=list(types),
            since=since, until=until,
        )  # fmt: skip
        async for event in reader.history(where, await reader.ends(where)):
            yield event

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

    def _source(self) -> HistorySource:
        from eventsched.history.source import HistorySource

        return HistorySource(self, sets=self._sets)

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
