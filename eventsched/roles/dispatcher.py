"""The dispatcher role: waits for work and calls the dispatch script.

Owns: waiting and calling, nothing else: reading, deciding and trimming happen inside the
script, so any number of dispatchers may run and any of them may die anywhere.
Never does: decisions, state. Read next: lua/dispatch_jobs.lua.
"""

from __future__ import annotations

import structlog

from eventsched.schema.ids import START
from eventsched.store.cell import Store
from eventsched.store.retry import Backoff
from eventsched.store.role_commands import DispatchReply

log = structlog.get_logger("eventsched.roles.dispatcher")
WAIT_MS = 2_000
BACK_MS = 2 * WAIT_MS
"""For so long after each call it counts as being there: whoever finalizes meanwhile, while nothing
waits in `work`, gives the job away in the same step (lua/include/eager_dispatch.lua)."""


PAUSE_MS_MAX = 2
"""After a call whose jobs all found their nodes full; after others in proportion."""


def pause_s(reply: DispatchReply) -> float:
    """How long to let nodes free slots before more is taken out of `work`.

    A job that goes through the queue costs the server twice what one costs that finds a slot.
    """
    return reply.waiting / reply.jobs * PAUSE_MS_MAX / 1_000 if reply.left and reply.jobs else 0.0


class Dispatcher:
    """Serves one cell."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen = START

    async def step(self) -> DispatchReply:
        """One call of the script."""
        reply = await self._store.dispatch_jobs(BACK_MS)
        if reply.last_id != START:
            self._seen = reply.last_id
            log.debug("dispatched", cell=self._store.cell, jobs=reply.jobs, left=reply.left)
        return reply

    async def wait(self) -> None:
        """Until an entry after the last one that the script read, or a bounded while.

        Never from `$`: what was appended between the call and the wait would be missed.
        """
        work = self._store.keys.dispatch
        await self._store.transport.read_blocking({work: self._seen}, WAIT_MS, 1)

    async def run(self) -> None:
        """Until cancelled. A server that is away is waited for, with bounded jittered pauses."""
        backoff = Backoff(self._store.transport, log, role="dispatcher", cell=self._store.cell)
        while True:
            async with backoff.attempt():
                reply = await self.step()
                if not reply.left:
                    await self.wait()
                elif pause := pause_s(reply):
                    await self._store.transport.sleep(pause)
