"""The trimmer: removes the oldest log entries up to the safe point.

Owns: when to call lua/trim_log.lua, which computes the safe point, and
lua/drop_session_indexes.lua. Any number may run.
Must not: decide which entries may be removed. Read next: lua/trim_log.lua.
"""

from __future__ import annotations

from eventsched.archive.commands import ArchiveCommands
from eventsched.logs import get_logger
from eventsched.projection.store import ProjectionStore
from eventsched.store.retry import Backoff

TRIM_S = 5.0
"""Interval between two steps."""
CALLS_MAX = 200
"""Script calls of one step, enough for two million entries."""

log = get_logger("eventsched.trimming")


class Trimmer:
    """Trims the log of one cell."""

    def __init__(self, store: ProjectionStore) -> None:
        self._store = store
        self._commands = ArchiveCommands(store)

    async def step(self) -> int:
        """Trim everything that may be trimmed now; return the number of removed entries.

        Every step drops the session indexes that have ended, also those of trimmed entries after
        which another trimmer has stopped.
        """
        count = 0
        for _ in range(CALLS_MAX):
            trimmed = await self._commands.trim()
            count += trimmed.count
            if not trimmed.is_more:
                break
        await self._commands.trim_node_indexes()
        if dropped := await self._commands.drop_session_indexes():
            log.debug("session indexes dropped", cell=self._store.cell, indexes=dropped)
        if count:
            log.info("trimmed", cell=self._store.cell, entries=count)
        return count

    async def run(self) -> None:
        """Trim until cancelled."""
        transport = self._store.transport
        backoff = Backoff(transport, log, role="trimmer", cell=self._store.cell)
        while True:
            async with backoff.attempt():
                await self.step()
                await transport.sleep(TRIM_S)
