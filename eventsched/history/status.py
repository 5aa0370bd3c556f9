"""The cell as a whole: what is behind, what waits, who serves, what is wrong.

Owns: gathering what `status` shows, by a bounded number of reads; nothing of it is a decision.
Never does: write. Read next: store/lag.py (who is behind), schema/keys.py, cli/status.py.
"""

from __future__ import annotations

from typing import Any

import msgspec

from eventsched.projection.protocol import load_sets
from eventsched.projection.store import ProjectionStore
from eventsched.schema.ids import ms_of
from eventsched.store.cell import Store
from eventsched.store.connection import Connection
from eventsched.store.lag import ARCHIVE, ConsumerLag
from eventsched.store.replies import fields_of

LOOKED_MAX = 2_000
"""Waiting jobs of one requirement and priority among which the oldest is looked for."""


class SetBehind(msgspec.Struct, frozen=True, kw_only=True):
    """How far one consumer group is: a projection set on `log`, or dispatch on `work`."""

    group: str
    stream: str
    entries: int
    """Entries not passed yet."""
    ms: int
    """Age of the oldest of them."""
    is_held: bool
    """Whether somebody folds the set now; any dispatcher may take work at any time."""


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """The waiting jobs of one requirement."""

    source: str
    target: str
    features: list[str]
    jobs: int
    oldest_ms: int
    reason: str
    """NO_POOL_FOR_LANG_PAIR: no node declares it. NO_AVAILABLE_NODE: those that do are busy."""


class NodeSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A registration that serves, or drains."""

    node: str
    status: str
    slots: int
    live: int
    """Live leases: the slots in use."""
    reported_load: int
    seen_ms: int
    """Since its last sign of life."""
    version: str


class ClassSeen(msgspec.Struct, frozen=True, kw_only=True):
    """Nodes with equal abilities."""

    id: str
    sources: list[str]
    targets: list[str]
    features: list[str]
    suspended: list[str]
    nodes: list[NodeSeen]


class CellOverview(msgspec.Struct, frozen=True, kw_only=True):
    """One cell at one moment (its reads are not one step: numbers may differ by a few)."""

    cell: str
    now_ms: int
    log_entries: int
    log_retention_ms: int
    """Without an archive: older entries go; 0 keeps them all."""
    backpressure: list[str]
    groups: list[SetBehind]
    waiting: list[Waiting]
    classes: list[ClassSeen]
    dead: int
    dead_newest: str
    """Why the newest entry of `dead` is there."""


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """A server and its cells."""

    server: str
    is_cluster: bool
    maxmemory_bytes: int
    warnings: list[str]
    cells: list[CellOverview]


async def overview(connection: Connection) -> Overview:
    """Every cell of a connection."""
    facts = connection.facts
    return Overview(
        server=f"{facts.family.capitalize()} {facts.version}",
        is_cluster=facts.is_cluster,
        maxmemory_bytes=facts.maxmemory_bytes,
        warnings=list(facts.warnings),
        cells=[await _Cell(store).seen() for store in connection.stores.values()],
    )


class _Cell:
    """The reads of one cell."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys
        self._distances = ConsumerLag(store)
        self._now_ms = 0

    async def seen(self) -> CellOverview:
        self._now_ms = await self._clock()
        counters = await self._store.read_hash(self._keys.counters)
        classes = [await self._class(one) for one in await self._members(self._keys.classes)]
        requirements = await self._members(self._keys.requirements)
        settings = await self._store.read_hash(self._keys.settings)
        newest = await self._store.read_range(
            self._keys.dead_letters, "-", "+", 1, newest_first=True
        )
        return CellOverview(
            cell=self._store.cell,
            now_ms=self._now_ms,
            log_entries=await self._command("XLEN", self._keys.log),
            log_retention_ms=int(settings.get("log_retention_ms", "0")),
            backpressure=_words(counters.get("backpressure", "")),
            groups=[
                await self._dispatch(),
                *[await self._set(one.name) for one in load_sets()],
                *await self._archive(),
            ],
            waiting=[
                one for one in [await self._waiting(d, classes) for d in requirements] if one.jobs
            ],
            classes=classes,
            dead=await self._command("XLEN", self._keys.dead_letters),
            dead_newest=_field(newest[0][1], b"reason") if newest else "",
        )

    async def _clock(self) -> int:
        """The cell's now, as its scripts would say it."""
        clock = await self._store.read_clock()
        if clock.is_manual:
            return clock.last_ms
        seconds, micros = await self._store.transport.command("TIME", key=self._keys.clock)
        now = int(seconds) * 1_000 + int(micros) // 1_000 + clock.offset_ms
        return max(now, clock.last_ms)

    async def _dispatch(self) -> SetBehind:
        """`work` is trimmed as it is dispatched: what is in it is what is left."""
        oldest = await self._store.read_range(self._keys.dispatch, "-", "+", 1)
        return SetBehind(
            group="dispatch",
            stream="dispatch",
            entries=await self._distances.of_dispatch(),
            ms=self._age(oldest[0][0]) if oldest else 0,
            is_held=True,
        )

    async def _set(self, name: str) -> SetBehind:
        views = ProjectionStore(self._store.transport, self._store.cell)
        return await self._behind(name, await views.checkpoint(name))

    async def _archive(self) -> list[SetBehind]:
        """The archive, if the cell has one, is behind by what is not sealed."""
        kept = await self._store.read_hash(self._keys.archive)
        return [await self._behind(ARCHIVE, kept["to"])] if kept else []

    async def _behind(self, name: str, checkpoint: str) -> SetBehind:
        views = ProjectionStore(self._store.transport, self._store.cell)
        ahead = await views.read_log(checkpoint, 1)
        active = await self._store.read_hash(self._keys.lease(name))
        return SetBehind(
            group=name,
            stream="log",
            entries=await self._distances.of_set(name),
            ms=self._age(ahead[0][0]) if ahead else 0,
            is_held=int(active.get("until", "0")) > self._now_ms,
        )

    async def _waiting(self, requirement: str, classes: list[ClassSeen]) -> Waiting:
        source, target, joined = requirement.split(":", 2)
        features = _words(joined)
        jobs, oldest = 0, ""
        for priority in range(3):
            key = self._keys.waiting(priority, requirement)
            jobs += await self._command("ZCARD", key)
            members = await self._command("ZRANGE", key, 0, LOOKED_MAX - 1)
            oldest = min([oldest] * bool(oldest) + [one.decode() for one in members], default="")
        is_declared = any(
            source in one.sources and target in one.targets and set(features) <= set(one.features)
            for one in classes
        )
        return Waiting(
            source=source,
            target=target,
            features=features,
            jobs=jobs,
            oldest_ms=await self._waited(oldest.partition(":")[2]),
            reason="NO_AVAILABLE_NODE" if is_declared else "NO_POOL_FOR_LANG_PAIR",
        )

    async def _waited(self, job_key: str) -> int:
        """How long a job has waited for this slot: since `queue_timeout_ms` before its deadline."""
        if not job_key:
            return 0
        deadline = await self._command("ZSCORE", self._keys.timers, f"wait|{job_key}")
        settings = await self._store.read_hash(self._keys.settings)
        if deadline is None:
            return 0  # it has got its slot meanwhile
        return max(0, self._now_ms - int(float(deadline)) + int(settings["queue_timeout_ms"]))

    async def _class(self, class_id: str) -> ClassSeen:
        kept = await self._store.read_hash(self._keys.node_class(class_id))
        names = await self._members(self._keys.members(class_id))
        return ClassSeen(
            id=class_id,
            sources=_words(kept.get("sources", "")),
            targets=_words(kept.get("targets", "")),
            features=_words(kept.get("features", "")),
            suspended=_words(kept.get("suspended", "")),
            nodes=[await self._node(name) for name in names],
        )

    async def _node(self, name: str) -> NodeSeen:
        kept = await self._store.read_hash(self._keys.node(name))
        leases = self._keys.leases(name, int(kept.get("epoch", "0")))
        return NodeSeen(
            node=self._keys.full(name),
            status=kept.get("status", "gone"),
            slots=int(kept.get("slots", "0")),
            live=await self._command("ZCARD", leases),
            reported_load=int(kept.get("load", "0") or 0),
            seen_ms=max(0, self._now_ms - int(kept.get("seen", "0") or 0)),
            version=kept.get("version", ""),
        )

    async def _members(self, key: str) -> list[str]:
        return sorted(one.decode() for one in await self._command("SMEMBERS", key))

    async def _command(self, name: str, key: str, *more: str | int) -> Any:
        return await self._store.transport.command(name, key, *more, key=key)

    def _age(self, entry_id: str) -> int:
        return max(0, self._now_ms - ms_of(entry_id))


def _words(joined: str) -> list[str]:
    return [word for word in joined.split(",") if word]


def _field(flat: list[bytes], name: bytes) -> str:
    return fields_of(flat).get(name, b"").decode(errors="replace")
