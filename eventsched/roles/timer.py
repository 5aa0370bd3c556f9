"""The timer role: calls the timer script at every due time.

Owns: when to call: at the next due time, but every 50 ms at least, and at once while a timer is
due. Any number may run: each timer is fired by exactly one call.
Must not: decide anything. Read next: lua/fire_timers.lua.
"""

from __future__ import annotations

from eventsched.logs import get_logger
from eventsched.store.cell import Store
from eventsched.store.retry import Backoff
from eventsched.store.role_commands import TimerReply

log = get_logger("eventsched.roles.timer")
CALL_MS_MAX = 50
"""The longest pause between two calls."""


class Timer:
    """Fires the timers of one cell."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def step(self) -> TimerReply:
        """Call the script once."""
        reply = await self._store.fire_timers()
        if reply.fired:
            log.debug("fired", cell=self._store.cell, timers=reply.fired)
        return reply

    async def run(self) -> None:
        """Fire timers until cancelled. Overdue timers fire in order, a bounded number a call."""
        backoff = Backoff(self._store.transport, log, role="timer", cell=self._store.cell)
        while True:
            async with backoff.attempt():
                pause = pause_ms(await self.step())
                if pause:
                    await self._store.transport.sleep(pause / 1000)


def pause_ms(reply: TimerReply) -> int:
    """Milliseconds until the next call: 0 to 50."""
    if reply.next_ms is None:
        return CALL_MS_MAX
    return min(max(reply.next_ms - reply.now_ms, 0), CALL_MS_MAX)
