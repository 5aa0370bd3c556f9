"""Where a request comes from: the origin of a page, the subprotocol of a socket, this machine.

Owns: these checks, before a token counts. Never does: authenticate. Read next: app.py.

Browsers name the origin of the page in `Origin`; programs send none. A page of another origin could
otherwise use what a browser holds for the gateway.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import HTTPConnection

from eventsched.errors import Forbidden, InvalidMessage
from eventsched.gateway.authentication import SUBPROTOCOL
from eventsched.gateway.config import GatewayConfig
from eventsched.gateway.logins import origin_of
from eventsched.telemetry.local_request import is_local_request


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
    if origin.lower() != origin_of(connection):
        raise Forbidden(f"pages of the origin {origin!r:.200} may not use this gateway")


def is_local(connection: HTTPConnection, config: GatewayConfig) -> bool:
    """Whether the client is a program on this machine that asks this gateway by a name of its own.

    With proxies, the address of a client is what a proxy says: then no client is local.
    """
    if connection.client is None or config.proxies:
        return False
    names = ("localhost", config.host.lower())
    return is_local_request(connection.client.host, connection.headers, names)
