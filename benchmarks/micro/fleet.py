"""The processes that a benchmark measures: roles, and a node whose handler does nothing.

Owns: starting them with the command line, and the conditions that a benchmark waits for.
Never does: measure. Read next: noop.py, projecting.py, jobs.py.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import msgspec

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
    """The processes of one cell; they end with the block of `fleet_of`."""

    def __init__(self, stage: Stage, store: Store, processes: Children) -> None:
        self._store = store
        self._processes = processes

    @property
    def pids(self) -> list[int]:
        return self._processes.pids

    async def roles(self, *names: str) -> int:
        """Start `eventsched run …` with these roles and return its process id."""
        await self._processes.start("eventsched.cli", "--quiet", "run", *names)
        return self.pids[-1]

    async def projector(self) -> None:
        """Start a projector of session and group views and wait until it has caught up."""
        await self._processes.start("benchmarks.micro.projecting")
        await self.until_folded()

    async def gateway(self, keys: Path, *options: str) -> str:
        """Start a gateway that accepts tokens of these keys, and return its URL."""
        words = ("--listen", "127.0.0.1:0", "--token-keys", str(keys), "--json", *options)
        line = await self._processes.start("eventsched.cli", "--quiet", "run", "gateway", *words)
        return str(msgspec.json.decode(line)["gateway"])

    async def echo(self) -> str:
        """Start an echo server, and return its URL."""
        return await self._processes.start("benchmarks.micro.echo")

    async def node(self) -> None:
        """Start a node with the maximum number of slots and wait until it is registered."""
        full_id = self._store.keys.full(NODE)
        await self._processes.start("benchmarks.micro.noop", full_id, str(SLOTS_MAX))
        await until(self._is_registered, "the node is registered")

    async def until_delivered(self) -> None:
        """Wait until the dispatch queue is empty, no job waits, no slot is in use, and no result is
        held.
        """
        await until(self._is_done, "all jobs are delivered")

    async def until_folded(self) -> None:
        """Wait until the views have caught up with the log."""
        await until(self._is_folded, "views have caught up")

    async def _is_registered(self) -> bool:
        return bool(await self._store.read_hash(self._store.keys.node(NODE)))

    async def _is_done(self) -> bool:
        keys, command = self._store.keys, self._store.transport.command
        leases = keys.leases(NODE, 1)
        return not (
            await command("XLEN", keys.dispatch, key=keys.dispatch)
            or await command("HLEN", keys.requirements, key=keys.requirements)
            or await command("ZCARD", leases, key=leases)
            or await self._has_held_results()
        )

    async def _has_held_results(self) -> bool:
        """Whether a timer waits to deliver results that come after others."""
        cursor, key = 0, self._store.keys.timers
        while True:
            cursor, found = await self._store.transport.command(
                "ZSCAN", key, cursor, "MATCH", "gap|*", "COUNT", 1_000, key=key
            )
            if found or not int(cursor):
                return bool(found)

    async def _is_folded(self) -> bool:
        key = self._store.keys.checkpoint("core")
        checkpoint = await self._store.transport.command("GET", key, key=key)
        last_id = await self._store.last_id(self._store.keys.log)
        return (checkpoint.decode() if checkpoint else START) == last_id


@asynccontextmanager
async def fleet_of(stage: Stage, store: Store) -> AsyncIterator[Fleet]:
    """Yield a fleet without processes; all that are started end with the block."""
    async with children(stage.folder / "log", stage.url) as processes:
        yield Fleet(stage, store, processes)


@asynccontextmanager
async def live_sessions(
    stage: Stage, count: int
) -> AsyncIterator[tuple[Store, Fleet, list[Session]]]:
    """Yield open sessions of this process, and the processes that serve them.

    These are a dispatcher with a timer, a projector and a node. The sessions are not closed.
    """
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


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait until the condition is true. Raises BenchFailed with `what` after `STALLED_S`."""
    ends_at = time.monotonic() + STALLED_S
    while not await condition():
        if time.monotonic() > ends_at:
            raise BenchFailed(f"not within {STALLED_S:.0f} s: {what}")
        await anyio.sleep(POLL_S)
