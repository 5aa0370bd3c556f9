"""The connection classes of uvicorn, with limits for peers that do not send, read or answer.

Owns: the limits of frames and pings, the time for a request to arrive, the number of connections,
`abort`.
Never does: interpret requests or frames. Read next: socket.py and event_stream.py (the callers of
`abort`), docs/adr/0025-gateway.md.

`transport.close()` waits until everything written is sent, which never happens if the peer is gone
or does not read. Until then the connection keeps its buffers, and its handler waits. `abort` drops
both at once. uvicorn offers no such call, so the classes put it into the state of each request.

A connection needs a file descriptor before its token can be checked. So a request must arrive
within REQUEST_S, and at the limit of connections a new one replaces the connection that has waited
longest for its request. A client that sends its request at once is served also while others connect
and send nothing.
"""

from __future__ import annotations

import resource
from asyncio import BaseTransport, TimerHandle, Transport
from collections.abc import Callable
from typing import Any, cast

import h11
import structlog
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

FRAME_BYTES_MAX = 4 + 512_000
"""The largest frame of any socket; a larger one closes the connection with 1009."""
PING_S = 8.0
PONG_S = 8.0
REQUEST_S = 10.0
"""How long a request, or a TLS handshake, may take to arrive."""
SEND_S = 10.0
"""A peer that takes nothing of a reply for so long is dropped."""
IDLE_CONNECTIONS_MAX = 1_000
"""Connections beside the sockets and streams of a gateway."""
RESERVED_PART = 8
"""One file descriptor of so many is for the server, the log and the archive."""
FEW = 2_000
"""A gateway that may have fewer connections warns."""
REMIND_S = 60.0
_ABORT = "eventsched.abort"

log = structlog.get_logger("eventsched.gateway")


def connections_max(sockets_max: int) -> int:
    """Return how many connections a gateway may have, and let the process open as many files.

    Args:
        sockets_max: Sockets and streams that the gateway is configured for.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = (sockets_max + IDLE_CONNECTIONS_MAX) * RESERVED_PART // (RESERVED_PART - 1) + 1
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        soft = allowed
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return sockets_max + IDLE_CONNECTIONS_MAX
    most = soft - soft // RESERVED_PART
    if most < FEW:
        log.warning("few file descriptors: raise the limit `nofile`", limit=soft, connections=most)
    return most


class Connections(ServerState):
    """The connections of a gateway, and those whose request has not arrived.

    Args:
        most: Greatest number of connections.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.waiting: dict[GatewayHttpProtocol, TimerHandle] = {}
        """Connections whose request has not arrived, oldest first, with the end of their time."""
        self._logged_s = -REMIND_S

    def await_request(self, protocol: GatewayHttpProtocol) -> None:
        """Give a connection REQUEST_S for its next request."""
        timer = protocol.loop.call_later(REQUEST_S, protocol.transport.abort)
        self.waiting[protocol] = timer

    def end_wait(self, protocol: GatewayHttpProtocol) -> None:
        """The request has arrived, or the connection has ended."""
        if timer := self.waiting.pop(protocol, None):
            timer.cancel()

    def make_room(self, now_s: float) -> None:
        """At the limit, drop the connection that has waited longest for its request."""
        if len(self.connections) <= self.most:
            return
        oldest = next(iter(self.waiting))
        self.end_wait(oldest)
        self.connections.discard(oldest)
        oldest.transport.abort()
        if now_s - self._logged_s >= REMIND_S:
            self._logged_s = now_s
            log.warning("too many connections: dropped one that sent no request", limit=self.most)


class GatewayHttpProtocol(H11Protocol):
    """One HTTP connection. A WebSocket connection begins as one, and inherits its state."""

    server_state: Connections

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Let the handlers of this connection abort it, and wait for its first request."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, _ABORT: transport.abort}
        self._unsent = 0
        self._send_timer: TimerHandle | None = None
        # Writing is paused by everything that is not sent. With 0, TLS would pause it for ever.
        transport.set_write_buffer_limits(high=1)
        self.server_state.await_request(self)
        self.server_state.make_room(self.loop.time())

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self.server_state.end_wait(self)
        self._end_sending()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request have arrived."""
        super().data_received(data)
        self._update_wait()

    def on_response_complete(self) -> None:
        """A response is sent: the next request may come."""
        super().on_response_complete()
        self._update_wait()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """The connection becomes a socket, whose handler limits the time to send."""
        self._end_sending()
        super().handle_websocket_upgrade(event)

    def pause_writing(self) -> None:
        """A part of a reply waits for the peer."""
        super().pause_writing()
        self._unsent = self.transport.get_write_buffer_size()
        self._send_timer = self.loop.call_later(SEND_S, self._check_sending)

    def resume_writing(self) -> None:
        """Everything is sent."""
        super().resume_writing()
        self._end_sending()

    def _check_sending(self) -> None:
        """Abort the connection if its peer has taken nothing since the last check."""
        unsent = self.transport.get_write_buffer_size()
        if unsent >= self._unsent:
            self.transport.abort()
            return
        self._unsent = unsent
        self._send_timer = self.loop.call_later(SEND_S, self._check_sending)

    def _end_sending(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def _update_wait(self) -> None:
        """Start or end the wait for a request."""
        is_upgraded = self.transport.get_protocol() is not self
        is_partial = self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        if is_upgraded or self.transport.is_closing() or not is_partial:
            self.server_state.end_wait(self)
        elif self not in self.server_state.waiting:
            self.server_state.await_request(self)


class GatewayWebSocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket connection."""

    def connection_made(self, transport: BaseTransport) -> None:
        """Let frames wait in the transport's own buffer again."""
        super().connection_made(transport)
        self.transport.set_write_buffer_limits()

    def keepalive_timeout(self) -> None:
        """The peer has not answered a ping: nothing that is written would arrive."""
        super().keepalive_timeout()
        self.transport.abort()


def abort_of(scope: Any) -> Callable[[], None]:
    """Return the function that aborts the connection of a request."""
    return cast("Callable[[], None]", scope["state"][_ABORT])
