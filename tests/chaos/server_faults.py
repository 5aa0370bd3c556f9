"""Faults of servers, and what an operator may do to them.

Owns: killing, freezing, failing over, restarting in turn, moving the slot, scripts that do not end,
full memory, flushed functions, unblocked clients. One such fault occurs at a time.
Must not: draw (faults.py). Read next: topologies.py, slots.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

import anyio
import redis
from anyio.to_thread import run_sync

from eventsched.server.discovery import Binary
from eventsched.server.testing import LocalServer
from tests.chaos import slots
from tests.chaos.commands import call, info
from tests.chaos.faults import Fault
from tests.chaos.topologies import Cluster, Topology

PRIMARY_SHARE = 0.75
"""The share of faults that affect the primary of the cell; the others affect any server."""
FREE_SHARE = 0.99
"""maxmemory, as a share of the memory in use."""
BUSY_AFTER_MS = 200


class ServerFaults:
    """Causes faults in the servers of a topology.

    Args:
        topology: the servers.
        server_turn: held while a server changes.
        upgrade: the program to which the first rolling restart moves the servers, if any.
        done: counts what was done.
    """

    def __init__(
        self,
        topology: Topology,
        server_turn: anyio.Lock,
        upgrade: Binary | None,
        done: Counter[str],
    ) -> None:
        self._topology = topology
        self._server_turn = server_turn
        self._upgrade = upgrade
        self._done = done
        actions = {
            "restart_server": self._restart,
            "freeze_server": self._freeze,
            "failover": self._fail_over,
            "rolling_restart": self._restart_all,
            "move_slot": self._move_slot,
            "unblock": self._unblock,
            "busy_script": self._run_endless_script,
            "memory": self._fill_memory,
            "flush_functions": self._flush_functions,
        }
        self.actions = {kind: self._in_turn(action) for kind, action in actions.items()}

    def _in_turn(
        self, action: Callable[[Fault], Awaitable[None]]
    ) -> Callable[[Fault], Awaitable[None]]:
        async def run(fault: Fault) -> None:
            async with self._server_turn:
                await action(fault)

        return run

    # --- processes ------------------------------------------------------------------------------

    async def _pick(self, fault: Fault) -> LocalServer:
        primary = await run_sync(self._topology.primary)
        if fault.pick < PRIMARY_SHARE:
            return primary
        servers = self._topology.servers
        return servers[int((fault.pick - PRIMARY_SHARE) / (1 - PRIMARY_SHARE) * len(servers))]

    async def _restart(self, fault: Fault) -> None:
        server = await self._pick(fault)
        self._done["restarted server"] += 1
        await run_sync(server.kill)
        await anyio.sleep(fault.seconds)
        await run_sync(self._topology.start_again, server)

    async def _freeze(self, fault: Fault) -> None:
        server = await self._pick(fault)
        self._done["froze server"] += 1
        server.pause()
        try:
            await anyio.sleep(fault.seconds)
        finally:
            server.resume()

    # --- planned changes ------------------------------------------------------------------------

    async def _fail_over(self, fault: Fault) -> None:
        by_hand, cuts = fault.strength < 0.5, fault.pick < 0.5

        def exchange() -> None:
            self._topology.fail_over(self._topology.primary(), by_hand=by_hand, cuts=cuts)

        await run_sync(exchange)
        self._done["failed over"] += 1

    async def _restart_all(self, fault: Fault) -> None:
        """Restart each server in turn; the first time with the program of the upgrade."""
        binary = self._upgrade or self._topology.binary
        name = "rolling restart" if binary == self._topology.binary else "rolling upgrade"
        by_hand, cuts = fault.strength < 0.5, fault.pick < 0.5

        def restart() -> None:
            self._topology.rolling_restart(binary, by_hand=by_hand, cuts=cuts)

        await run_sync(restart)
        self._done[name] += 1

    async def _move_slot(self, fault: Fault) -> None:
        cluster = self._topology
        assert isinstance(cluster, Cluster)

        def move() -> str:
            cluster.wait_until_stable()
            source = cluster.primary()
            targets = [server for server in cluster.primaries() if server is not source]
            target = targets[int(fault.pick * len(targets))]
            if fault.strength < 0.5 and slots.moves_by_server(source):
                is_moved = slots.move_by_server(cluster, source, target)
                return "the server moved the slot" if is_moved else "the server moved no slot"
            slots.move_by_keys(cluster, source, target, fault.seconds)
            return "moved the slot by keys"

        self._done[await run_sync(move)] += 1

    # --- commands of an operator ----------------------------------------------------------------

    async def _unblock(self, fault: Fault) -> None:
        """End all blocking reads with an error."""

        def unblock() -> int:
            return sum(_unblock_all(server) for server in self._topology.primaries())

        self._done["unblocked clients"] += await run_sync(unblock)

    async def _run_endless_script(self, fault: Fault) -> None:
        server = await run_sync(self._topology.primary)
        self._done["ran an endless script"] += 1
        await run_sync(call, server, "CONFIG", "SET", "busy-reply-threshold", BUSY_AFTER_MS)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run_sync, _run_endless_script, server)
            await anyio.sleep(BUSY_AFTER_MS / 1_000 + fault.seconds)
            await run_sync(call, server, "SCRIPT", "KILL")
        await run_sync(call, server, "CONFIG", "SET", "busy-reply-threshold", 5_000)

    async def _fill_memory(self, fault: Fault) -> None:
        """Set the limit below the memory in use; in some faults the functions are gone, too."""
        server = await run_sync(self._topology.primary)
        self._done["filled memory"] += 1
        used = int((await run_sync(info, server, "memory"))["used_memory"])
        await run_sync(call, server, "CONFIG", "SET", "maxmemory", int(used * FREE_SHARE))
        try:
            if fault.strength < 0.5:
                await run_sync(call, server, "FUNCTION", "FLUSH")
            await anyio.sleep(fault.seconds)
        finally:
            await run_sync(call, server, "CONFIG", "SET", "maxmemory", 0)

    async def _flush_functions(self, fault: Fault) -> None:
        self._done["flushed functions"] += 1
        server = await run_sync(self._topology.primary)
        await run_sync(call, server, "FUNCTION", "FLUSH")


def _unblock_all(server: LocalServer) -> int:
    return sum(int(call(server, "CLIENT", "UNBLOCK", each, "ERROR")) for each in _blocked(server))


def _blocked(server: LocalServer) -> Iterable[str]:
    for client in call(server, "CLIENT", "LIST").splitlines():
        fields = dict(field.partition("=")[::2] for field in client.split())
        if "b" in fields["flags"]:
            yield fields["id"]


def _run_endless_script(server: LocalServer) -> None:
    with suppress(redis.ResponseError):  # SCRIPT KILL ends it
        call(server, "EVAL", "while true do end", 0)
