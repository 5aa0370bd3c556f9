"""Whether calls of the server succeed, checked at most once a second.

Owns: the check, and how long its reply is valid. Read next: health.py.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import anyio

from eventsched.errors import ServerUnavailable
from eventsched.store.connection import Connection

CHECK_S = 2.0
"""How long the server may take to answer."""
VALID_S = 1.0
"""Anybody may ask, and a check calls every cell: one check answers all requests of a second."""


class Readiness:
    """The readiness of one gateway."""

    def __init__(
        self, connection: Connection, *, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._connection = connection
        self._clock_s = clock_s
        self._lock = anyio.Lock()
        self._checked_s = -math.inf
        self._problem = ""

    async def problem(self) -> str:
        """Return why a call would fail; empty if calls succeed."""
        async with self._lock:
            if self._clock_s() - self._checked_s >= VALID_S:
                self._problem = await self._check()
                self._checked_s = self._clock_s()
            return self._problem

    async def _check(self) -> str:
        with anyio.move_on_after(CHECK_S):
            try:
                for store in self._connection.stores.values():
                    await store.keep_alive([])  # a call of a function that changes nothing
            except ServerUnavailable:
                return "the server cannot be used"
            return ""
        return "the server does not answer"
