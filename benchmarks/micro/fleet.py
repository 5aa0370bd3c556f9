"""The processes that a benchmark measures: roles, and a node whose handler does nothing.

Owns: starting them as anybody would, and the facts that a benchmark waits for.
Never does: measure. Read next: noop.py, projecting.py, jobs.py.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import anyio

from benchmarks.micro.figures import BenchFailed
from benchmarks.micro.load import SLOTS_MAX
from benchmarks.micro.stage import Stage
from eventsched.client.client import connect
from eventsched.client.session import Session
from eventsched.schema.ids import START
from eventsched.store.cell import Store
from eventsched.subprocesses import Children, children

POLL_S = 0.02
STALLED_S = 60.0
NODE = "noop"


class Fleet:
    """One cell's processes; they end when the block of `fleet_of` does."""

    def __init__(self, stage: Stage, store: Store, processes: Children) -> None:
        self._store = store
        self._processes = processes

    @property
    def pids(self) -> list[int]:
        return self._processes.pids

    async def roles(self, *names: str) -> int:
        """`eventsched run …` is running; its process."""
        await self._processes.start("eventsched.cli", "--quiet", "run", *names)
        return self.pids[-1]

    async def projector(self) -> None:
        """Session and group views are folded, up to what the log holds now."""
        await self._processes.start("benchmarks.micro.projecting")
        await self.until_folded()

    async def node(self) -> None:
        """A node with as many slots as there may be has registered."""
        full_id = self._store.keys.full(NODE)
        await self._processes.start("benchmarks.micro.noop", full_id, str(SLOTS_MAX))
        await until(self._is_registered, "the node is registered")

    async def until_delivered(self) -> None:
        """Nothing is left to place, waits for a slot or holds one."""
        await until(self._is_done, "all jobs are delivered")

    async def until_folded(self) -> None:
        await until(self._is_folded, "views have caught up")

    async def _is_registered(self) -> bool:
        return bool(await self._store.read_hash(self._store.keys.node(NODE)))

    async def _is_done(self) -> bool:
        keys, ask = self._store.keys, self._store.transport.command
        leases = keys.leases(NODE, 1)
        return not (
            await ask("XLEN", keys.dispatch, key=keys.dispatch)
            or await ask("SCARD", keys.requirements, key=keys.requirements)
            or await ask("ZCARD", leases, key=leases)
        )

    async def _is_folded(self) -> bool:
        key = self._store.keys.checkpoint("core")
        folded = await self._store.transport.command("GET", key, key=key)
        last_id = await self._store.last_id(self._store.keys.log)
        return (folded.decode() if folded else START) == last_id


@asynccontextmanager
async def fleet_of(stage: Stage, store: Store) -> AsyncIterator[Fleet]:
    async with children(stage.folder / "log", stage.url) as processes:
        yield Fleet(stage, store, processes)


@asynccontextmanager
async def live_sessions(
    stage: Stage, count: int
) -> AsyncIterator[tuple[Store, Fleet, list[Session]]]:
    """So many open sessions of this process, and all that serves them beside it: a dispatcher with
    a timer, a projector and a node. Nobody waits for the sessions' close."""
    async with stage.fresh() as connection:
        (store,) = connection.stores.values()
        async with fleet_of(stage, store) as fleet:
            await fleet.roles("dispatcher", "timer")
            await fleet.projector()
            await fleet.node()
            async with connect(stage.url) as es, AsyncExitStack() as stack:
                sessions = [
                    await stack.enter_async_context(es.session("bench", "en", ["es"]))
                    for _ in range(count)
                ]
                for session in sessions:
                    session.detach()
                yield store, fleet, sessions


async def until(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    """Returns when it holds; BenchFailed when it does not for long."""
    ends_at = time.monotonic() + STALLED_S
    while not await holds():
        if time.monotonic() > ends_at:
            raise BenchFailed(f"not within {STALLED_S:.0f} s: {what}")
        await anyio.sleep(POLL_S)
