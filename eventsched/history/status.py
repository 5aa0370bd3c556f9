"""The status of a server: roles, consumer lag, dead letters, waiting jobs and nodes of each cell.

Owns: the status of the server and its cells; the reads for roles, consumer lag and outboxes.
Never does: write, decide.
Read next: node_status.py, waiting.py, consumer_groups.py, store/lag.py, cli/status.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
from msgspec.structs import replace

from eventsched.history.consumer_groups import ConsumerGroupStatus, read_consumer_groups
from eventsched.history.event_json import HIDDEN_REASON
from eventsched.history.node_status import ClassStatus, RecentClasses
from eventsched.history.roles import RoleStatus, read_roles
from eventsched.history.waiting import WaitingJobs, read_waiting
from eventsched.projection.installed import NotEnabled, enabled_names, not_enabled
from eventsched.projection.store import ProjectionStore
from eventsched.schema.ids import START, ms_of
from eventsched.schema.settings import Settings
from eventsched.store.cell import Store
from eventsched.store.cell_connection import numbers_of, settings_of, text_fields_of
from eventsched.store.connection import Connection
from eventsched.store.lag import ARCHIVE, ConsumerLag
from eventsched.store.replies import fields_of, stored_number
from eventsched.store.transport import Entry, entries_of

TENANTS_MAX = 5
"""Tenants whose waiting jobs are shown, those whose unread results are, and those whose lag is."""


class ConsumerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The lag of one consumer: a projection set or the archive on `log`, or the dispatcher."""

    consumer: str
    stream: str
    lag: int
    """Number of entries that are not processed yet."""
    oldest_ms: int
    """Age of the oldest of these entries."""
    is_running: bool
    """Whether a process has the lease of the set; always true for the dispatcher."""


class TenantQueue(msgspec.Struct, frozen=True, kw_only=True):
    """The jobs of a tenant that wait."""

    tenant: str
    jobs: int
    """Waiting jobs, and outcomes in the dispatch queue."""
    is_refused: bool
    """Whether the tenant has so many that it is refused."""


class TenantOutbox(msgspec.Struct, frozen=True, kw_only=True):
    """The results of a tenant that wait to be read."""

    tenant: str
    unread_bytes: int
    is_refused: bool
    """Whether the tenant has so many that it is refused."""


