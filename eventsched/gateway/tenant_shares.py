"""How much of something that costs memory or time each tenant may have at a gateway.

Owns: the rule of a share, the count of each tenant, the refusal of a further one.
Never does: what is counted. Read next: event_stream.py and producer_socket.py (the callers),
connection_limits.py (the same rule for connections).

A tenant may have as many as are free: one tenant gets half, two tenants get a third each, and some
are free for a tenant that comes later.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from eventsched.errors import EventschedError

RETRY_MS = 5_000


class TooManyOfTenant(EventschedError):
    """Raised when a tenant has its share of something at this gateway."""

    retry_after_ms = RETRY_MS


class TooManyStreams(TooManyOfTenant):
    """Raised when a tenant has as many streams of events as it may have at this gateway."""


class TooManyDetectors(TooManyOfTenant):
    """Raised when a tenant has as many sockets with endpointing as it may have at this gateway."""


class TenantShares:
    """The shares of all tenants of one gateway.

    Args:
        most: How many there may be in all.
        refusal: The exception for a further one.
        what: The name of what is counted, in the plural, for the message.
        remedy: What the client can do, for the message.
    """

    def __init__(
        self, most: int, refusal: type[TooManyOfTenant], *, what: str, remedy: str
    ) -> None:
        self._most = most
        self._refusal = refusal
        self._what = what
        self._remedy = remedy
        self._counts: dict[str, int] = {}

    @property
    def count(self) -> int:
        """How many there are in all."""
        return sum(self._counts.values())

    def count_of(self, owner: str) -> int:
        """Return how many the owner has."""
        return self._counts.get(owner, 0)

    @contextmanager
    def take(self, owner: str) -> Iterator[None]:
        """Count one for the owner while the block runs. Raises the exception of the refusal."""
        count = self.count_of(owner)
        if count >= self._most - self.count:
            raise self._refusal(
                f"{count} {self._what} are open, and the others are for other tenants: "
                f"{self._remedy}"
            )
        self._counts[owner] = count + 1
        try:
            yield
        finally:
            self._counts[owner] -= 1
            if not self._counts[owner]:
                del self._counts[owner]
