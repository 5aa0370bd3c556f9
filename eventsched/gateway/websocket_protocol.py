"""The WebSocket protocol of uvicorn, with a way to end a connection whose peer does not read.

Owns: the limits of frames and pings, `abort`. Never does: interpret frames.
Read next: socket.py (the caller of `abort`), docs/adr/0028-gateway.md.

`transport.close()` waits until everything written is sent, which never happens if the peer is gone
or does not read. Until then the connection keeps its buffers, and its handler waits. `abort` drops
both at once. uvicorn offers no such call, so the protocol puts it into the scope.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

FRAME_BYTES_MAX = 4 + 512_000
"""The largest frame of any socket; a larger one closes the connection with 1009."""
PING_S = 8.0
PONG_S = 8.0
ABORT = "eventsched.abort"


class GatewayWebSocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket connection."""

    scope: Any

    def handle_connect(self, event: Request) -> None:
        """Start the handler, and let it abort the connection."""
        super().handle_connect(event)
        if hasattr(self, "scope"):  # the handshake was acceptable
            self.scope["state"][ABORT] = self.transport.abort

    def keepalive_timeout(self) -> None:
        """The peer has not answered a ping: nothing that is written would arrive."""
        super().keepalive_timeout()
        self.transport.abort()
