"""The timer role: asks the timer script again and again.

Owns: when to ask: at the next due time, at most 50 ms later than now; at once while something is
due. Any number may run: each timer is taken by exactly one call.
Never does: decisions. Read next: lua/fire_timers.lua.
"""

from __future__ import annotations

import structlog

from eventsched.store.cell import Store
from eventsched.store.retry import Backoff
from eventsched.store.role_commands import TimerReply

log = structlog.get_logger("eventsched.roles.timer")
ASK_MS_MAX = 50


class Timer:
    """Serves one cell."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def step(self) -> TimerReply:
        """One call of the script."""
        reply = await self._store.fire_timers()
        if reply.fired:
            log.debug("fired", cell=self._store.cell, timers=reply.fired)
        return reply

    async def run(self) -> None:
        """Until cancelled. A late timer catches up in order, a bounded number a call."""
        backoff = Backoff(self._store.transport, log, role="timer", cell=self._store.cell)
        while True:
            async with backoff.attempt():
                pause_ms = pause_until(await self.step())
                if pause_ms:
                    await self._store.transport.sleep(pause_ms / 1000)


def pause_until(reply: TimerReply) -> int:
    """Milliseconds until it is worth asking again: 0 to 50."""
    if reply.next_ms is None:
        return ASK_MS_MAX
    return min(max(reply.next_ms - reply.now_ms, 0), ASK_MS_MAX)
