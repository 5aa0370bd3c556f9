"""The status of a server: roles, consumer lag, dead letters, waiting jobs and nodes of each cell.

Owns: the reads for `eventsched status`; their number is bounded.
Never does: write, decide. Read next: store/lag.py, schema/keys.py, cli/status.py.
"""

from __future__ import annotations

from typing import Any

import msgspec

from eventsched.history.roles import RoleStatus, read_roles
from eventsched.projection.installed import NotEnabled, enabled_names, not_enabled
from eventsched.projection.store import ProjectionStore
from eventsched.schema.ids import ms_of
from eventsched.schema.settings import Settings
from eventsched.store.cell import Store
from eventsched.store.connection import Connection
from eventsched.store.lag import ARCHIVE, ConsumerLag
from eventsched.store.replies import fields_of

UNREAD_BYTES_MAX = Settings().tenant_outbox_bytes_max
TENANTS_MAX = 5
"""Tenants whose unread results are shown."""
SCAN_MAX = 2_000
"""Waiting jobs of one requirement and priority that are read to find the oldest."""


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


class WaitingJobs(msgspec.Struct, frozen=True, kw_only=True):
    """The waiting jobs of one requirement."""

    source: str
    target: str
    features: list[str]
    jobs: int
    oldest_ms: int
    reason: str
    """NO_POOL_FOR_LANG_PAIR: no node declares it. NO_AVAILABLE_NODE: those that do are busy."""


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The current registration of a node."""

    node: str
    status: str
    slots: int
    leases: int
    """Number of slots in use."""
    reported_load: int
    heartbeat_age_ms: int
    """Time since the last heartbeat, or since the registration."""
    version: str


class ClassStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A capability class and its nodes."""

    id: str
    sources: list[str]
    targets: list[str]
    features: list[str]
    suspended: list[str]
    """Features for which the nodes are suspended; `*` means every job."""
    nodes: list[NodeStatus]


class TenantOutbox(msgspec.Struct, frozen=True, kw_only=True):
    """The results of a tenant that wait to be read."""

    tenant: str
    unread_bytes: int
    is_refused: bool
    """Whether the tenant has so many that it is refused."""


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
    waiting: list[WaitingJobs]
    classes: list[ClassStatus]
    dead_letters: int
    newest_dead_letter: str
    """Reason of the newest dead letter."""
    stalled_timers: int
    """Number of timers whose last call had no effect and that are called again after a pause."""
    outboxes: list[TenantOutbox]
    """The tenants with the most bytes of results that wait to be read, at most five."""


class SystemStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The status of a server and its cells."""

    server: str
    is_cluster: bool
    maxmemory_bytes: int
    warnings: list[str]
    projections_not_enabled: list[NotEnabled]
    """Projections of installed packages that this process does not load."""
    cells: list[CellStatus]


async def read_status(connection: Connection) -> SystemStatus:
    """Return the status of the server and of each cell of a connection."""
    facts = connection.facts
    return SystemStatus(
        server=f"{facts.family.capitalize()} {facts.version}",
        is_cluster=facts.is_cluster,
        maxmemory_bytes=facts.maxmemory_bytes,
        warnings=list(facts.warnings),
        projections_not_enabled=not_enabled(),
        cells=[await _CellReader(store).read() for store in connection.stores.values()],
    )


async def read_now(store: Store) -> int:
    """Return the current time of a cell's clock, as its scripts compute it."""
    clock = await store.read_clock()
    if clock.is_manual:
        return clock.last_ms
    seconds, micros = await store.transport.command("TIME", key=store.keys.clock)
    now = int(seconds) * 1_000 + int(micros) // 1_000 + clock.offset_ms
    return max(now, clock.last_ms)


