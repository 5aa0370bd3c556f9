"""The connection classes of uvicorn, with limits for peers that do not send, read or answer.

Owns: the limits of frames and pings, the time for a request to arrive, the number of file
descriptors, `abort_of`, `all_sent_of`, `end_with_client`, `own_connection`, `pass_chunks`.
Never does: interpret requests or frames. Read next: read_slices.py (when a protocol gets bytes),
connection_limits.py (whose a connection is), send_rate.py, docs/adr/0025-gateway.md.

`transport.close()` waits until everything written is sent, which never happens if the peer is gone
or does not read. Until then the connection keeps its buffers, and its handler waits. `abort` drops
both at once. uvicorn offers no such call, so the classes put it into the state of each request.

A connection needs a file descriptor before its token can be checked. So a request must arrive
within REQUEST_S, and at the limit of connections a new one replaces one without a token. A client
that sends its request at once is served also while others connect and send nothing.
"""

from __future__ import annotations

import asyncio
import resource
from asyncio import AbstractEventLoop, BaseTransport, TimerHandle, Transport
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

import anyio
import h11
from starlette.types import Receive
from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Frame
from websockets.http11 import Request

from eventsched.gateway.chunk_frames import ChunkAcceptor, ChunkFrames
from eventsched.gateway.connection_limits import ConnectionLimits
from eventsched.gateway.frames import Close
from eventsched.gateway.parse_turns import ParseTurns
from eventsched.gateway.peer_log import peer_log
from eventsched.gateway.read_slices import SlicedConnection
from eventsched.gateway.request_parser import RequestParser
from eventsched.gateway.send_rate import SendRate
from eventsched.logs import get_logger

FRAME_BYTES_MAX = 4 + 512_000
"""The largest frame of any socket; a larger one closes the connection with 1009."""
PING_S = 8.0
PONG_S = 8.0
REQUEST_S = 10.0
"""How long a request, or a TLS handshake, may take to arrive."""
UNSENT_BYTES = 65_536
"""A sender waits while more than this waits for the peer of a socket."""
UNSENT_BYTES_MAX = 4 * FRAME_BYTES_MAX
"""A peer that sends pings while more than this waits for it is dropped."""
SMALL_FRAMES_S_MAX = 64
"""Pings, pongs and small fragments of a socket in a second; more close it with 1008."""
SMALL_BYTES = 128
"""A fragment with fewer bytes is small."""
FRAGMENTS_MAX = 1_024
"""Fragments of one message; more close the connection with 1008."""
IDLE_CONNECTIONS_MAX = 1_000
"""Connections beside the sockets and streams of a gateway."""
RESERVED_PART = 8
"""One file descriptor of so many is for the server, the log and the archive."""
FEW = 2_000
"""A gateway that may have fewer connections warns."""
BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_ABORT = "eventsched.abort"
_OWN = "eventsched.own"
_ALL_SENT = "eventsched.all_sent"
_PASS_CHUNKS = "eventsched.pass_chunks"

log = get_logger("eventsched.gateway")


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
        limits: Who may have how many of them.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        super().__init__()
        self.limits = limits
        self.parse_turns = ParseTurns(limits.owner_of, limits.is_owned)
        self._waiting: dict[GatewayHttpProtocol, TimerHandle] = {}
        """Connections whose request has not arrived, with the end of their time."""

    def add(self, transport: Transport) -> None:
        """Count a connection, for which an older one may be dropped."""
        if self.limits.add(transport):
            limit = self.limits.most
            peer_log.warning("too many connections: dropped one without a token", limit=limit)

    def await_request(self, protocol: GatewayHttpProtocol) -> None:
        """Give a connection REQUEST_S for its next request, unless its time runs already."""
        if protocol not in self._waiting:
            timer = protocol.loop.call_later(REQUEST_S, protocol.transport.abort)
            self._waiting[protocol] = timer

    def end_wait(self, protocol: GatewayHttpProtocol) -> None:
        """The request has arrived, or the connection has ended."""
        if timer := self._waiting.pop(protocol, None):
            timer.cancel()


