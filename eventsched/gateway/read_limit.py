"""How much history the bearers of tokens may read at the same time.

Owns: the limits of a tenant's reads, and the refusal of a further one.
Never does: read. Read next: tenant_turns.py; reading.py and event_stream.py (use it).

A page reads up to 10,000 entries, whatever it shows, so one tenant that asks for many pages could
occupy the gateway and the server. Reads of one tenant wait for each other; those of others do not.

A reply is whole in memory until its peer has taken it. So the replies of one tenant that are not
taken have a limit, too: a further read begins when one of them is sent, or its connection ends.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import wraps
from typing import TYPE_CHECKING, TypeAlias

from starlette.requests import Request
from starlette.responses import Response

from eventsched.errors import EventschedError
from eventsched.gateway.access import share_of
from eventsched.gateway.tenant_turns import TenantTurns
from eventsched.tokens.claims import Claims

if TYPE_CHECKING:
    from eventsched.gateway.service import Gateway

READS_MAX = 2
"""Reads of one tenant at the same time."""
REPLIES_MAX = 8
"""Reads of one tenant that run, or whose replies are not sent."""
QUEUE_MAX = 64
"""Reads of one tenant that wait; a further one is refused."""
AllSent: TypeAlias = Callable[[], Awaitable[None]]
Read: TypeAlias = Callable[[Request, "Gateway", Claims], Awaitable[Response]]


class TooManyReads(EventschedError):
    """Raised when as many reads of a tenant wait as may wait."""


class ReadLimit:
    """The reads of one gateway, by tenant; a token for all tenants counts by its subject."""

    def __init__(self) -> None:
        self.turns = TenantTurns(READS_MAX)
        self.replies = TenantTurns(REPLIES_MAX)

    @asynccontextmanager
    async def turn(self, claims: Claims, *, is_stream: bool = False) -> AsyncIterator[None]:
        """Wait until the bearer may read.

        Args:
            claims: The claims of the bearer.
            is_stream: A stream of events reads: it waits however many others wait.

        Raises:
            TooManyReads: Too many reads of the tenant wait.
        """
        name = share_of(claims)
        if self.turns.count(name) >= READS_MAX + QUEUE_MAX and not is_stream:
            raise _too_many(claims)
        async with self.turns.turn(name):
            yield

    @asynccontextmanager
    async def reply(self, claims: Claims, all_sent: AllSent) -> AsyncIterator[None]:
        """Wait until the bearer may get a further reply; the block reads and writes it.

        Args:
            claims: The claims of the bearer.
            all_sent: Waits until the peer has taken what was written, or is gone.

        Raises:
            TooManyReads: Too many reads of the tenant wait.
        """
        name = share_of(claims)
        if self.replies.count(name) >= REPLIES_MAX + QUEUE_MAX:
            raise _too_many(claims)
        async with self.replies.turn(name):
            yield
            await all_sent()


def _too_many(claims: Claims) -> TooManyReads:
    return TooManyReads(f"{QUEUE_MAX} requests of {claims.tenant} wait: send fewer at once")


def in_turn(read: Read) -> Read:
    """Let a route wait for the other reads of the bearer's tenant, and for their replies."""

    @wraps(read)
    async def limited(request: Request, gateway: Gateway, claims: Claims) -> Response:
        state = request.state  # app.py leaves the block of `until_sent` after the reply
        reply = gateway.reads.reply(claims, state.all_sent)
        await state.until_sent.enter_async_context(reply)
        async with gateway.reads.turn(claims):
            return await read(request, gateway, claims)

    return limited
