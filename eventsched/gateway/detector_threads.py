"""The threads in which speech detectors of a gateway run.

Owns: how many threads run at the same time, of all tenants and of one.
Never does: detect speech. Read next: speech_chunks.py (the caller), tenant_turns.py.

A detector needs a core for each sixteen voices in real time. A tenant that sends audio faster than
real time could occupy all cores, so one thread is left for the other tenants.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

from anyio import CapacityLimiter, to_thread

from eventsched.gateway.tenant_turns import TenantTurns

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class DetectorThreads:
    """The threads of one gateway.

    Args:
        count: Threads that run at the same time, at least 1.
    """

    def __init__(self, count: int) -> None:
        self._limiter = CapacityLimiter(count)
        self._turns = TenantTurns(max(1, count - 1))

    async def run(self, tenant: str, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call the function in a thread, in the order of the tenant's calls."""
        async with self._turns.turn(tenant):
            return await to_thread.run_sync(function, *args, limiter=self._limiter)
