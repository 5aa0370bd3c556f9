"""Backpressure: producers are refused before data is lost, and accepted again afterwards.

Owns: measuring memory, consumer lag and dead letters once a second; deciding when backpressure
starts (at the limit) and ends (below nine tenths of the limit), for a cell and, by its part of the
lag, for a tenant; recording which tenants are refused.
Must not: decide by what it has in memory, because any number of monitors may run and the active
reasons are stored in the cell; refuse calls, which the scripts of producers and nodes do.
Read next: lua/set_backpressure.lua, store/lag.py, store/tenant_lag.py, schema/settings.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

import msgspec

from eventsched.logs import get_logger
from eventsched.schema.events import BackpressureReason, TenantReason
from eventsched.schema.settings import Settings
from eventsched.store.cell import Store
from eventsched.store.lag import ARCHIVE, ConsumerLag
from eventsched.store.retry import Backoff
from eventsched.store.tenant_lag import TenantLag

MEASURE_S = 1.0
"""Interval between two measurements."""
Reason: TypeAlias = BackpressureReason
UNMEASURED: dict[Reason, str] = {"memory": "maxmemory is 0 now", "archive": "no archive any more"}
"""Reasons that may have no measurement, and why. Their backpressure ends then."""

log = get_logger("eventsched.roles.backpressure")


class Measurement(msgspec.Struct, frozen=True):
    """A measured value and its limit, in the same unit (bytes or entries)."""

    reason: Reason
    seen: int
    limit: int
    description: str = ""

    def is_active(self, *, was_active: bool) -> bool:
        """Whether backpressure is active now; unchanged between nine tenths of the limit and it."""
        if self.seen >= self.limit:
            return True
        return was_active and self.seen * 10 >= self.limit * 9


class BackpressureMonitor:
    """Starts and ends the backpressure of one cell and of its tenants."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lag = ConsumerLag(store)
        self._tenant_lag = TenantLag(store)
        self._gauges: list[Callable[[Settings], Awaitable[Measurement | None]]] = [
            self._memory,
            self._groups,
            self._archive,
            self._dead_letters,
        ]

    async def step(self) -> list[Measurement]:
        """Measure every reason once; record each change in the cell. Return the measurements."""
        settings = await self._store.read_settings()
        counters = await self._store.read_hash(self._store.keys.counters)
        active = set(counters.get("backpressure", "").split(","))
        measurements = []
        for gauge in self._gauges:
            measurement = await gauge(settings)
            if measurement is not None:
                measurements.append(measurement)
                await self._update(measurement, was_active=measurement.reason in active)
        measured = {measurement.reason for measurement in measurements}
        for reason, description in UNMEASURED.items():
            if reason in active and reason not in measured:
                await self._update(Measurement(reason, 0, 1, description), was_active=True)
        await self._update_lagging_tenants(settings)
        await self._record_refused_tenants(settings)
        return measurements

    async def _update(self, measurement: Measurement, *, was_active: bool) -> None:
        """Start or end the backpressure of this reason, if it changes."""
        is_active = measurement.is_active(was_active=was_active)
        if is_active == was_active:
            return
        change = await self._store.set_backpressure(
            measurement.reason,
            is_active=is_active,
            seen=measurement.seen,
            limit=measurement.limit,
        )
        if change != "unchanged":
            log.warning(
                "backpressure",
                change=change,
                cell=self._store.cell,
                reason=measurement.reason,
                description=measurement.description,
                seen=measurement.seen,
                limit=measurement.limit,
            )

    async def _update_lagging_tenants(self, settings: Settings) -> None:
        """Refuse the tenants that the projections lag behind, and serve those again that they
        follow.

        The log is read only while the lag is so large that a tenant may have reached the limit, or
        while a tenant is refused.
        """
        refused = await self._store.read_hash(self._store.keys.tenant_lag)
        lags = await self._set_lags()
        slowest = max(lags, key=lambda name: lags[name], default=None)
        if slowest is None or (lags[slowest] < settings.tenant_lag_max and not refused):
            self._tenant_lag.clear()
            return
        counts = await self._tenant_lag.count(slowest)
        for tenant in sorted(refused.keys() | counts.keys()):
            seen = counts.get(tenant, 0)
            lag = Measurement("tenant_lag", seen, settings.tenant_lag_max, "entries not folded")
            was_active = tenant in refused
            is_active = lag.is_active(was_active=was_active)
            if is_active or was_active:
                await self._store.set_tenant_lag(tenant, seen if is_active else 0)

    async def _record_refused_tenants(self, settings: Settings) -> None:
        """Append an event for each tenant that is refused for a backlog, or is served again.

        A refusal that begins and ends between two measurements is in no event.
        """
        store, keys = self._store, self._store.keys
        recorded = {
            (tenant, reason)
            for tenant, _, reason in (
                field.rpartition("|") for field in await store.read_hash(keys.tenant_refused)
            )
        }
        for reason, (backlogs, limit) in (await self._backlogs(settings)).items():
            tenants = {tenant for tenant, count in backlogs.items() if count >= limit}
            tenants |= {tenant for tenant, recorded_for in recorded if recorded_for == reason}
            for tenant in sorted(tenants):
                seen = backlogs.get(tenant, 0)
                # The hash has the tenants that are refused for their lag, and no others.
                is_active = tenant in backlogs if reason == "tenant_lag" else seen >= limit
                if is_active != ((tenant, reason) in recorded):
                    await self._record(tenant, reason, is_active=is_active, seen=seen, limit=limit)

    async def _record(
        self, tenant: str, reason: TenantReason, *, is_active: bool, seen: int, limit: int
    ) -> None:
        change = await self._store.set_tenant_backpressure(
            tenant, reason, is_active=is_active, seen=seen, limit=limit
        )
        if change != "unchanged":
            log.warning(
                "backpressure",
                change=change,
                cell=self._store.cell,
                reason=reason,
                tenant=tenant,
                seen=seen,
                limit=limit,
            )

    async def _backlogs(
        self, settings: Settings
    ) -> dict[TenantReason, tuple[Mapping[str, int], int]]:
        """For each reason, the backlogs by tenant and their limit."""
        store, keys = self._store, self._store.keys
        return {
            "tenant_queue": (await store.tenant_queues(), settings.tenant_queue_max),
            "tenant_outbox": (
                await store.read_numbers(keys.tenant_outbox),
                settings.tenant_outbox_bytes_max,
            ),
            "tenant_lag": (await store.read_numbers(keys.tenant_lag), settings.tenant_lag_max),
        }

    async def run(self) -> None:
        """Measure every second until cancelled."""
        transport = self._store.transport
        backoff = Backoff(transport, log, role="backpressure", cell=self._store.cell)
        while True:
            async with backoff.attempt():
                await self.step()
                await transport.sleep(MEASURE_S)

    # --- measurements -----------------------------------------------------------------------

    async def _memory(self, settings: Settings) -> Measurement | None:
        """The used memory of the cell's server; None without a maxmemory."""
        command = self._store.transport.command
        info = await command("INFO", "memory", key=self._store.keys.log)
        bytes_max = int(info["maxmemory"])
        if not bytes_max:
            return None
        # The server does not count the buffers of replicas and of the append-only file against
        # maxmemory.
        seen = int(info["used_memory"]) - int(info.get("mem_not_counted_for_evict", 0))
        limit = max(1, bytes_max * settings.memory_percent_max // 100)
        return Measurement("memory", max(0, seen), limit, "used memory in bytes")

    async def _groups(self, settings: Settings) -> Measurement:
        """The lag of the consumer that is nearest to its limit, or furthest above it."""
        lags = [
            Measurement(
                "group", await self._lag.of_dispatch(), settings.dispatch_queue_max, "dispatch"
            ),
            *[
                Measurement("group", lag, settings.projection_lag_max, name)
                for name, lag in (await self._set_lags()).items()
            ],
        ]
        return max(lags, key=lambda lag: lag.seen / lag.limit)

    async def _set_lags(self) -> dict[str, int]:
        """The lag of each projection set."""
        names = await self._lag.projection_sets()
        return {name: await self._lag.of_set(name) for name in names if name != ARCHIVE}

    async def _archive(self, settings: Settings) -> Measurement | None:
        """The lag of the archive; None without one. Only archived entries are trimmed."""
        seen = await self._lag.of_archive()
        if seen is None:
            return None
        return Measurement("archive", seen, settings.archive_lag_max, "entries not archived")

    async def _dead_letters(self, settings: Settings) -> Measurement:
        key = self._store.keys.dead_letters
        seen = int(await self._store.transport.command("XLEN", key, key=key))
        return Measurement(
            "dead_letters", seen, settings.dead_letters_max, "entries that could not be processed"
        )
