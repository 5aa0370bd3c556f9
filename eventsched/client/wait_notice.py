"""The log line about a call that waits although nothing can end its wait.

Owns: when to look for a dispatcher and a node, and the text of the line, once for each cell.
Must not: decide anything, or end a wait.
Read next: subscription.py (which calls wait), logs.py (lines on standard error).
"""

from __future__ import annotations

from eventsched.errors import ServerRefused
from eventsched.logs import get_logger
from eventsched.store.cell import Store
from eventsched.store.role_commands import PRESENCE_MS

LOOK_AFTER_S = 5
"""Duration of a wait after which the notice looks for a dispatcher and a node."""
LOOK_EVERY_S = 60
"""Interval between two looks during one wait."""
NO_DISPATCHER = "no dispatcher runs, so no job starts: run `eventsched up` on this server"
NO_NODE = (
    "no node is registered, so no job starts: run `eventsched node MODULE:NODE` on this server"
)

log = get_logger("eventsched.client.wait_notice")


class WaitNotice:
    """Says once why calls of a client wait for outcomes of one cell."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._is_over = False

    async def look(self, waited_s: int) -> None:
        """Log the reason if a wait of this length is due for a look, and has a reason.

        Args:
            waited_s: Whole seconds since the longest wait began; it is called once a second.
        """
        past_s = waited_s - LOOK_AFTER_S
        if self._is_over or past_s < 0 or past_s % LOOK_EVERY_S:
            return
        try:
            reason = await missing_service(self._store)
        except ServerRefused as error:  # the access list of a producer need not allow these reads
            log.debug("services not read", cell=self._store.cell, error=str(error))
            self._is_over = True
            return
        if reason:
            log.warning(reason, cell=self._store.cell)
            self._is_over = True


async def missing_service(store: Store) -> str:
    """Return what a cell lacks for starting jobs, with the remedy; empty if it lacks nothing."""
    oldest_ms = await store.read_now() - PRESENCE_MS
    if not any(
        each.role == "dispatcher" and each.state != "ended" and each.seen_ms >= oldest_ms
        for each in await store.read_presence()
    ):
        return NO_DISPATCHER
    classes = store.keys.classes
    has_node = await store.transport.command("EXISTS", classes, key=classes)
    return "" if has_node else NO_NODE
