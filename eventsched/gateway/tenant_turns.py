"""Lets the work of one tenant wait for its other work, so that it does not occupy a gateway.

Owns: how many turns a tenant has at the same time, the order in which its work gets them.
Never does: the work. Read next: read_limit.py and detector_threads.py (the callers).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio


class TenantTurns:
    """The turns of all tenants.

    Args:
        at_once: Turns that one tenant has at the same time.
    """

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._queues: dict[str, _Queue] = {}

    def count(self, tenant: str) -> int:
        """Return how many turns of the tenant run or wait."""
        queue = self._queues.get(tenant)
        return queue.count if queue else 0

    @asynccontextmanager
    async def turn(self, tenant: str) -> AsyncIterator[None]:
        """Wait for a turn of the tenant; the block is the turn."""
        queue = self._queues.setdefault(tenant, _Queue(self._at_once))
        queue.count += 1
        try:
            async with queue.turns:
                yield
        finally:
            queue.count -= 1
            if not queue.count:
                del self._queues[tenant]


class _Queue:
    """The turns of one tenant."""

    def __init__(self, at_once: int) -> None:
        self.turns = anyio.Semaphore(at_once)
        self.count = 0
        """Turns that run or wait."""
