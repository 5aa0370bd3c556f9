"""Whether calls of the server succeed.

Owns: the check. Read next: health.py, reading_cache.py (how long a check is valid).
"""

from __future__ import annotations

import anyio

from eventsched.errors import ServerUnavailable
from eventsched.store.connection import Connection

CHECK_S = 2.0
"""How long the server may take to answer."""


async def find_problem(connection: Connection) -> str:
    """Return why a call would fail; empty if calls succeed."""
    with anyio.move_on_after(CHECK_S):
        try:
            for store in connection.stores.values():
                await store.keep_alive([])  # a call of a function that changes nothing
        except ServerUnavailable:
            return "the server cannot be used"
        return ""
    return "the server does not answer"
