"""The trimmer: removes the oldest log entries up to the safe point.

Owns: when to call lua/trim_log.lua, which computes the safe point, and when to clean up the session
indexes. Any number may run.
Must not: decide which entries may be removed. Read next: lua/trim_log.lua.
"""

from __future__ import annotations

import structlog

from eventsched.archive.commands import ArchiveCommands
from eventsched.projection.store import ProjectionStore
from eventsched.store.retry import Backoff

TRIM_S = 5.0
"""Interval between two steps."""
CALLS_MAX = 200
"""Script calls of one step, enough for two million entries."""
INDEX_CLEANUP_ENTRIES = 50_000
"""Session indexes are cleaned up after so many trimmed entries, or when no more are trimmed."""

log = structlog.get_logger("eventsched.trimming")


class Trimmer:
    """Trims the log of one cell."""

    def __init__(self, store: ProjectionStore) -> None:
        self._store = store
        self._commands = ArchiveCommands(store)
        self._since_index_cleanup = 0

    async def step(self) -> int:
        """Trim everything that may be trimmed now; return the number of removed entries."""
        count = 0
        for _ in range(CALLS_MAX):
            trimmed = await self._commands.trim()
            count += trimmed.count
            if not trimmed.is_more:
                break
        self._since_index_cleanup += count
        if self._since_index_cleanup >= INDEX_CLEANUP_ENTRIES or (
            self._since_index_cleanup and not count
        ):
            dropped = await self._commands.drop_session_indexes()
            log.debug("indexes cleaned up", cell=self._store.cell, dropped=dropped)
            self._since_index_cleanup = 0
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
