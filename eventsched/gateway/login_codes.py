"""One-time codes, each of which a browser exchanges for a token.

Owns: how long a code is valid, how many codes exist at the same time. Never does: I/O.
Read next: login.py.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from eventsched.errors import Unauthenticated

CODE_S = 60.0
CODES_MAX = 100


class LoginCodes:
    """The codes that are valid and not used."""

    def __init__(self, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._tokens: dict[str, tuple[str, float]] = {}
        """Code -> its token, and the time at which the code expires."""

    def add(self, token: str) -> str:
        """Return a new code for a token."""
        code = secrets.token_urlsafe(24)
        self._tokens[code] = token, self._clock_s() + CODE_S
        if len(self._tokens) > CODES_MAX:
            del self._tokens[next(iter(self._tokens))]
        return code

    def take(self, code: str) -> str:
        """Return the token of a code, and delete the code. Raises Unauthenticated."""
        token, end_s = self._tokens.pop(code, ("", 0.0))
        if not token or self._clock_s() >= end_s:
            raise Unauthenticated("the code is used or older than a minute: ask for a new one")
        return token
