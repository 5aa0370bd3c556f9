"""Whether a page may open a socket: the subprotocol and the origin of the request.

Owns: these two checks, before the upgrade. Never does: authenticate. Read next: app.py.

Browsers name the origin of the page in `Origin`; programs send none. A page of another origin could
otherwise use what a browser holds for the gateway.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from eventsched.errors import Forbidden, InvalidMessage
from eventsched.gateway.authentication import SUBPROTOCOL


def check_handshake(connection: HTTPConnection, origins: Sequence[str]) -> None:
    """Check the request of a socket. Raises InvalidMessage or Forbidden."""
    check_origin(connection, origins)
    if SUBPROTOCOL not in connection.scope.get("subprotocols", ()):
        raise InvalidMessage.of(
            "Sec-WebSocket-Protocol", f"{SUBPROTOCOL} expected", "offer this subprotocol"
        )


def check_origin(connection: HTTPConnection, origins: Sequence[str]) -> None:
    """Check the origin of a page, if the request has one. Raises Forbidden."""
    origin = connection.headers.get("origin")
    if origin is None or origin in origins:
        return
    parts = urlsplit(origin)
    if parts.scheme not in ("http", "https") or parts.netloc != connection.headers.get("host"):
        raise Forbidden(f"pages of the origin {origin!r:.200} may not use this gateway")
