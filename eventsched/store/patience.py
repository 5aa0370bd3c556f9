"""What the roles share: patience with a server that is away.

Owns: `Patience`, the pause before the next try, and the log lines that say so once.
Read next: roles/dispatcher.py, roles/timer.py, roles/projector.py.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from eventsched.errors import ServerUnavailable
from eventsched.store.transport import Transport

PAUSE_S_MIN, PAUSE_S_MAX = 0.05, 2.0


class Patience:
    """Bounded, jittered pauses while the server is away; never a busy loop."""

    def __init__(self, transport: Transport, log: Any, **who: str) -> None:
        self._transport = transport
        self._log = log
        self._who = who
        self._tries = 0

    @asynccontextmanager
    async def with_server(self) -> AsyncIterator[None]:
        """One try. After one that found no server: a pause, twice as long each time."""
        try:
            yield
        except ServerUnavailable as error:
            if not self._tries:
                self._log.warning("server away, trying again", **self._who, error=str(error))
            pause = min(PAUSE_S_MIN * 2**self._tries, PAUSE_S_MAX)
            self._tries = min(self._tries + 1, 10)
            await self._transport.sleep(pause * random.uniform(0.5, 1.0))
        else:
            if self._tries:
                self._log.warning("server is back", **self._who)
            self._tries = 0
