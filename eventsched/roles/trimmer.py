"""Trimming: the log's beginning goes, to the safe point and no further.

Owns: when to ask lua/trim_log.lua, which knows the safe point; and that indexes follow.
Never does: decide what may go. Any number may run. Read next: lua/trim_log.lua.
"""

from __future__ import annotations

import structlog

from eventsched.archive.commands import ArchiveCommands
from eventsched.projection.store import ProjectionStore
from eventsched.store.retry import Backoff

ASK_S = 5.0
CALLS_MAX = 200
"""In one step: two million entries."""
TRAILS_AFTER = 50_000
"""IndexEntries are looked through when so many entries have gone, or when nothing more goes."""

log = structlog.get_logger("eventsched.trimming")


class Trimmer:
    """Serves one cell."""

    def __init__(self, views: ProjectionStore) -> None:
        self._views = views
        self._calls = ArchiveCommands(views)
        self._since_index_cleanup = 0

    async def step(self) -> int:
        """All that may go now has gone. Returns how many entries."""
        count = 0
        for _ in range(CALLS_MAX):
            trimmed = await self._calls.trim()
            count += trimmed.count
            if not trimmed.is_more:
                break
        self._since_index_cleanup += count
        if self._since_index_cleanup >= TRAILS_AFTER or (self._since_index_cleanup and not count):
            dropped = await self._calls.drop_session_indexes()
            log.debug("indexes", cell=self._views.cell, dropped=dropped)
            self._since_index_cleanup = 0
        if count:
            log.info("trimmed", cell=self._views.cell, entries=count)
        return count

    async def run(self) -> None:
        """Until cancelled."""
        transport = self._views.transport
        backoff = Backoff(transport, log, role="trimming", cell=self._views.cell)
        while True:
            async with backoff.attempt():
                await self.step()
                await transport.sleep(ASK_S)