class _CellReader:
    """Reads the status of one cell."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys
        self._lag = ConsumerLag(store)
        self._now_ms = 0

    async def read(self) -> CellStatus:
        """Return the status of the cell."""
        self._now_ms = await read_now(self._store)
        counters = await self._store.read_hash(self._keys.counters)
        classes = [await self._class(id_) for id_ in await self._members(self._keys.classes)]
        requirements = sorted(await self._store.read_hash(self._keys.requirements))
        settings = await self._store.read_hash(self._keys.settings)
        newest = await self._store.read_range(
            self._keys.dead_letters, "-", "+", 1, newest_first=True
        )
        return CellStatus(
            cell=self._store.cell,
            now_ms=self._now_ms,
            log_entries=await self._command("XLEN", self._keys.log),
            log_retention_ms=int(settings.get("log_retention_ms", "0")),
            backpressure=_words(counters.get("backpressure", "")),
            roles=await read_roles(self._store, self._now_ms),
            consumers=[
                await self._dispatch(),
                *[await self._set(name) for name in enabled_names()],
                *await self._archive(),
            ],
            waiting=[
                waiting
                for waiting in [await self._waiting(name, classes) for name in requirements]
                if waiting.jobs
            ],
            classes=classes,
            dead_letters=await self._command("XLEN", self._keys.dead_letters),
            newest_dead_letter=_field(newest[0][1], b"reason") if newest else "",
            outboxes=await self._outboxes(settings),
            stalled_timers=await self._command("ZCARD", self._keys.stalled_timers),
        )

    async def _dispatch(self) -> ConsumerStatus:
        """Return the status of the dispatcher; dispatched entries are trimmed from its queue."""
        oldest = await self._store.read_range(self._keys.dispatch, "-", "+", 1)
        return ConsumerStatus(
            consumer="dispatch",
            stream="dispatch",
            lag=await self._lag.of_dispatch(),
            oldest_ms=self._age(oldest[0][0]) if oldest else 0,
            is_running=True,
        )

    async def _set(self, name: str) -> ConsumerStatus:
        projection_store = ProjectionStore(self._store.transport, self._store.cell)
        return await self._log_consumer(name, await projection_store.checkpoint(name))

    async def _archive(self) -> list[ConsumerStatus]:
        """Return the status of the archive; empty if the cell has none."""
        archive = await self._store.read_hash(self._keys.archive)
        return [await self._log_consumer(ARCHIVE, archive["to"])] if archive else []

    async def _log_consumer(self, name: str, checkpoint: str) -> ConsumerStatus:
        """Return the status of a consumer that has processed the log up to `checkpoint`."""
        projection_store = ProjectionStore(self._store.transport, self._store.cell)
        next_entries = await projection_store.read_log(checkpoint, 1)
        lease = await self._store.read_hash(self._keys.lease(name))
        return ConsumerStatus(
            consumer=name,
            stream="log",
            lag=await self._lag.of_set(name),
            oldest_ms=self._age(next_entries[0][0]) if next_entries else 0,
            is_running=int(lease.get("until", "0")) > self._now_ms,
        )

    async def _outboxes(self, settings: dict[str, str]) -> list[TenantOutbox]:
        unread = await self._store.read_hash(self._keys.tenant_outbox)
        bytes_max = int(settings.get("tenant_outbox_bytes_max", UNREAD_BYTES_MAX))
        most = sorted(unread, key=lambda tenant: (-int(unread[tenant]), tenant))[:TENANTS_MAX]
        return [
            TenantOutbox(
                tenant=tenant,
                unread_bytes=int(unread[tenant]),
                is_refused=int(unread[tenant]) >= bytes_max,
            )
            for tenant in most
        ]

    async def _waiting(self, requirement: str, classes: list[ClassStatus]) -> WaitingJobs:
        source, target, joined = requirement.split(":", 2)
        features = _words(joined)
        jobs, oldest = 0, ""
        for priority in range(3):
            key = self._keys.waiting(priority, requirement)
            jobs += await self._command("ZCARD", key)
            members = await self._command("ZRANGE", key, 0, SCAN_MAX - 1)
            names = [member.decode() for member in members]
            oldest = min([oldest] * bool(oldest) + names, default="")
        is_declared = any(
            source in each.sources
            and target in each.targets
            and set(features) <= set(each.features)
            for each in classes
        )
        return WaitingJobs(
            source=source,
            target=target,
            features=features,
            jobs=jobs,
            oldest_ms=await self._waiting_ms(oldest.partition(":")[2]),
            reason="NO_AVAILABLE_NODE" if is_declared else "NO_POOL_FOR_LANG_PAIR",
        )

    async def _waiting_ms(self, job_key: str) -> int:
        """Return the waiting time of a job; it began `queue_timeout_ms` before its deadline."""
        if not job_key:
            return 0
        deadline = await self._command("ZSCORE", self._keys.timers, f"wait|{job_key}")
        if deadline is None:
            return 0  # the job got a slot in the meantime
        settings = await self._store.read_settings()
        return max(0, self._now_ms - int(float(deadline)) + settings.queue_timeout_ms)

    async def _class(self, class_id: str) -> ClassStatus:
        fields = await self._store.read_hash(self._keys.node_class(class_id))
        names = await self._members(self._keys.members(class_id))
        return ClassStatus(
            id=class_id,
            sources=_words(fields.get("sources", "")),
            targets=_words(fields.get("targets", "")),
            features=_words(fields.get("features", "")),
            suspended=_words(fields.get("suspended", "")),
            nodes=[await self._node(name) for name in names],
        )

    async def _node(self, name: str) -> NodeStatus:
        fields = await self._store.read_hash(self._keys.node(name))
        leases = self._keys.leases(name, int(fields.get("epoch", "0")))
        return NodeStatus(
            node=self._keys.full(name),
            status=fields.get("status", "gone"),
            slots=int(fields.get("slots", "0")),
            leases=await self._command("ZCARD", leases),
            reported_load=int(fields.get("load", "0") or 0),
            heartbeat_age_ms=max(0, self._now_ms - int(fields.get("seen", "0") or 0)),
            version=fields.get("version", ""),
        )

    async def _members(self, key: str) -> list[str]:
        return sorted(member.decode() for member in await self._command("SMEMBERS", key))

    async def _command(self, name: str, key: str, *more: str | int) -> Any:
        return await self._store.transport.command(name, key, *more, key=key)

    def _age(self, entry_id: str) -> int:
        return max(0, self._now_ms - ms_of(entry_id))


def _words(joined: str) -> list[str]:
    return [word for word in joined.split(",") if word]


def _field(flat: list[bytes], name: bytes) -> str:
    return fields_of(flat).get(name, b"").decode(errors="replace")