class RefusedTenant(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant that is refused because the projections lag behind it."""

    tenant: str
    lag: int
    """Number of its log entries that a projection set has not folded."""


class CellStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The status of one cell. Its reads are not atomic, so counts may differ by a few."""

    cell: str
    now_ms: int
    log_entries: int
    log_retention_ms: int
    """Without an archive, older entries are trimmed from the log; 0 keeps all entries."""
    backpressure: list[str]
    """Reasons of the backpressure; empty without backpressure."""
    roles: list[RoleStatus]
    consumers: list[ConsumerStatus]
    consumer_groups: list[ConsumerGroupStatus]
    """The consumer groups of other programs on the log."""
    waiting: list[WaitingJobs]
    classes: list[ClassStatus]
    nodes_ms: int
    """When the classes and their nodes were read. A gateway with many nodes reads them less often
    than the rest, so this may be seconds before `now_ms`."""
    dead_letters: int
    newest_dead_letter: str
    """Reason of the newest dead letter."""
    stalled_timers: int
    """Number of timers whose last call had no effect and that are called again after a pause."""
    queues: list[TenantQueue]
    """The tenants with the most waiting jobs, at most five."""
    outboxes: list[TenantOutbox]
    """The tenants with the most bytes of results that wait to be read, at most five."""
    lagging_tenants: list[RefusedTenant]
    """The tenants that are refused for their lag; at most five, those with the largest lag."""


class SystemStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The status of a server and its cells."""

    server: str
    is_cluster: bool
    maxmemory_bytes: int
    warnings: list[str]
    projections_not_enabled: list[NotEnabled]
    """Projections of installed packages that this process does not load."""
    cells: list[CellStatus]

    def with_nodes(self, count_max: int) -> SystemStatus:
        """Return the status with at most so many nodes of each class, the most urgent ones."""
        cells = [
            replace(cell, classes=[each.with_nodes(count_max) for each in cell.classes])
            for cell in self.cells
        ]
        return replace(self, cells=cells)


def without_reasons(status: SystemStatus) -> SystemStatus:
    """Return the status without the reason of the newest dead letters, which may quote a text."""
    cells = [
        replace(each, newest_dead_letter=HIDDEN_REASON) if each.newest_dead_letter else each
        for each in status.cells
    ]
    return replace(status, cells=cells)


async def read_status(
    connection: Connection, recent_classes: RecentClasses | None = None
) -> SystemStatus:
    """Return the status of the server and of each cell of a connection.

    Args:
        connection: The connection.
        recent_classes: The classes and nodes of earlier readings, which may be used again; without
            it they are read.
    """
    facts = connection.facts
    classes = recent_classes or RecentClasses()
    return SystemStatus(
        server=f"{facts.family.capitalize()} {facts.version}",
        is_cluster=facts.is_cluster,
        maxmemory_bytes=facts.maxmemory_bytes,
        warnings=list(facts.warnings),
        projections_not_enabled=not_enabled(),
        cells=[await _CellReader(store, classes).read() for store in connection.stores.values()],
    )


class _CellReader:
    """Reads the status of one cell."""

    def __init__(self, store: Store, classes: RecentClasses) -> None:
        self._store = store
        self._classes = classes
        self._keys = store.keys
        self._lag = ConsumerLag(store)
        self._now_ms = 0

    async def read(self) -> CellStatus:
        """Return the status of the cell."""
        self._now_ms = await self._store.read_now()
        keys = self._keys
        hashes = await self._read_hashes()
        counters, settings = hashes[keys.counters], settings_of(hashes[keys.settings])
        lengths = await self._store.read_many(
            [
                ("XLEN", keys.log),
                ("XLEN", keys.dispatch),
                ("XLEN", keys.dead_letters),
                ("ZCARD", keys.stalled_timers),
                ("XRANGE", keys.dispatch, "-", "+", "COUNT", 1),
                ("XREVRANGE", keys.dead_letters, "+", "-", "COUNT", 1),
            ]
        )
        log_entries, entries, dead_letters, stalled_timers, *ends = lengths
        oldest, newest = map(entries_of, ends)
        nodes_ms, classes = await self._classes.read(self._store, self._now_ms)
        tenants = (
            keys.tenant_queued, keys.tenant_undispatched, keys.tenant_outbox, keys.tenant_lag,
        )  # fmt: skip
        queued, undispatched, unread, lags = (numbers_of(key, hashes[key]) for key in tenants)
        waiting = Counter(queued)
        waiting.update(undispatched)
        return CellStatus(
            cell=self._store.cell,
            now_ms=self._now_ms,
            log_entries=log_entries,
            log_retention_ms=settings.log_retention_ms,
            backpressure=_words(counters.get("backpressure", "")),
            roles=await read_roles(self._store, self._now_ms),
            consumers=[
                self._dispatch(entries, oldest),
                *[await self._set(name) for name in enabled_names()],
                *await self._archive(hashes[keys.archive]),
            ],
            consumer_groups=await read_consumer_groups(self._store, self._now_ms),
            waiting=await read_waiting(self._store, self._now_ms, settings, classes),
            classes=classes,
            nodes_ms=nodes_ms,
            dead_letters=dead_letters,
            newest_dead_letter=_field(newest[0][1], b"reason") if newest else "",
            queues=_queues(waiting, settings),
            outboxes=_outboxes(unread, settings),
            lagging_tenants=_lagging_tenants(lags),
            stalled_timers=stalled_timers,
        )

    async def _read_hashes(self) -> dict[str, dict[str, str]]:
        """Return the fields of each hash of the cell that is read whole, by its key."""
        keys = self._keys
        names = (
            keys.counters, keys.settings, keys.archive, keys.tenant_queued,
            keys.tenant_undispatched, keys.tenant_outbox, keys.tenant_lag,
        )  # fmt: skip
        replies = await self._store.read_many([("HGETALL", name) for name in names])
        return dict(zip(names, map(text_fields_of, replies), strict=True))

    def _dispatch(self, entries: int, oldest: Sequence[Entry]) -> ConsumerStatus:
        """Return the status of the dispatcher; dispatched entries are trimmed from its queue."""
        return ConsumerStatus(
            consumer="dispatch",
            stream="dispatch",
            lag=entries,
            oldest_ms=self._age(oldest[0][0]) if oldest else 0,
            is_running=True,
        )

    async def _set(self, name: str) -> ConsumerStatus:
        projection_store = ProjectionStore(self._store.transport, self._store.cell)
        return await self._log_consumer(name, await projection_store.checkpoint(name))

    async def _archive(self, archive: Mapping[str, str]) -> list[ConsumerStatus]:
        """Return the status of the archive; empty if the cell has none."""
        return [await self._log_consumer(ARCHIVE, archive.get("to", START))] if archive else []

    async def _log_consumer(self, name: str, checkpoint: str) -> ConsumerStatus:
        """Return the status of a consumer that has processed the log up to `checkpoint`."""
        projection_store = ProjectionStore(self._store.transport, self._store.cell)
        next_entries = await projection_store.read_log(checkpoint, 1)
        key = self._keys.lease(name)
        lease = await self._store.read_hash(key)
        return ConsumerStatus(
            consumer=name,
            stream="log",
            lag=await self._lag.of_set(name),
            oldest_ms=self._age(next_entries[0][0]) if next_entries else 0,
            is_running=stored_number(lease.get("until", "0"), key) > self._now_ms,
        )

    def _age(self, entry_id: str) -> int:
        return max(0, self._now_ms - ms_of(entry_id))


def _queues(waiting: Mapping[str, int], settings: Settings) -> list[TenantQueue]:
    return [
        TenantQueue(
            tenant=tenant,
            jobs=waiting[tenant],
            is_refused=waiting[tenant] >= settings.tenant_queue_max,
        )
        for tenant in _most(waiting)
    ]


def _outboxes(unread: Mapping[str, int], settings: Settings) -> list[TenantOutbox]:
    return [
        TenantOutbox(
            tenant=tenant,
            unread_bytes=unread[tenant],
            is_refused=unread[tenant] >= settings.tenant_outbox_bytes_max,
        )
        for tenant in _most(unread)
    ]


def _lagging_tenants(lags: Mapping[str, int]) -> list[RefusedTenant]:
    return [RefusedTenant(tenant=tenant, lag=lags[tenant]) for tenant in _most(lags)]


def _most(backlogs: Mapping[str, int]) -> list[str]:
    """The tenants with the largest backlogs."""
    return sorted(backlogs, key=lambda tenant: (-backlogs[tenant], tenant))[:TENANTS_MAX]


def _words(joined: str) -> list[str]:
    return [word for word in joined.split(",") if word]


def _field(flat: list[bytes], name: bytes) -> str:
    return fields_of(flat).get(name, b"").decode(errors="replace")