class GatewayHttpProtocol(H11Protocol):
    """One HTTP connection. A WebSocket connection begins as one, and inherits its state."""

    server_state: Connections

    def __init__(
        self,
        config: Config,
        server_state: Connections,
        app_state: dict[str, Any],
        _loop: AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.conn = RequestParser()
        self._is_reply_complete = False
        """Whether a reply has just ended, after which the next request waits for a turn."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Let the handlers of this connection abort it, and wait for its first request."""
        super().connection_made(transport)
        own = partial(self.server_state.limits.own, transport)
        all_sent = self.flow.drain
        self.app_state = {
            **self.app_state, _ABORT: transport.abort, _OWN: own, _ALL_SENT: all_sent,
        }  # fmt: skip
        self._rate = SendRate(transport, self.loop)
        self.server_state.await_request(self)
        self.server_state.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self.server_state.end_wait(self)
        self.server_state.limits.remove(self.transport)
        self._rate.stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request have arrived; those after a last request are not parsed."""
        if self.conn.their_state is h11.MUST_CLOSE:
            return
        super().data_received(data)
        self._update_wait()

    def on_response_complete(self) -> None:
        """A response is written: the next request may come when it is sent."""
        self._is_reply_complete = True
        super().on_response_complete()
        self._is_reply_complete = False
        if self.flow.write_paused:
            self._unset_keepalive_if_required()
        self._update_wait()

    def handle_events(self) -> None:
        """Handle what is parsed; a request that came before the last reply waits for a turn."""
        is_next = self._is_reply_complete and self.conn.trailing_data[0]
        if is_next and isinstance(self.transport, SlicedConnection):
            self.transport.call_in_turn(self._handle_next)
        else:
            super().handle_events()

    def _handle_next(self) -> None:
        super().handle_events()
        self._update_wait()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """The connection becomes a socket, which checks the rate itself."""
        self._rate.stop()
        super().handle_websocket_upgrade(event)
        if isinstance(self.transport, SlicedConnection):
            self.transport.put_back(self.conn.trailing_data[0])

    def send_400_response(self, msg: str) -> None:
        """End the connection, with a reply unless one has begun."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True  # its handler must not reply, too
            cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.abort()

    def pause_writing(self) -> None:
        """A part of a reply waits for the peer."""
        super().pause_writing()
        self._rate.start()
        self._update_wait()

    def resume_writing(self) -> None:
        """Everything is sent."""
        super().resume_writing()
        self._rate.stop()
        self._update_wait()

    def _update_wait(self) -> None:
        """Start or end the wait for a request. While something waits for the peer, its rate counts.

        So a peer that takes a reply slowly has REQUEST_S from the end of the reply on.
        """
        is_upgraded = self.transport.get_protocol() is not self
        is_partial = self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        is_sending = self.flow.write_paused
        if is_upgraded or is_sending or self.transport.is_closing() or not is_partial:
            self.server_state.end_wait(self)
        else:
            self.server_state.await_request(self)


class GatewayWebSocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        app_state[_PASS_CHUNKS] = self._pass_chunks
        self._accept_chunk: ChunkAcceptor | None = None
        self._chunk_frames = ChunkFrames(self._is_accepted, self._parse_frames)
        self._limits = cast("Connections", server_state).limits
        self._small_since_s = self.loop.time()
        self._small = 0
        """Pings, pongs and small fragments since then."""

    def connection_made(self, transport: BaseTransport) -> None:
        """Check the rate at which the peer takes frames."""
        super().connection_made(transport)
        self._rate = SendRate(self.transport, self.loop)
        if self.transport.get_write_buffer_size():
            self._rate.start()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._limits.remove(self.transport)
        self._rate.stop()
        self._accept_chunk = None  # with it goes the audio of the session
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes have arrived: the whole head of the request at first, then frames."""
        if self.handshake_initiated:
            self._chunk_frames.feed(data)
            return
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_complete:
            self._refuse_head()

    def _parse_frames(self, data: bytes) -> None:
        """Let the library parse frames, unless an earlier one has ended the connection."""
        if not self.transport.is_closing():
            super().data_received(data)

    def _refuse_head(self) -> None:
        """End a connection whose head is none of a WebSocket, which uvicorn would leave open.

        The parser has a reply to a line that is too long (8 KiB), and none to a head with a body.
        """
        self.handshake_complete = self.close_sent = True
        reply = b"".join(self.conn.data_to_send())
        self.transport.write(reply or BAD_REQUEST)
        self.transport.close()

    def handle_connect(self, event: Request) -> None:
        """A request has arrived: parse no frame until it is answered."""
        self.transport.pause_reading()
        super().handle_connect(event)

    def pause_writing(self) -> None:
        """Something waits for the peer. Senders wait from UNSENT_BYTES on."""
        self._rate.start()
        self._let_senders_wait()

    def resume_writing(self) -> None:
        """Everything is sent."""
        self._rate.stop()
        super().resume_writing()

    async def send(self, message: ASGISendEvent) -> None:
        """Send a message; wait before while much waits for the peer."""
        await self.writable.wait()
        before = self.transport.get_write_buffer_size()
        await super().send(message)
        if message["type"] == "websocket.accept":
            del self.request, self.response  # the handshake, of which nothing is read again
            if not self.read_paused:
                self.transport.resume_reading()
        if self.close_sent:  # also after a refusal, for which uvicorn would log an error
            self.handshake_complete = True
        self._rate.add(max(0, self.transport.get_write_buffer_size() - before))
        self._let_senders_wait()

    async def receive(self) -> ASGIReceiveEvent:
        """Return the next message, of several that wait one in each turn of the event loop."""
        if not self.queue.empty():
            await asyncio.sleep(0)
        return await super().receive()

    def handle_text(self, event: Frame) -> None:
        """A message begins."""
        if event.fin or self._is_permitted(event):
            super().handle_text(event)

    def _pass_chunks(self, accept: ChunkAcceptor) -> None:
        """Pass binary messages to `accept` from now on, unless earlier messages wait."""
        self._accept_chunk = accept

    def handle_bytes(self, event: Frame) -> None:
        """A message begins."""
        if event.fin or self._is_permitted(event):
            super().handle_bytes(event)

    def _is_accepted(self, message: bytes) -> bool:
        """Pass a binary message on if nothing before it waits, not even a part of a message."""
        accept = self._accept_chunk
        if accept is None or self.frames or self.close_sent or not self.queue.empty():
            return False
        return accept(message)

    def handle_cont(self, event: Frame) -> None:
        """A message goes on."""
        if self._is_permitted(event):
            super().handle_cont(event)

    def handle_pong(self, event: Frame) -> None:
        """The peer answers a ping."""
        if self._is_permitted(event):
            super().handle_pong(event)

    def handle_ping(self) -> None:
        """Answer a ping, unless the peer takes no answers."""
        if not self._is_permitted():
            return
        if self.transport.get_write_buffer_size() > UNSENT_BYTES_MAX:
            self.transport.abort()
            return
        super().handle_ping()

    def keepalive_timeout(self) -> None:
        """The peer has not answered a ping: nothing that is written would arrive."""
        super().keepalive_timeout()
        self.transport.abort()

    def _is_permitted(self, fragment: Frame | None = None) -> bool:
        """Count a frame that carries little; close the connection if there are too many.

        Args:
            fragment: A fragment of a message, or a pong; none for a ping.
        """
        if self.close_sent:
            return False
        now_s = self.loop.time()
        if now_s - self._small_since_s >= 1:
            self._small_since_s, self._small = now_s, 0
        if fragment is None or len(fragment.data) < SMALL_BYTES:
            self._small += 1
        if self._small <= SMALL_FRAMES_S_MAX and len(self.frames) < FRAGMENTS_MAX:
            return True
        self.frames = []
        self.conn.fail(Close.TOO_MANY_FRAMES, Close.TOO_MANY_FRAMES.name)
        self.handle_parser_exception()
        return False

    def _let_senders_wait(self) -> None:
        if self.transport.get_write_buffer_size() > UNSENT_BYTES:
            self.writable.clear()


def abort_of(scope: Any) -> Callable[[], None]:
    """Return the function that aborts the connection of a request."""
    return cast("Callable[[], None]", scope["state"][_ABORT])


async def end_with_client(receive: Receive, tasks: anyio.CancelScope) -> None:
    """Cancel the tasks of a streamed reply when its client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
    tasks.cancel()


def all_sent_of(scope: Any) -> Callable[[], Awaitable[None]]:
    """Return the function that waits until everything written is sent, or the peer is gone."""
    return cast("Callable[[], Awaitable[None]]", scope["state"][_ALL_SENT])


def own_connection(scope: Any, owner: str) -> None:
    """Count the connection of a request for an owner. Raises TooManyConnections, TooManySockets."""
    scope["state"][_OWN](owner)


def pass_chunks(scope: Any, accept: ChunkAcceptor) -> None:
    """Pass the binary messages of a socket to `accept` from now on.

    A message of one frame and 126 to 65,535 bytes reaches it in the callback that reads the frame,
    without a queue or a task. It must not raise. Messages that it does not accept, and all others,
    are received in order, as text is.
    """
    cast("Callable[[ChunkAcceptor], None]", scope["state"][_PASS_CHUNKS])(accept)
