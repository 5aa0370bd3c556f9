"""Retries while the server is unavailable, with bounded, jittered pauses.

Owns: `Backoff`, for calls that fail after some tries and for loops that never do; waiting for an
event with a timeout. All waiting uses the transport's time.
Must not: decide what may be repeated. Callers pass calls that have no second effect.
Read next: transport.py.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio
import structlog

from eventsched.errors import ServerUnavailable
from eventsched.store.transport import Transport

T = TypeVar("T")
PAUSE_S_MIN, PAUSE_S_MAX = 0.05, 2.0
CALL_PAUSE_S_MAX = 1.0
TRIES = 12
"""With the pauses between them about eight seconds: longer than a cluster's failover."""
_log = structlog.get_logger("eventsched.store.retry")


class Backoff:
    """Exponential backoff from 50 ms up to a bound; the jitter is up to half of each pause.

    `call` repeats a call a bounded number of times. `attempt` is one iteration of an endless
    loop; it logs a line when the server becomes unavailable and a line when the server is back.
    """

    def __init__(self, transport: Transport, log: Any = _log, **context: str) -> None:
        self._transport = transport
        self._log = log
        self._context = context
        self._failures = 0

    async def call(self, call: Callable[[], Awaitable[T]], *, tries: int = TRIES) -> T:
        """Return the reply of a repeatable call. Raises ServerUnavailable after the last try."""
        for _ in range(tries - 1):
            try:
                return await call()
            except ServerUnavailable:
                await self._pause(CALL_PAUSE_S_MAX)
        return await call()

    @asynccontextmanager
    async def attempt(self) -> AsyncIterator[None]:
        """Run the block once. If the server is unavailable, log the error and pause."""
        try:
            yield
        except ServerUnavailable as error:
            if not self._failures:
                self._log.warning("server away, trying again", **self._context, error=str(error))
            await self._pause(PAUSE_S_MAX)
        else:
            if self._failures:
                self._log.warning("server is back", **self._context)
            self._failures = 0

    async def _pause(self, pause_s_max: float) -> None:
        pause_s = min(PAUSE_S_MIN * 2**self._failures, pause_s_max)
        self._failures = min(self._failures + 1, 10)
        await self._transport.sleep(pause_s * random.uniform(0.5, 1.0))


async def happens_within(transport: Transport, seconds: float, event: anyio.Event) -> bool:
    """Whether the event is set within this many seconds of the transport's time."""
    async with anyio.create_task_group() as tasks:

        async def time_out() -> None:
            await transport.sleep(seconds)
            tasks.cancel_scope.cancel()

        tasks.start_soon(time_out)
        await event.wait()
        tasks.cancel_scope.cancel()
    return event.is_set()
