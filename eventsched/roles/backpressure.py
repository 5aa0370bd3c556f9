"""Pressure: producers are refused before anything is lost, and served again when it is over.

Owns: measuring once a second what could become too much, and when a limit counts as passed:
raised at the limit, lifted below nine tenths of it.
Never does: keep anything between two looks (what is raised stands in the cell), so any number may
run; refuse anybody (the scripts of producers and nodes do).
Read next: lua/set_backpressure.lua, store/lag.py, schema/settings.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias

import msgspec
import structlog

from eventsched.schema.settings import Settings
from eventsched.store.cell import Store
from eventsched.store.lag import ARCHIVE, ConsumerLag
from eventsched.store.retry import Backoff

LOOK_S = 1.0
Reason: TypeAlias = Literal["memory", "group", "archive", "dead_letters"]
UNMEASURED: dict[Reason, str] = {"memory": "maxmemory is 0 now", "archive": "no archive any more"}
"""What there may be no reading of; pressure of it ends then."""

log = structlog.get_logger("eventsched.roles.backpressure")


class Reading(msgspec.Struct, frozen=True):
    """One measure beside its limit, in the same unit (bytes or entries)."""

    reason: Reason
    seen: int
    limit: int
    what: str = ""

    def is_raised(self, *, was: bool) -> bool:
        """Between nine tenths of the limit and the limit everything stays as it is."""
        if self.seen >= self.limit:
            return True
        return was and self.seen * 10 >= self.limit * 9


class BackpressureMonitor:
    """Serves one cell."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._distances = ConsumerLag(store)
        self._gauges: list[Callable[[Settings], Awaitable[Reading | None]]] = [
            self._memory,
            self._groups,
            self._archive,
            self._dead,
        ]

    async def step(self) -> list[Reading]:
        """Measure everything once, and tell the cell what has changed."""
        kept = await self._store.read_hash(self._store.keys.settings)
        known = {name: value for name, value in kept.items() if name in Settings.__struct_fields__}
        settings = msgspec.convert(known, Settings, strict=False)
        counters = await self._store.read_hash(self._store.keys.counters)
        raised = set(counters.get("pressure", "").split(","))
        readings = []
        for gauge in self._gauges:
            reading = await gauge(settings)
            if reading is not None:
                readings.append(reading)
                await self._tell(reading, was=reading.reason in raised)
        for reason, what in UNMEASURED.items():
            if reason in raised and all(one.reason != reason for one in readings):
                await self._tell(Reading(reason, 0, 1, what), was=True)
        return readings

    async def _tell(self, reading: Reading, *, was: bool) -> None:
        is_raised = reading.is_raised(was=was)
        if is_raised == was:
            return
        word = await self._store.set_backpressure(
            reading.reason, raised=is_raised, seen=reading.seen, limit=reading.limit
        )
        if word != "kept":
            log.warning(
                "pressure",
                word=word,
                cell=self._store.cell,
                reason=reading.reason,
                what=reading.what,
                seen=reading.seen,
                limit=reading.limit,
            )

    async def run(self) -> None:
        """Until cancelled."""
        transport = self._store.transport
        backoff = Backoff(transport, log, role="pressure", cell=self._store.cell)
        while True:
            async with backoff.attempt():
                await self.step()
                await transport.sleep(LOOK_S)

    # --- what is measured -------------------------------------------------------------------

    async def _memory(self, settings: Settings) -> Reading | None:
        """Of the server that serves this cell. Without a maxmemory there is no limit to near."""
        command = self._store.transport.command
        told = await command("INFO", "memory", key=self._store.keys.log)
        bytes_max = int(told["maxmemory"])
        if not bytes_max:
            return None
        # What the server itself leaves out when it asks whether it is full: buffers of replicas
        # and of the append-only file.
        seen = int(told["used_memory"]) - int(told.get("mem_not_counted_for_evict", 0))
        limit = max(1, bytes_max * settings.memory_percent_max // 100)
        return Reading("memory", max(0, seen), limit, "used memory in bytes")

    async def _groups(self, settings: Settings) -> Reading:
        """The consumer that is furthest from its limit, or beyond it by the most."""
        readings = [
            Reading(
                "group",
                await self._distances.of_dispatch(),
                settings.dispatch_queue_max,
                "dispatch",
            ),
            *[
                Reading(
                    "group", await self._distances.of_set(name), settings.projection_lag_max, name
                )
                for name in await self._distances.projection_sets()
                if name != ARCHIVE
            ],
        ]
        return max(readings, key=lambda one: one.seen / one.limit)

    async def _archive(self, settings: Settings) -> Reading | None:
        """Nothing is trimmed that is not archived: a dead archiver fills the server in the end."""
        seen = await self._distances.of_archive()
        if seen is None:
            return None
        return Reading("archive", seen, settings.archive_lag_max, "entries not archived")

    async def _dead(self, settings: Settings) -> Reading:
        dead = self._store.keys.dead_letters
        seen = int(await self._store.transport.command("XLEN", dead, key=dead))
        return Reading(
            "dead_letters", seen, settings.dead_letters_max, "entries that could not be processed"
        )
