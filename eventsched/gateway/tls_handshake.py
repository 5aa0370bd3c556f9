"""The TLS handshake of a connection, which counts like every other connection without a token.

Owns: the start of TLS on an accepted connection, the time for its handshake.
Never does: serve. Read next: server.py (the caller), connection_limits.py.

A server of asyncio with a TLS context makes a connection known only after its handshake, so that
peers which never finish one are in no count. So a gateway accepts without TLS, counts, and starts
TLS then. The next protocol gets the transport below TLS, too, whose buffer TLS does not report
(send_queue.py).

A client sends the first bytes of TLS at once. `start_tls` does not see bytes that were read before
it, and neither loop promises that nothing is: uvloop starts to read after `connection_made`, also
if that has paused reading. So such bytes are collected and given to TLS. All others reach TLS in
slices (tls_slices.py).
"""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop, BaseTransport, BufferedProtocol, Transport
from collections.abc import Callable
from contextlib import suppress
from ssl import SSLContext
from typing import cast

from eventsched.gateway.connection_limits import ConnectionLimits
from eventsched.gateway.parse_turns import ParseTurns
from eventsched.gateway.tls_slices import TlsSlices


class TlsHandshake(asyncio.Protocol):
    """One connection until its handshake is done.

    Args:
        context: The TLS context.
        seconds: How long the handshake may take.
        make_protocol: Makes the protocol that goes on with the connection, of which it gets what is
            below TLS.
        turns: The other connections of the gateway.
        limits: The connections of the gateway.
        active: The handshakes of the gateway; this one is in it while it goes on.
    """

    def __init__(
        self,
        context: SSLContext,
        seconds: float,
        make_protocol: Callable[[TlsSlices], asyncio.Protocol],
        turns: ParseTurns,
        limits: ConnectionLimits,
        active: set[TlsHandshake],
    ) -> None:
        self._context = context
        self._seconds = seconds
        self._make_protocol = make_protocol
        self._turns = turns
        self._limits = limits
        self._active = active
        self._raw: Transport | None = None
        self._slices: TlsSlices
        self._received: list[bytes] = []
        """What arrived before TLS started, or after the handshake and before the next protocol."""
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        """Count the connection and start its handshake."""
        raw = cast("Transport", transport)
        raw.set_write_buffer_limits(high=1)  # a piece that is not sent blocks TLS
        self._limits.add(raw)
        self._raw = raw
        self._active.add(self)
        self._task = asyncio.create_task(self._run(raw))

    def data_received(self, data: bytes) -> None:
        """Collect bytes for TLS, or for the next protocol."""
        self._received.append(data)

    def abort(self) -> None:
        """End the connection."""
        if self._raw is not None:
            self._raw.abort()

    async def _run(self, raw: Transport) -> None:
        secured = None
        try:
            with suppress(OSError):  # also errors of TLS, and the end of the time
                secured = await self._secure(raw)
        finally:
            self._limits.remove(raw)
            self._active.discard(self)
            if secured is None or secured.is_closing():
                raw.abort()
        if secured is None or secured.is_closing():
            return
        protocol = self._make_protocol(self._slices)
        self._slices.peer = protocol
        secured.set_protocol(protocol)
        protocol.connection_made(secured)
        if received := self._take_received():
            protocol.data_received(received)

    async def _secure(self, raw: Transport) -> Transport | None:
        """Return the transport with TLS after the handshake; None: the connection has ended."""
        if raw.is_closing():
            return None
        loop = asyncio.get_running_loop()
        # `start_tls` sets its protocol at once and schedules its start, which comes after this.
        loop.call_soon(self._slice, raw, loop)
        return await loop.start_tls(
            raw, self, self._context, server_side=True, ssl_handshake_timeout=self._seconds
        )

    def _slice(self, raw: Transport, loop: AbstractEventLoop) -> None:
        """Let TLS get what is received in slices, first what has arrived before it."""
        tls = cast("BufferedProtocol", raw.get_protocol())
        self._slices = TlsSlices(tls, raw, self._turns, loop)
        raw.set_protocol(self._slices)
        if received := self._take_received():
            self._slices.data_received(received)

    def _take_received(self) -> bytes:
        received = b"".join(self._received)
        self._received.clear()
        return received
