"""The logins of browsers: the claims of each cookie's value, and the name of the cookie.

Owns: the values that are valid, the origin of each, the name and the path of the cookie.
Never does: I/O. Read next: login.py (sets the cookie), authentication.py (reads it).

Browsers send a cookie to every port of a host. So the name has the port, and several gateways of a
machine keep their own cookies. The value is no token: it is valid only at the gateway that made it,
and only in requests for the origin at which it was made, until the logout or the end of its token.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

LOGINS_MAX = 1_000
COOKIE = "eventsched"
COOKIE_BYTES_MAX = 8_192
"""Bytes of a header with cookies in which the login is looked for."""
_PORTS = {"http": 80, "https": 443}


class Logins:
    """The logins of one gateway.

    Args:
        base_path: Path below which the gateway serves; empty for none.
        clock_s: Unix time.
    """

    def __init__(self, base_path: str = "", *, clock_s: Callable[[], float] = time.time) -> None:
        self.path = f"{base_path}/"
        """Path of the cookie."""
        self._clock_s = clock_s
        self._logins: dict[str, tuple[str, str, int]] = {}
        """Value of the cookie -> token, origin, end."""

    def add(self, token: str, connection: HTTPConnection, end_s: int) -> str:
        """Return the value of the cookie for a token, at the origin of this request.

        Args:
            token: The token.
            connection: The request.
            end_s: Unix time at which the token expires.
        """
        value = secrets.token_urlsafe(24)
        self._logins[value] = token, origin_of(connection), end_s
        if len(self._logins) > LOGINS_MAX:
            del self._logins[next(iter(self._logins))]
        return value

    def token_of(self, connection: HTTPConnection) -> str | None:
        """Return the token of the login that a request has; None without one."""
        value = self._value_in(connection)
        token, origin, end_s = self._logins.get(value, ("", "", 0))
        if self._clock_s() >= end_s:
            self._logins.pop(value, None)
            return None
        return token if origin == origin_of(connection) else None

    def remove(self, connection: HTTPConnection) -> None:
        """End the login that a request has."""
        self._logins.pop(self._value_in(connection), None)

    def _value_in(self, connection: HTTPConnection) -> str:
        """Return the value of the cookie in a request; empty without one.

        The parser of Python's library takes seconds for a quoted value of 64 KiB before 3.11.10 and
        3.12.6, in the event loop and before any token. A value of ours is never quoted.
        """
        name = self.name_for(connection)
        for header in connection.headers.getlist("cookie"):
            for part in header[:COOKIE_BYTES_MAX].split(";"):
                key, _, value = part.partition("=")
                if key.strip() == name and value.strip() in self._logins:
                    return value.strip()
        return ""

    def name_for(self, connection: HTTPConnection) -> str:
        """Return the name of the cookie at the origin of a request.

        Over TLS, browsers take a name with `__Host-` or `__Secure-` from the same host by TLS only.
        """
        scheme, _, host = origin_of(connection).partition("://")
        try:
            port = urlsplit(f"//{host}").port
        except ValueError:
            port = None
        prefix = ""
        if scheme == "https":
            prefix = "__Host-" if self.path == "/" else "__Secure-"
        return f"{prefix}{COOKIE}_{port or _PORTS[scheme]}"


def origin_of(connection: HTTPConnection) -> str:
    """Return scheme, host and port for which a request asks, as the client sees them."""
    scheme = "https" if connection.url.scheme in ("https", "wss") else "http"
    return f"{scheme}://{connection.headers.get('host', '').lower()}"
