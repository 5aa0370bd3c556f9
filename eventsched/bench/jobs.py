"""`bench jobs`: how fast finalized utterances are worked off, to the last delivery.

Owns: the processes of a drain (dispatcher, node, projector) and its clock, which is the log's: from
the dispatcher's first decision to the last delivery.
Never does: measure one job's way (latency.py). Read next: noop.py, projecting.py.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar

import anyio

from eventsched import codec
from eventsched.bench.figures import BenchFailed, Figures, Report, Round
from eventsched.bench.load import finalize_utterances, open_sessions
from eventsched.bench.measure import metering
from eventsched.bench.stage import Bench, Stage
from eventsched.events import JobDispatched, JobQueued, ResultDelivered
from eventsched.processes import Children, children
from eventsched.store import Store

POLL_S = 0.02
STALLED_S = 120.0
READ_COUNT = 1_000
NODE = "c0.noop"
PROJECTORS: dict[str, Sequence[str]] = {
    "session and group projected": ("eventsched.bench.projecting",),
    "no projector": (),
    "all four views projected": ("eventsched.cli", "run", "projector"),
}


class Jobs(Bench, frozen=True, kw_only=True):
    """One dispatcher process, one node process with a handler that does nothing."""

    name: ClassVar = "jobs"
    what: ClassVar = "utterances finalized beforehand: the dispatcher's start -> the last delivery"
    scales: ClassVar = ("sessions",)

    sessions: int = 500
    utterances: int = 20
    slots: int = 256

    async def run(self, stage: Stage) -> Report:
        async def one() -> Round:
            return Round({
                part: await self._measure(stage, program) for part, program in PROJECTORS.items()
            })  # fmt: skip

        return await stage.report(self, one)

    async def _measure(self, stage: Stage, projector: Sequence[str]) -> Figures:
        count = self.sessions * self.utterances
        async with stage.fresh() as connection, children(stage.folder / "log") as fleet:
            (store,) = connection.stores.values()
            sessions = await open_sessions(store, self.sessions)
            await finalize_utterances(store, sessions, range(self.utterances))
            if projector:
                await self._project(stage, store, fleet, projector)
            await fleet.start("eventsched.bench.noop", stage.url, NODE, str(self.slots))
            await until(lambda: _is_registered(store), "the node is registered")
            begun = await store.last_id(store.keys.log)
            async with metering(stage.redis, fleet.pids) as cost:
                await fleet.start("eventsched.cli", "--url", stage.url, "run", "dispatcher")
                cost.watch(fleet.pids[-1])  # from here: its start-up is no job's
                await until(lambda: _is_done(store), "all jobs are delivered")
                if projector:
                    await until(lambda: _is_folded(store), "views have caught up")
            seconds, queued = await _drained(store, begun, count)
        return cost.per_item(count, seconds=seconds) | {"queued_percent": 100 * queued / count}

    async def _project(
        self, stage: Stage, store: Store, fleet: Children, program: Sequence[str]
    ) -> None:
        module, *rest = program
        place = [stage.url] if not rest else ["--url", stage.url]
        await fleet.start(module, *place, *rest)
        await until(lambda: _is_folded(store), "views have caught up")


async def _is_registered(store: Store) -> bool:
    return bool(await store.read_hash(store.keys.node(NODE.partition(".")[2])))


async def _is_done(store: Store) -> bool:
    """Nothing is left to place, waits for a slot or holds one."""
    keys, ask = store.keys, store.transport.command
    return not (
        await ask("XLEN", keys.work, key=keys.work)
        or await ask("SCARD", keys.demands, key=keys.demands)
        or await ask("ZCARD", leases := keys.leases("noop", 1), key=leases)
    )


async def _is_folded(store: Store) -> bool:
    checkpoint = store.keys.checkpoint("core")
    folded = await store.transport.command("GET", checkpoint, key=checkpoint)
    return bool(folded) and folded.decode() == await store.last_id(store.keys.log)


async def until(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    """Returns when it holds; BenchFailed when it does not for long."""
    ends_at = time.monotonic() + STALLED_S
    while not await holds():
        if time.monotonic() > ends_at:
            raise BenchFailed(f"not within {STALLED_S:.0f} s: {what}")
        await anyio.sleep(POLL_S)


async def _drained(store: Store, begun: str, count: int) -> tuple[float, int]:
    """Seconds from the first decision to the last delivery, and how many jobs had to queue."""
    first_ms = last_ms = delivered = queued = 0
    while entries := await store.read_range(store.keys.log, f"({begun}", "+", READ_COUNT):
        for entry_id, fields in entries:
            event, ms = codec.decode(entry_id, fields), int(entry_id.partition("-")[0])
            if isinstance(event.data, JobDispatched | JobQueued):
                first_ms = first_ms or ms
                queued += isinstance(event.data, JobQueued)
            elif isinstance(event.data, ResultDelivered):
                last_ms, delivered = ms, delivered + (event.data.outcome == "result")
        begun = entries[-1][0]
    if delivered != count:
        raise BenchFailed(f"{delivered} of {count} results were delivered")
    return max(1, last_ms - first_ms) / 1_000, queued
