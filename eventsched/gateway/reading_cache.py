"""A reading of the server that answers all requests of a second.

Owns: how long a reading is valid, and that one request at a time renews it.
Never does: read. Read next: health.py and metrics.py (the callers).
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import anyio

VALID_S = 1.0
"""A reading calls every cell, and anybody may ask: many requests cost the server as much as one."""
T = TypeVar("T")


class ReadingCache(Generic[T]):
    """The last reading.

    Args:
        read: Reads anew. Its exceptions go to the request that has called it, and are not stored.
    """

    def __init__(self, read: Callable[[], Awaitable[T]]) -> None:
        self._read = read
        self._lock = anyio.Lock()
        self._last: tuple[float, T] | None = None
        """Time and value of the last reading."""

    async def value(self) -> T:
        """Return a reading that is at most VALID_S old."""
        async with self._lock:
            if self._last is None or time.monotonic() - self._last[0] >= VALID_S:
                value = await self._read()
                self._last = time.monotonic(), value
            return self._last[1]

    def forget(self) -> None:
        """Let the next request read anew."""
        self._last = None
