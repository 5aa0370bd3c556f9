"""Finds the token of a request and verifies it.

Owns: where a token may be (header, subprotocol, cookie), the limit of bad tokens of an address.
Never does: decide what a role may do. Read next: access.py, tokens/verify.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from starlette.requests import HTTPConnection

from eventsched.errors import EventschedError, Unauthenticated
from eventsched.gateway.logins import Logins
from eventsched.tokens.claims import Claims
from eventsched.tokens.verify import Verifier

SUBPROTOCOL = "eventsched.v1"
_BEARER = "bearer."
FAILURES_MAX = 30
"""Bad tokens that one address may show in a minute; further ones are refused with 429. A valid
token is always accepted: many clients may share one address, that of a proxy."""
ADDRESSES_MAX = 10_000
MINUTE_S = 60.0


class TooManyFailures(EventschedError):
    """Raised when an address shows too many bad tokens in a minute."""


class Authenticated(NamedTuple):
    """Who sends a request."""

    claims: Claims
    is_by_cookie: bool
    """Whether the cookie says so: a browser adds it to requests by itself."""


class Authenticator:
    """Verifies the tokens of requests."""

    def __init__(
        self, verifier: Verifier, logins: Logins, *, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._verifier = verifier
        self._logins = logins
        self._clock_s = clock_s
        self._failures: dict[str, tuple[float, int]] = {}
        """Address -> start of its minute, bad tokens in it."""

    async def authenticate(self, connection: HTTPConnection) -> Authenticated:
        """Return who sends a request, by what.

        Raises:
            Unauthenticated: There is no token, or it is not acceptable.
            TooManyFailures: The address shows too many bad tokens in a minute.
            TokenKeyError: No public keys can be read.
        """
        token = token_of(connection)
        is_by_cookie = token is None
        if token is None:
            token = self._logins.token_of(connection)
        if token is None:
            raise Unauthenticated("a token expected: Authorization: Bearer TOKEN")
        return Authenticated(await self.verify(token, connection), is_by_cookie)

    async def verify(self, token: str, connection: HTTPConnection) -> Claims:
        """Return the claims of a token of this request. Raises the errors of `authenticate`."""
        address = connection.client.host if connection.client else ""
        try:
            return await self._verifier.verify(token)
        except Unauthenticated:
            if self._count_failure(address) > FAILURES_MAX:
                raise TooManyFailures(
                    f"{FAILURES_MAX} bad tokens in a minute: wait a minute"
                ) from None
            raise

    def _count_failure(self, address: str) -> int:
        """Count a bad token; return the number of bad tokens of the address in this minute."""
        now_s = self._clock_s()
        start_s, count = self._failures.pop(address, (now_s, 0))
        if now_s - start_s >= MINUTE_S:
            start_s, count = now_s, 0
        self._failures[address] = start_s, count + 1
        if len(self._failures) > ADDRESSES_MAX:
            del self._failures[
                next(iter(self._failures))
            ]  # the address whose last failure is oldest
        return count + 1


def token_of(connection: HTTPConnection) -> str | None:
    """Return the token that a client has put into a request; None without one.

    Programs send the header `Authorization`. Browsers cannot, so on a socket they offer the
    subprotocol `bearer.<token>` beside `eventsched.v1`. Pages of the gateway itself have a cookie.
    """
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    for offered in connection.scope.get("subprotocols", ()):
        if offered.startswith(_BEARER):
            return str(offered.removeprefix(_BEARER))
    return None
