"""The dispatcher role: waits for entries in the dispatch stream and calls the dispatch script.

Owns: when to call. The script reads, decides and trims in one step, so any number of dispatchers
may run and each may stop at any point.
Must not: decide anything, keep state. Read next: lua/dispatch_jobs.lua.
"""

from __future__ import annotations

import secrets

from eventsched.logs import get_logger
from eventsched.schema.ids import START
from eventsched.store.cell import Store
from eventsched.store.retry import Backoff
from eventsched.store.role_commands import DispatchReply

log = get_logger("eventsched.roles.dispatcher")
WAIT_MS = 2_000
"""How long to wait for a new entry before the next call."""
PRESENCE_LEASE_MS = 2 * WAIT_MS
"""How long a call renews the dispatcher's presence lease. While it lasts and the dispatch stream is
empty, a call that finalizes an utterance dispatches its jobs (lua/include/eager_dispatch.lua)."""
PAUSE_MS_MAX = 2
"""Pause after a call whose jobs all had to wait for a slot; proportionally less after others."""


def pause_s(reply: DispatchReply) -> float:
    """How long to let nodes free their slots before more entries are dispatched.

    A job that waits in the queue costs the server twice as much as a job that gets a slot at once.
    """
    return reply.waiting / reply.jobs * PAUSE_MS_MAX / 1_000 if reply.left and reply.jobs else 0.0


class Dispatcher:
    """Dispatches the jobs of one cell.

    Args:
        store: The cell.
        consumer: Name of this dispatcher as consumer of the group `dispatch`; random by default.
    """

    def __init__(self, store: Store, *, consumer: str | None = None) -> None:
        self._store = store
        self._consumer = consumer or secrets.token_hex(8)
        self._last_id = START

    async def step(self) -> DispatchReply:
        """Call the script once. It dispatches a bounded number of entries."""
        reply = await self._store.dispatch_jobs(PRESENCE_LEASE_MS, self._consumer)
        if reply.last_id != START:
            self._last_id = reply.last_id
            log.debug("dispatched", cell=self._store.cell, jobs=reply.jobs, left=reply.left)
        return reply

    async def wait(self) -> None:
        """Wait for an entry after the last one that the script read, at most WAIT_MS.

        Reading from `$` would miss an entry that is appended between the call and the wait.
        """
        key = self._store.keys.dispatch
        await self._store.transport.read_blocking({key: self._last_id}, WAIT_MS, 1)

    async def run(self) -> None:
        """Dispatch until cancelled; retry with backoff while the server is unavailable."""
        backoff = Backoff(self._store.transport, log, role="dispatcher", cell=self._store.cell)
        while True:
            async with backoff.attempt():
                reply = await self.step()
                if not reply.left:
                    await self.wait()
                elif pause := pause_s(reply):
                    await self._store.transport.sleep(pause)
