"""How much history the bearers of tokens may read at the same time.

Owns: the limit of concurrent reads of a tenant, the queue before it.
Never does: read. Read next: reading.py and event_stream.py (use it).

A page reads up to 10,000 entries, whatever it shows, so one tenant that asks for many pages could
occupy the gateway and the server. Reads of one tenant wait for each other; those of others do not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import wraps
from typing import TYPE_CHECKING, TypeAlias

import anyio
from starlette.requests import Request
from starlette.responses import Response

from eventsched.errors import EventschedError
from eventsched.tokens.claims import ALL_TENANTS, Claims

if TYPE_CHECKING:
    from eventsched.gateway.service import Gateway

READS_MAX = 2
"""Reads of one tenant at the same time."""
QUEUE_MAX = 64
"""Reads of one tenant that wait; a further one is refused."""
Read: TypeAlias = Callable[[Request, "Gateway", Claims], Awaitable[Response]]


class TooManyReads(EventschedError):
    """Raised when as many reads of a tenant wait as may wait."""


class ReadLimit:
    """The reads of one gateway, by tenant; a token for all tenants counts by its subject."""

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}

    @asynccontextmanager
    async def turn(self, claims: Claims, *, is_stream: bool = False) -> AsyncIterator[None]:
        """Wait until the bearer may read.

        Args:
            claims: The claims of the bearer.
            is_stream: A stream of events reads: it waits however many others wait.

        Raises:
            TooManyReads: Too many reads of the tenant wait.
        """
        name = claims.tenant if claims.tenant != ALL_TENANTS else f"*{claims.sub}"
        queue = self._queues.setdefault(name, _Queue())
        if queue.count >= READS_MAX + QUEUE_MAX and not is_stream:
            raise TooManyReads(f"{QUEUE_MAX} requests of {claims.tenant} wait: send fewer at once")
        queue.count += 1
        try:
            async with queue.turns:
                yield
        finally:
            queue.count -= 1
            if not queue.count:
                del self._queues[name]


class _Queue:
    """The reads of one tenant."""

    def __init__(self) -> None:
        self.turns = anyio.Semaphore(READS_MAX)
        self.count = 0
        """Reads that run or wait."""


def in_turn(read: Read) -> Read:
    """Let a route wait for the other reads of the bearer's tenant."""

    @wraps(read)
    async def limited(request: Request, gateway: Gateway, claims: Claims) -> Response:
        async with gateway.reads.turn(claims):
            return await read(request, gateway, claims)

    return limited
