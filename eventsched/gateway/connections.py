"""The connection classes of uvicorn, with a way to end one whose peer does not read.

Owns: the limits of frames and pings, `abort`. Never does: interpret requests or frames.
Read next: socket.py and event_stream.py (the callers of `abort`), docs/adr/0025-gateway.md.

`transport.close()` waits until everything written is sent, which never happens if the peer is gone
or does not read. Until then the connection keeps its buffers, and its handler waits. `abort` drops
both at once. uvicorn offers no such call, so the classes put it into the state of each request.
"""

from __future__ import annotations

from asyncio import Transport
from collections.abc import Callable
from typing import Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

FRAME_BYTES_MAX = 4 + 512_000
"""The largest frame of any socket; a larger one closes the connection with 1009."""
PING_S = 8.0
PONG_S = 8.0
_ABORT = "eventsched.abort"


class GatewayHttpProtocol(H11Protocol):
    """One HTTP connection. A WebSocket connection begins as one, and inherits its state."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Let the handlers of this connection abort it."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, _ABORT: transport.abort}


class GatewayWebSocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket connection."""

    def keepalive_timeout(self) -> None:
        """The peer has not answered a ping: nothing that is written would arrive."""
        super().keepalive_timeout()
        self.transport.abort()


def abort_of(scope: Any) -> Callable[[], None]:
    """Return the function that aborts the connection of a request."""
    return cast("Callable[[], None]", scope["state"][_ABORT])
