"""Causes the faults of a plan at their times, and ends them.

Owns: the order of time; which part causes which kind.
Read next: process_faults.py, network_faults.py, server_faults.py, access_faults.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import anyio
import structlog

from eventsched.server.discovery import Binary
from tests.chaos.access_faults import AccessFaults
from tests.chaos.faults import Fault
from tests.chaos.fleet import Fleet
from tests.chaos.network_faults import ProxyFaults
from tests.chaos.process_faults import ProcessFaults
from tests.chaos.proxy import Proxy
from tests.chaos.server_faults import ServerFaults
from tests.chaos.topologies import Topology

log = structlog.get_logger("chaos")


class FaultInjector:
    """Causes faults in a fleet, its proxies and its servers."""

    def __init__(
        self,
        fleet: Fleet,
        topology: Topology,
        proxies: Sequence[Proxy],
        upgrade: Binary | None,
    ) -> None:
        self.done: Counter[str] = Counter()
        """How often each thing was done."""
        server_turn = anyio.Lock()
        self.actions: dict[str, Callable[[Fault], Awaitable[None]]] = {
            **ProcessFaults(fleet, self.done).actions,
            **ProxyFaults(proxies, self.done).actions,
            **ServerFaults(topology, server_turn, upgrade, self.done).actions,
            **AccessFaults(topology, server_turn, self.done).actions,
        }

    async def run(self, faults: Sequence[Fault]) -> None:
        """Return when every fault has occurred and ended."""
        begins = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            for fault in faults:
                await anyio.sleep(max(0.0, begins + fault.at_s - anyio.current_time()))
                tasks.start_soon(self._cause, fault)

    async def _cause(self, fault: Fault) -> None:
        log.info("fault", kind=fault.kind, at_s=round(fault.at_s, 1), s=round(fault.seconds, 1))
        await self.actions[fault.kind](fault)
        log.debug("fault has ended", kind=fault.kind)
